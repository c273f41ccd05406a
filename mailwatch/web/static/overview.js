"use strict";
// The list follows the search, the tabs and the cards at once, without loading the page, and the pointer names days.
// Without it each of them is a link or a form that loads the page.
(() => {
  const main = document.querySelector("main");
  const WAIT = 150;
  document.documentElement.classList.add("quick");
  let latest = 0, waiting = null, search = location.search;

  // The parts that depend on the address; the search field stays as it is while it has the focus.
  const PARTS = [".strip", ".tabs", "#found"];
  const show = async (url, push) => {
    const number = ++latest;
    const answer = await fetch(url, { cache: "no-store" });
    if (!answer.ok || number !== latest) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (number !== latest) return;
    const at = document.activeElement, href = at.closest?.("[data-swap]") ? at.textContent : null;
    for (const part of PARTS) {
      const mine = main.querySelector(part), theirs = fresh.querySelector(part);
      const open = mine?.querySelector("details")?.open;
      if (mine && theirs) mine.replaceWith(document.adoptNode(theirs));
      if (open) theirs.querySelector("details")?.setAttribute("open", "");
    }
    const form = main.querySelector("form[data-swap]"), other = fresh.querySelector("form[data-swap]");
    for (const old of form.querySelectorAll("[type=hidden]")) old.remove();
    form.append(...other.querySelectorAll("[type=hidden]"));
    const field = form.elements.q;
    if (document.activeElement !== field) field.value = other.elements.q.value;
    if (href) [...main.querySelectorAll("a[data-swap]")].find((one) => one.textContent === href)?.focus({ preventScroll: true });
    history[push ? "pushState" : "replaceState"](null, "", url);
    search = location.search;
    document.dispatchEvent(new CustomEvent("swapped"));
  };
  const or = (url, push) => show(url, push).catch(() => location.assign(url));

  main.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-swap]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    or(link.href, !link.hasAttribute("aria-expanded"));
    if (link.rel) main.querySelector("#found").scrollIntoView();
  });
  const asked = (form) => {
    const fields = [...new FormData(form)].filter(([, text]) => text);
    return `${location.pathname}?${new URLSearchParams(fields)}`;
  };
  main.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-swap]");
    if (!form) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => or(asked(form), false), WAIT);
  });
  main.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-swap]")) return;
    event.preventDefault();
    clearTimeout(waiting);
    or(asked(event.target), true);
  });
  // Not for a jump within the page.
  addEventListener("popstate", () => { if (location.search !== search) location.reload(); });
  addEventListener("keydown", (event) => {
    const field = document.getElementById("q");
    if (event.key !== "/" || !field || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    field.focus();
  });

  // "u44 d1.3600 u45": a state, its days, and of a day that was down its seconds.
  const NAMES = { u: "up", d: "down", k: "unknown", m: "maintenance", n: "nodata" };
  const label = document.createElement("div");
  label.id = "day";
  label.hidden = true;
  label.setAttribute("aria-hidden", "true");
  document.body.append(label);
  const lang = document.documentElement.lang;
  const date = new Intl.DateTimeFormat(lang === "it" ? "it" : "en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const length = (seconds) => {
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  };
  main.addEventListener("pointermove", (event) => {
    const bars = event.target.closest("svg.bars[data-days]");
    if (!bars) return void (label.hidden = true);
    const box = bars.getBoundingClientRect();
    const days = [];
    for (const part of bars.dataset.days.split(" ")) {
      const [count, seconds] = part.slice(1).split(".").map(Number);
      for (let n = 0; n < count; n++) days.push([NAMES[part[0]], seconds]);
    }
    const place = Math.min(days.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * days.length)));
    const [state, seconds] = days[place];
    const words = main.querySelector("[data-states]")?.dataset;
    const day = new Date(Date.now() - (days.length - 1 - place) * 86400000);
    label.textContent = `${date.format(day)}: ${words?.[state] ?? state}${seconds ? ` ${length(seconds)}` : ""}`;
    label.hidden = false;
    // The policy allows no style attributes, but the style object.
    const left = Math.min(innerWidth - label.offsetWidth - 8, Math.max(8, event.clientX - label.offsetWidth / 2));
    label.style.left = `${left + scrollX}px`;
    label.style.top = `${box.top + scrollY - label.offsetHeight - 6}px`;
  });
  main.addEventListener("pointerleave", () => { label.hidden = true; });
})();
