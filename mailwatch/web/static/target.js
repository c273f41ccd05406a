"use strict";
// The crosshair of the chart of response times: the figures of a moment beside the pointer, or by the arrow keys.
// Without it each column has them as its title, and the table has them all.
(() => {
  let shown = null;

  const box = (chart) => {
    let found = chart.querySelector(".values");
    if (!found) {
      found = document.createElement("div");
      found.className = "values";
      found.setAttribute("role", "status");
      chart.append(found);
    }
    return found;
  };

  const columns = (chart) => [...chart.querySelectorAll(".columns rect")];

  // The browser would show a title of its own on top.
  const textOf = (column) => {
    const title = column.querySelector("title");
    if (title) {
      column.dataset.text = title.textContent.trim();
      title.remove();
    }
    return column.dataset.text;
  };

  const swatchOf = (chart, label) =>
    [...chart.querySelectorAll(".key li")].find((one) => one.textContent.trim() === label)?.querySelector("svg");

  const row = (chart, line) => {
    const made = document.createElement("p"), at = line.lastIndexOf(": ");
    const [label, value] = at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 2)];
    const swatch = swatchOf(chart, label);
    const name = document.createElement("span");
    if (swatch) name.append(swatch.cloneNode(true));
    name.append(label);
    made.append(name);
    if (value) {
      const figure = document.createElement("b");
      figure.textContent = value;
      made.append(figure);
    }
    return made;
  };

  const show = (chart, column) => {
    const values = box(chart);
    if (column === shown && !values.hidden) return;
    shown?.classList.remove("chosen");
    shown = column;
    column.classList.add("chosen");
    const [time, ...lines] = textOf(column).split("\n").map((line) => line.trim()).filter(Boolean);
    const head = document.createElement("p");
    head.className = "head";
    head.textContent = time;
    values.replaceChildren(head, ...lines.map((line) => row(chart, line)));
    values.hidden = false;
    const whole = chart.getBoundingClientRect(), own = column.getBoundingClientRect();
    const left = own.left - whole.left + own.width, width = values.offsetWidth;
    // On the side of the pointer where there is room.
    values.style.left = `${left + width + 12 < whole.width ? left + 12 : Math.max(0, left - own.width - width - 12)}px`;
  };

  const hide = (chart) => {
    shown?.classList.remove("chosen");
    shown = null;
    const values = chart?.querySelector(".values");
    if (values) values.hidden = true;
  };

  const under = (event) => {
    const chart = event.target.closest?.("#chart");
    const column = chart && event.target.closest(".columns rect");
    return [chart, column];
  };

  document.addEventListener("pointermove", (event) => {
    const [chart, column] = under(event);
    if (column) show(chart, column);
  });
  document.addEventListener("pointerdown", (event) => {
    const [chart, column] = under(event);
    if (column) show(chart, column);
    else hide(document.getElementById("chart"));
  });
  document.addEventListener("pointerout", (event) => {
    const chart = event.target.closest?.("#chart");
    if (chart && event.pointerType === "mouse" && !chart.querySelector(".plot").contains(event.relatedTarget)) hide(chart);
  });
  document.addEventListener("focusout", (event) => {
    if (event.target.id === "chart") hide(event.target);
  });
  document.addEventListener("keydown", (event) => {
    const chart = event.target;
    if (chart.id !== "chart") return;
    const all = columns(chart), at = all.indexOf(shown);
    const to = { ArrowLeft: at < 0 ? all.length - 1 : at - 1, ArrowRight: at < 0 ? 0 : at + 1, Home: 0,
      End: all.length - 1 }[event.key];
    if (event.key === "Escape") return hide(chart);
    if (to === undefined) return;
    event.preventDefault();
    show(chart, all[Math.min(Math.max(to, 0), all.length - 1)]);
  });

  // What was not read in time is, a moment later.
  const AGAIN = 2000;
  const readOn = async () => {
    if (document.getElementById("reading")) {
      const answer = await fetch(location.href, { cache: "no-store" }).catch(() => null);
      if (answer?.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("response-times");
        if (fresh) document.getElementById("response-times")?.replaceWith(document.adoptNode(fresh));
        document.dispatchEvent(new CustomEvent("swapped"));
        reachable();
      }
    }
    if (document.getElementById("reading")) setTimeout(readOn, AGAIN);
  };
  setTimeout(readOn, AGAIN);

  // Only who has the crosshair needs to reach the chart by the keyboard.
  const reachable = () => document.getElementById("chart")?.setAttribute("tabindex", "0");
  reachable();
  new MutationObserver(reachable).observe(document.querySelector("main"), { childList: true });
})();
