"use strict";
// Times in the viewer's zone, the page anew when something changed, and the evidence with its progress.
// Without it all is still there to read.
(() => {
  const page = document.documentElement, lang = page.lang;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  // As the server writes them, in the viewer's zone: 30 Nov 2026 16:18:30, in Italian 30/11/2026 16:18:30.
  const month = lang === "it" ? "2-digit" : "short", locale = lang === "it" ? "it" : "en-GB";
  const dates = new Intl.DateTimeFormat(locale, { day: month === "short" ? "numeric" : "2-digit", month, year: "numeric" });
  const days = new Intl.DateTimeFormat(locale, { day: month === "short" ? "numeric" : "2-digit", month });
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const times = new Intl.DateTimeFormat(locale, clock);
  const exact = new Intl.DateTimeFormat(locale, { ...clock, fractionalSecondDigits: 3 });
  const minutes = new Intl.DateTimeFormat(locale, { ...clock, second: undefined });
  const written = (at, form) => {
    const today = new Date();
    if (form === "brief" || form === "minute") {
      if (dates.format(at) === dates.format(today)) return (form === "brief" ? times : minutes).format(at);
      return at.getFullYear() === today.getFullYear() ? days.format(at) : dates.format(at);
    }
    if (form === "clock") return times.format(at);
    if (form === "date-minute") return `${days.format(at)} ${minutes.format(at)}`;
    if (form === "hour") return minutes.format(at);
    if (form === "long-minute") return `${dates.format(at)} ${minutes.format(at)}`;
    return `${dates.format(at)} ${(form === "exact" ? exact : times).format(at)}`;
  };
  // From a moment for so many milliseconds.
  const stretch = (from, length) => {
    const to = new Date(from.getTime() + length), form = dates.format(from) === dates.format(to) ? "hour" : "long-minute";
    return `${written(from, "long-minute")}–${written(to, form)}`.replaceAll(" ", "\u00a0");
  };
  const localTimes = (root) => {
    if (zone === page.dataset.zone) return;
    const moment = (time) => new Date(time.dateTime || time.dataset.at);
    // The marks of an outage on one day there may be on two here.
    const marks = [...root.querySelectorAll("[data-form=clock]")].map(moment).filter((at) => !isNaN(at));
    const clockForm = new Set(marks.map((at) => dates.format(at))).size > 1 ? "date-minute" : "clock";
    for (const time of root.querySelectorAll("time[datetime], [data-at]")) {
      const at = moment(time), form = time.dataset.form === "clock" ? clockForm : time.dataset.form;
      if (!isNaN(at)) time.textContent = written(at, form).replaceAll(" ", "\u00a0");
    }
    // A stretch is a text of its own, or the first line of a title.
    for (const one of root.querySelectorAll("[data-from]")) {
      const title = one.querySelector("title"), length = one.dataset.length || one.parentElement.dataset.length;
      const words = stretch(new Date(Number(one.dataset.from)), Number(length));
      if (title) title.textContent = title.textContent.trim().replace(/^.*/, words);
      else if (one.localName !== "rect") one.textContent = words;
    }
  };
  const named = document.getElementById("zone");
  if (named && zone !== page.dataset.zone) {
    const offset = new Intl.DateTimeFormat("en", { timeZoneName: "shortOffset" }).formatToParts(new Date())
      .find((part) => part.type === "timeZoneName").value;
    const own = zone === "UTC" ? zone : `${zone} (${offset.replace("GMT", "UTC")})`;
    named.textContent = named.dataset.own.replace("{own}", own);
  }
  localTimes(document);
  document.addEventListener("swapped", () => localTimes(document));

  // The theme at once; the server keeps it.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-to]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const theme = link.dataset.to;
    if (theme === "auto") delete page.dataset.theme;
    else page.dataset.theme = theme;
    for (const one of document.querySelectorAll("a[data-to]")) {
      if (one.dataset.to === theme) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
    fetch(link.href, { cache: "no-store" });
  });

  // A link, copied by a button: also by one of a page that came later.
  const showCopying = (root) => {
    if (!navigator.clipboard) return;
    for (const one of root.querySelectorAll("[data-copy]")) one.hidden = false;
  };
  showCopying(document);
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button || !navigator.clipboard) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).href);
    button.textContent = button.dataset.done;
  });

  const main = document.querySelector("main");
  let busy = false;
  main.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-making]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (busy) return;
    busy = true;
    const message = document.getElementById("making"), bar = document.getElementById("progress");
    message.textContent = link.dataset.making;
    bar.hidden = false;
    try {
      const answer = await fetch(link.href);
      if (!answer.ok) throw new Error((await answer.json()).detail);
      const file = document.createElement("a");
      file.href = URL.createObjectURL(await answer.blob());
      const named = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "");
      file.download = named ? named[1] : link.download;
      file.click();
      setTimeout(() => URL.revokeObjectURL(file.href), 60000);
      message.textContent = link.dataset.made;
    } catch (error) {
      message.textContent = `${link.dataset.failed} ${error.message}`;
    }
    bar.hidden = true;
    busy = false;
  });

  const status = document.getElementById("live");
  if (!status || !window.EventSource) return;
  const pause = document.getElementById("pause");
  const PATIENCE = 5000;
  let pulse = status.dataset.pulse, stream = null, waiting = null, last = Date.now();
  const say = (what) => {
    if (status.textContent !== status.dataset[what]) status.textContent = status.dataset[what];
    status.parentElement.dataset.state = what;
    // Only what changes later is news to a screen reader.
    status.setAttribute("role", "status");
  };

  // What a visitor fills in, marks or waits for is not taken away.
  const held = () => {
    const at = document.activeElement, marked = getSelection();
    return busy || (main.contains(at) && at.closest("form:not([data-swap])")) ||
      (!marked.isCollapsed && main.contains(marked.anchorNode));
  };
  const kept = (root) => [...root.querySelectorAll("details[data-keep]")];
  // The same link or heading of a list, in the new page.
  const key = (at) => at.parentElement?.dataset.keep || at.getAttribute("href") || at.getAttribute("aria-label");
  const renew = async () => {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const renewed = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (held()) return later();
    const fresh = renewed.querySelector("main"), at = document.activeElement;
    const open = new Set(kept(main).filter((one) => one.open).map((one) => one.dataset.keep));
    for (const one of kept(fresh)) one.open = open.has(one.dataset.keep);
    const name = main.contains(at) && at !== main ? key(at) : null;
    localTimes(fresh);
    showCopying(fresh);
    // The search field itself moves to the new page, with what is typed in it.
    const field = at.matches("form[data-swap] input") ? at : null, theirs = field && fresh.querySelector(`#${field.id}`);
    const marks = field && [field.selectionStart, field.selectionEnd];
    theirs?.replaceWith(field);
    main.replaceChildren(...fresh.childNodes);
    if (theirs) {
      field.focus({ preventScroll: true });
      field.setSelectionRange(...marks);
    }
    document.title = renewed.title;
    if (name && !theirs) [...main.querySelectorAll(at.localName)].find((one) => key(one) === name)?.focus({ preventScroll: true });
    if (stream.readyState === EventSource.OPEN) say("on");
    // The overview is drawn once for all who ask at about the same time, and may be a little old.
    const drawn = renewed.getElementById("live")?.dataset.pulse;
    if (drawn && drawn !== pulse) later();
  };
  const later = () => {
    if (waiting) return;
    waiting = setTimeout(() => {
      waiting = null;
      if (paused()) return;
      if (held()) { say("held"); return later(); }
      last = Date.now();
      renew().catch(() => say("off"));
    }, Math.max(500, last + PATIENCE - Date.now()));
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
