"use strict";
// The plots are drawn in the light page's colours; a dark page swaps each for its counterpart.
(function () {
  const source = document.getElementById("figures");
  if (!source || typeof Plotly === "undefined") return;
  const { dark, figures } = JSON.parse(source.textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true };
  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      let text = JSON.stringify(figure);
      if (scheme.matches) text = text.replace(/#[0-9a-f]{6}/g, (color) => dark[color] || color);
      const { data, layout } = JSON.parse(text);
      Plotly.react(`plot-${name}`, data, layout, config);
    }
  }
  draw();
  for (const folded of document.querySelectorAll("details")) {
    folded.addEventListener("toggle", () => {
      for (const plot of folded.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(plot);
    });
  }
  scheme.addEventListener("change", draw);
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
