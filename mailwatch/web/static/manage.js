"use strict";
// The progress of a search or a login test as it happens; the browser's time zone as a suggestion.
// Without it the page loads itself anew, and the zone is that of the machine.
(() => {
  const live = document.getElementById("progress-live");
  if (live) {
    const next = () => location.replace(location.pathname + location.search);
    const events = new EventSource(live.dataset.events);
    let failures = 0;
    events.addEventListener("progress", (event) => {
      failures = 0;
      // A piece of our own page, rendered by the server.
      live.innerHTML = JSON.parse(event.data);
    });
    events.addEventListener("next", () => {
      events.close();
      next();
    });
    events.addEventListener("error", () => {
      failures += 1;
      if (failures > 2 || events.readyState === EventSource.CLOSED) {
        events.close();
        setTimeout(next, 2000);
      }
    });
    addEventListener("pagehide", () => events.close());
  }
  const zone = document.getElementById("timezone"), own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  // The first time it is a suggestion; what was set stays, and the device's is named beside it.
  if (zone && own && !zone.closest(".bad") && document.querySelector("#zones[data-suggest]")) {
    if ([...document.querySelectorAll("#zones option")].some((option) => option.value === own)) zone.value = own;
  }
  const beside = document.getElementById("own-zone");
  if (beside && own && zone.value !== own) {
    beside.textContent = beside.dataset.text.replace("{zone}", own);
    beside.hidden = false;
  }
})();
