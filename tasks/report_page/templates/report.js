"use strict";
// The plots are drawn in the light page's colours; a dark page swaps each for its counterpart.
(function () {
  const source = document.getElementById("figures");
  if (!source || typeof Plotly === "undefined") return;
  const { dark, figures } = JSON.parse(source.textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true };
  const place = (name) => document.getElementById(`plot-${name}`);
  const drawn = new Set();
  function draw(name) {
    let text = JSON.stringify(figures[name]);
    if (scheme.matches) text = text.replace(/#[0-9a-f]{6}/g, (color) => dark[color] || color);
    const { data, layout } = JSON.parse(text);
    Plotly.react(place(name), data, layout, config);
    drawn.add(name);
  }
  // A plot is drawn when it comes near: the page opens at once, however many it holds.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target.id.slice("plot-".length));
    }
  }, { rootMargin: "600px" });
  for (const name of Object.keys(figures)) near.observe(place(name));
  window.addEventListener("beforeprint", () => {
    for (const name of Object.keys(figures)) if (!drawn.has(name)) draw(name);
  });
  scheme.addEventListener("change", () => drawn.forEach(draw));
})();
(function () {
  const box = document.getElementById("filter");
  if (!box) return;
  const rows = [...document.querySelectorAll(".settings tr[data-row]")];
  const count = document.getElementById("filter-count");
  function apply() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    for (const body of document.querySelectorAll(".settings tbody")) {
      body.hidden = !body.querySelector("tr[data-row]:not([hidden])");
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : `${rows.length} settings`;
  }
  box.closest(".filter").hidden = false;
  box.addEventListener("input", apply);
  apply();
})();
