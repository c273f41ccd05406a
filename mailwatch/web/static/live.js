"use strict";
// Times in the viewer's zone, and the page anew when something changed. Without it all is still there to read.
(() => {
  const lang = document.documentElement.lang;
  // The page's language as the viewer writes it: en-GB has the day before the month.
  const written = navigator.languages.find((one) => one.split("-")[0] === lang) || lang;
  const own = new Intl.DateTimeFormat(written, { dateStyle: "medium", timeStyle: "medium" });
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (isNaN(at) || time.querySelector(".own")) continue;
      const text = document.createElement("span");
      text.className = "own";
      text.textContent = own.format(at) + " " + Intl.DateTimeFormat().resolvedOptions().timeZone;
      time.append(text);
    }
  };
  localTimes(document);
  for (const link of document.querySelectorAll("[data-says]")) {
    link.addEventListener("click", () => { document.getElementById("making").textContent = link.dataset.says; });
  }
  const status = document.getElementById("live");
  if (!status || !window.EventSource) return;
  const say = (on) => { status.textContent = on ? status.dataset.on : status.dataset.off; };
  const renew = async () => {
    const main = document.querySelector("main");
    // What somebody is reading or filling in is not taken away.
    if (main.contains(document.activeElement) && document.activeElement !== main) return;
    if (main.querySelector("details[open]")) return;
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("main");
    localTimes(fresh);
    main.replaceChildren(...fresh.childNodes);
    document.title = page.title;
  };
  const stream = new EventSource(status.dataset.stream);
  stream.addEventListener("open", () => say(true));
  stream.addEventListener("error", () => say(false));
  stream.addEventListener("changed", () => { renew().catch(() => say(false)); });
})();
