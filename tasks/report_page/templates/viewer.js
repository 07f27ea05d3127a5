"use strict";
// The tree viewer: choose an iteration and a prompt, see the tree, read a trajectory.
// A segment is as long as its tokens and as high as the trajectories through it.
(function () {
  const section = document.getElementById("trees");
  const sources = [...document.querySelectorAll("script.trees")];
  if (!section || !sources.length) return;
  const part = (name) => section.querySelector(`[data-part="${name}"]`);
  const LEAF = 20, MARGIN = 1, MARKS = 118, SVG = "http://www.w3.org/2000/svg";
  const MEANINGS = {
    advantage: "mean advantage of the trajectories through the segment",
    reward: "mean reward of the trajectories through the segment",
    logprob: "mean log-probability of the segment's tokens [nats]",
  };
  const loaded = new Map();
  const state = { tree: null, node: null, leaf: null };

  function load(index) {
    if (!loaded.has(index)) loaded.set(index, JSON.parse(sources[index].textContent));
    return loaded.get(index);
  }

  // What follows from a tree's columns: children, leaves below, place of each node.
  function arrange({ prompt_id, gold, nodes }) {
    const count = nodes.parent.length;
    const children = Array.from({ length: count }, () => []);
    for (let node = 1; node < count; node += 1) children[nodes.parent[node]].push(node);
    const leaves = new Array(count).fill(0), reward = new Array(count).fill(0);
    for (let node = count - 1; node >= 0; node -= 1) {
      if (nodes.finish[node] !== null) { leaves[node] = 1; reward[node] = nodes.reward[node] || 0; }
      if (node) {
        leaves[nodes.parent[node]] += leaves[node];
        reward[nodes.parent[node]] += reward[node];
      }
    }
    const top = new Array(count).fill(0), filled = new Array(count).fill(0);
    for (let node = 1; node < count; node += 1) {
      const above = nodes.parent[node];
      top[node] = top[above] + filled[above];
      filled[above] += leaves[node];
    }
    const mean = reward.map((sum, node) => (leaves[node] ? sum / leaves[node] : 0));
    const values = { advantage: nodes.advantage, logprob: nodes.logprob, reward: mean };
    return { prompt_id, gold, nodes, children, leaves, top, values, count };
  }

  // The colour of every node: two-sided where values have signs, one-sided else.
  function colours(tree, kind) {
    const values = tree.values[kind];
    const known = values.filter((value, node) => node && value !== null);
    const low = Math.min(0, ...known), high = Math.max(0, ...known);
    const extent = kind === "reward" ? Math.max(1, high) : Math.max(-low, high);
    const tone = (value) => {
      if (value === null || !extent) return "var(--none)";
      const strong = kind === "reward" ? "--right" : value > 0 ? "--high" : "--low";
      const share = Math.min(100, (100 * Math.abs(value)) / extent).toFixed(1);
      return `color-mix(in oklab, var(${strong}) ${share}%, var(--none))`;
    };
    return { tone: values.map(tone), low, high, extent };
  }

  const write = (value, digits = 2) =>
    value === null ? "–" : value.toFixed(digits).replace("-", "−");

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function draw() {
    const { tree } = state;
    const kind = part("colour").value;
    const { tone, low, high } = colours(tree, kind);
    const { nodes } = tree;
    const width = Math.max(480, part("canvas").clientWidth);
    const first = nodes.end[0], last = Math.max(...nodes.end);
    const scale = (width - MARKS) / Math.max(1, last - first);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", width);
    svg.setAttribute("height", tree.leaves[0] * LEAF + 1);
    for (let node = 1; node < tree.count; node += 1) {
      const x = (nodes.start[node] - first) * scale, y = tree.top[node] * LEAF;
      const w = Math.max(2, (nodes.end[node] - nodes.start[node]) * scale - MARGIN);
      const h = tree.leaves[node] * LEAF - MARGIN;
      const group = element("g", { "data-node": node, class: "node", tabindex: 0 }, svg);
      const box = element("rect", { x, y, width: w, height: h, rx: 2 }, group);
      box.style.fill = tone[node];
      if (nodes.restarted[node]) {
        element("rect", { x, y, width: Math.min(4, w), height: h, class: "restart" }, group);
      }
      const room = Math.floor((w - 8) / 6.4);
      if (room > 1) {
        const line = nodes.text[node].replace(/\s+/g, " ").slice(0, room);
        element("text", { x: x + 7, y: y + h / 2 + 4 }, group, line);
      }
      if (nodes.finish[node] !== null) {
        const right = (nodes.reward[node] || 0) > 0;
        const mark = element("text", { x: x + w + 6, y: y + h / 2 + 4,
          class: right ? "end hit" : "end" }, group, right ? "✓ " : "✗ ");
        element("tspan", { class: "why" }, mark, nodes.finish[node]);
      }
    }
    part("canvas").replaceChildren(svg);
    part("low").textContent = write(low);
    part("high").textContent = write(high);
    part("scale").className = kind;
    part("meaning").textContent = MEANINGS[kind];
    highlight();
  }

  function pathOf(node) {
    const path = [];
    for (let at = node; at > 0; at = state.tree.nodes.parent[at]) path.unshift(at);
    return path;
  }

  function leavesBelow(node) {
    const found = [], stack = [node];
    while (stack.length) {
      const at = stack.pop();
      if (state.tree.nodes.finish[at] !== null) found.push(at);
      stack.push(...[...state.tree.children[at]].reverse());
    }
    return found;
  }

  function highlight() {
    const path = new Set(state.leaf === null ? [] : pathOf(state.leaf));
    for (const group of part("canvas").querySelectorAll(".node")) {
      const node = Number(group.dataset.node);
      group.classList.toggle("on", path.has(node));
      group.classList.toggle("picked", node === state.node);
    }
  }

  // The whole trajectory through the chosen segment, each segment with its own numbers.
  function read() {
    const { tree, node, leaf } = state;
    const panel = part("reader");
    panel.hidden = leaf === null;
    if (leaf === null) return;
    const { nodes } = tree;
    const below = leavesBelow(node);
    part("which").textContent = below.length > 1
      ? `trajectory ${below.indexOf(leaf) + 1} of ${below.length} through this segment`
      : "the trajectory through this segment";
    part("previous").disabled = part("next").disabled = below.length < 2;
    part("outcome").textContent =
      `reward ${write(nodes.reward[leaf])}, ended by ${nodes.finish[leaf]}, ` +
      `${nodes.end[leaf] - nodes.end[0]} tokens`;
    const { tone } = colours(tree, part("colour").value);
    part("text").replaceChildren(...pathOf(leaf).map((at) => {
      const span = document.createElement("span");
      span.textContent = nodes.text[at];
      span.title = numbers(at).join("\n");
      span.style.setProperty("--tone", tone[at]);
      span.className = at === node ? "segment picked" : "segment";
      return span;
    }));
  }

  function numbers(node) {
    const { nodes, values, leaves } = state.tree;
    const lines = [
      `advantage ${write(nodes.advantage[node])}`,
      `logprob ${write(nodes.logprob[node])}`,
      `reward ${write(values.reward[node])}`,
      `${leaves[node]} trajector${leaves[node] === 1 ? "y" : "ies"}, ` +
        `${nodes.end[node] - nodes.start[node]} tokens`,
    ];
    if (nodes.restarted[node]) lines.push("begun by a fallback");
    if (nodes.finish[node] !== null) lines.push(`ended by ${nodes.finish[node]}`);
    return lines;
  }

  function pick(node) {
    const below = leavesBelow(node);
    const best = below.find((leaf) => (state.tree.nodes.reward[leaf] || 0) > 0);
    state.node = node;
    state.leaf = best === undefined ? below[0] : best;
    highlight();
    read();
  }

  function turn(by) {
    const below = leavesBelow(state.node);
    const at = below.indexOf(state.leaf) + by + below.length;
    state.leaf = below[at % below.length];
    highlight();
    read();
  }

  function hover(event) {
    const tip = part("tip");
    const group = event.target.closest ? event.target.closest(".node") : null;
    tip.hidden = !group;
    if (!group) return;
    const node = Number(group.dataset.node);
    const text = state.tree.nodes.text[node];
    tip.textContent = `${numbers(node).join(" · ")}\n${text.slice(0, 600)}${text.length > 600 ? "…" : ""}`;
    const place = part("stage").getBoundingClientRect();
    const x = Math.min(event.clientX - place.left + 14, place.width - 380);
    tip.style.left = `${Math.max(0, x)}px`;
    tip.style.top = `${event.clientY - place.top + 18}px`;
  }

  function choose() {
    const shown = load(part("iteration").selectedIndex);
    state.tree = arrange(shown.trees[part("prompt").selectedIndex]);
    state.node = state.leaf = null;
    part("question").textContent = state.tree.nodes.text[0];
    part("gold").textContent = state.tree.gold;
    draw();
    read();
  }

  function listPrompts() {
    const shown = load(part("iteration").selectedIndex);
    part("prompt").replaceChildren(...shown.trees.map(({ prompt_id, nodes }) => {
      const ends = nodes.finish.flatMap((finish, node) => (finish === null ? [] : [node]));
      const right = ends.filter((node) => (nodes.reward[node] || 0) > 0).length;
      const option = document.createElement("option");
      option.textContent = `${prompt_id}: ${right} of ${ends.length} rewarded`;
      return option;
    }));
    part("held").textContent = `${shown.trees.length} of ${shown.sampled} trees`;
    choose();
  }

  part("iteration").addEventListener("change", listPrompts);
  part("prompt").addEventListener("change", choose);
  part("colour").addEventListener("change", () => { draw(); read(); });
  part("previous").addEventListener("click", () => turn(-1));
  part("next").addEventListener("click", () => turn(1));
  part("canvas").addEventListener("mousemove", hover);
  part("canvas").addEventListener("mouseleave", () => { part("tip").hidden = true; });
  const picked = (event) => {
    const group = event.target.closest(".node");
    if (group) pick(Number(group.dataset.node));
  };
  part("canvas").addEventListener("click", picked);
  part("canvas").addEventListener("keydown", (event) => {
    if (event.key === "Enter") picked(event);
  });
  window.addEventListener("resize", draw);
  part("viewer").hidden = false;
  part("iteration").selectedIndex = sources.length - 1;
  listPrompts();
})();
