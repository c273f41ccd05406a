"use strict";
// Times in the viewer's zone, the page anew when something changed, and the evidence with its progress.
// Without it all is still there to read.
(() => {
  const lang = document.documentElement.lang;
  // The page's language as the viewer writes it: en-GB has the day before the month.
  const written = navigator.languages.find((one) => one.split("-")[0] === lang) || lang;
  const own = new Intl.DateTimeFormat(written, { dateStyle: "medium", timeStyle: "long" });
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (isNaN(at) || time.querySelector(".own")) continue;
      const [mine, utc] = ["own", "utc"].map((name) => {
        const part = document.createElement("span");
        part.className = name;
        return part;
      });
      mine.textContent = own.format(at);
      utc.append(...time.childNodes);
      time.append(mine, " ", utc);
    }
  };
  localTimes(document);

  const main = document.querySelector("main");
  let busy = false;
  main.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-making]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (busy) return;
    busy = true;
    const told = document.getElementById("making"), bar = document.getElementById("progress");
    told.textContent = link.dataset.making;
    bar.hidden = false;
    try {
      const answer = await fetch(link.href);
      if (!answer.ok) throw new Error((await answer.json()).detail);
      const file = document.createElement("a");
      file.href = URL.createObjectURL(await answer.blob());
      file.download = link.download;
      file.click();
      setTimeout(() => URL.revokeObjectURL(file.href), 60000);
      told.textContent = link.dataset.made;
    } catch (error) {
      told.textContent = `${link.dataset.failed} ${error.message}`;
    }
    bar.hidden = true;
    busy = false;
  });

  const status = document.getElementById("live");
  if (!status || !window.EventSource) return;
  const pause = document.getElementById("pause");
  const PATIENCE = 5000;
  let pulse = status.dataset.pulse, stream = null, waiting = null, renewed = Date.now();
  const say = (what) => {
    if (status.textContent !== status.dataset[what]) status.textContent = status.dataset[what];
    // Only what changes later is news to a screen reader.
    status.setAttribute("role", "status");
  };

  // What somebody fills in, marks or waits for is not taken away.
  const held = () => {
    const at = document.activeElement, marked = getSelection();
    return busy || (main.contains(at) && at.closest("form")) ||
      (!marked.isCollapsed && main.contains(marked.anchorNode));
  };
  const kept = (root) => [...root.querySelectorAll("details[data-keep]")];
  // The same link or heading of a list, in the new page.
  const named = (at) => at.parentElement?.dataset.keep || at.getAttribute("href") || at.getAttribute("aria-label");
  const renew = async () => {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (held()) return later();
    const fresh = page.querySelector("main"), at = document.activeElement;
    const open = new Set(kept(main).filter((one) => one.open).map((one) => one.dataset.keep));
    for (const one of kept(fresh)) one.open = open.has(one.dataset.keep);
    const name = main.contains(at) && at !== main ? named(at) : null;
    localTimes(fresh);
    main.replaceChildren(...fresh.childNodes);
    document.title = page.title;
    if (name) [...main.querySelectorAll(at.localName)].find((one) => named(one) === name)?.focus({ preventScroll: true });
    if (stream.readyState === EventSource.OPEN) say("on");
    // The overview is drawn once for all who ask at about the same time, and may be a little old.
    const drawn = page.getElementById("live")?.dataset.pulse;
    if (drawn && drawn !== pulse) later();
  };
  const later = () => {
    if (waiting) return;
    waiting = setTimeout(() => {
      waiting = null;
      if (paused()) return;
      if (held()) { say("held"); return later(); }
      renewed = Date.now();
      renew().catch(() => say("off"));
    }, Math.max(500, renewed + PATIENCE - Date.now()));
  };

  const paused = () => pause.getAttribute("aria-pressed") === "true";
  const listen = () => {
    if (paused()) return;
    stream = new EventSource(`${status.dataset.stream}?seen=${encodeURIComponent(pulse)}`);
    stream.addEventListener("open", () => say("on"));
    stream.addEventListener("changed", (event) => { pulse = event.data; later(); });
    stream.addEventListener("error", () => {
      say("off");
      // A browser goes on by itself after a lost connection, but never after an answer that is no stream.
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3 * PATIENCE);
    });
  };
  pause.hidden = false;
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", !paused());
    stream.close();
    if (!paused()) return listen();
    say("paused");
  });
  listen();
})();
