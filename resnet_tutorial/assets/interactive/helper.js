// What the figures to move share: elements, controls, plots, and a style that follows the page, light or dark.
"use strict";
window.residualFigures ??= (() => {
  const STYLE = `
.rt-figure { --rt-text: var(--pst-color-text-base, var(--jp-ui-font-color1, #222)); --rt-page: var(--pst-color-background, var(--jp-layout-color0, #fff));
  --rt-line: var(--pst-color-text-muted, var(--jp-ui-font-color2, #666)); --rt-a: #0072b2; --rt-b: #d55e00; --rt-a-soft: #cfe5f3; --rt-b-soft: #fbdcc4;
  color: var(--rt-text); font-size: 0.9rem; line-height: 1.45; margin: 0.5rem 0; }
html[data-theme="dark"] .rt-figure, [data-jp-theme-light="false"] .rt-figure { --rt-a: #56b4e9; --rt-b: #e69f00; --rt-a-soft: #14425e; --rt-b-soft: #6b3f05; }
.rt-figure p { text-align: left; }
.rt-figure .rt-panels { display: flex; flex-wrap: wrap; gap: 0.8rem 1.4rem; align-items: flex-start; }
.rt-figure .rt-panels > * { flex: 1 1 290px; max-width: 460px; min-width: 0; }
.rt-figure .rt-controls { display: flex; flex-wrap: wrap; gap: 0.35rem 1.2rem; align-items: center; margin: 0 0 0.6rem; }
.rt-figure label { display: flex; max-width: 100%; white-space: nowrap; gap: 0.5rem; align-items: center; margin: 0; font-size: 0.9rem; }
.rt-figure input[type="range"] { width: 11rem; accent-color: var(--rt-a); }
.rt-figure output { display: inline; min-width: 3.4em; padding: 0; font-variant-numeric: tabular-nums; }
.rt-figure button, .rt-figure select { padding: 0.15rem 0.6rem; border: 1px solid var(--rt-line); border-radius: 0.25rem; background: var(--rt-page); color: inherit; font: inherit; }
.rt-figure :is(button, select, input):focus-visible { outline: 3px solid var(--rt-b); outline-offset: 1px; }
.rt-figure button:disabled { opacity: 0.5; }
.rt-figure .rt-said { min-height: 1.45em; margin: 0.5rem 0 0; font-size: 0.9rem; }
.rt-figure svg { display: block; width: 100%; height: auto; overflow: visible; font: 12px sans-serif; fill: currentcolor; }
.rt-figure table { display: table; width: auto; margin: 0; border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.rt-figure :is(td, th) { padding: 0.15rem 0.5rem; border: 1px solid var(--rt-line); background: none; color: inherit; text-align: center; font-weight: 400; }
.rt-figure .rt-title { margin: 0 0 0.2rem; font-size: 0.85rem; font-weight: 600; }
.rt-figure .rt-on { background: var(--rt-a-soft); }
.rt-figure .rt-here { background: var(--rt-b-soft); font-weight: 700; }
.rt-paper { max-width: 100%; height: auto; }
@media screen { .rt-ready + .rt-paper { display: none; } }
@media print { .rt-figure { display: none; } }`;

  const SVG = "http://www.w3.org/2000/svg";

  // An element with properties, attributes (names with a hyphen, role, viewBox, ...), listeners (functions), children.
  function make(tag, given = {}, ...children) {
    const [, name, isSvg] = /^(\w+?)(@svg)?$/.exec(tag);
    const element = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(given)) {
      if (typeof value === "function") element.addEventListener(key, value);
      else if (isSvg || key.includes("-") || key === "role") element.setAttribute(key, value);
      else element[key] = value;
    }
    element.append(...children);
    return element;
  }
  const svg = (tag, given, ...children) => make(`${tag}@svg`, given, ...children);

  // A slider with its name before it and its value behind; `say` turns the number into words.
  function slider(name, { min, max, step = 1, value, say = String }, changed) {
    const shown = make("output", {}, say(value));
    const input = make("input", { type: "range", min, max, step, "aria-valuetext": say(value), input: () => update() });
    input.value = value;
    const label = make("label", {}, name, input, shown);
    function update() {
      shown.textContent = say(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
      changed();
    }
    const set = (number) => {
      input.value = number;
      update();
    };
    const limit = (most) => {
      input.max = most;
      shown.textContent = say(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    return { label, input, set, limit, value: () => Number(input.value) };
  }

  function choice(name, options, changed) {
    const select = make("select", { change: changed }, ...options.map((text, i) => make("option", { value: i }, text)));
    return { label: make("label", {}, name, select), select, value: () => Number(select.value) };
  }

  // About five round numbers between both ends: multiples of 1, 2 or 5 times a power of ten.
  function ticks([from, to]) {
    const raw = (to - from) / 5;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= 0.999 * raw);
    const first = Math.ceil(from / step - 1e-9);
    const count = Math.floor(to / step + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, i) => +((first + i) * step).toPrecision(6));
  }

  // Axes from (x0, y0) to (x1, y1) in a drawing 340 wide; linear. `line`, `dot`, `box`, `words` draw into it.
  function plot({ x, y, xlabel, ylabel, label, height = 270 }) {
    const [left, right, top, bottom] = [52, 324, 10, height - 42];
    const px = (v) => left + ((v - x[0]) / (x[1] - x[0])) * (right - left);
    const py = (v) => bottom - ((v - y[0]) / (y[1] - y[0])) * (bottom - top);
    const faint = { stroke: "var(--rt-line)", "stroke-opacity": 0.25 };
    const marks = ticks(x).flatMap((v) => [
      svg("line", { x1: px(v), x2: px(v), y1: top, y2: bottom, ...faint }),
      svg("text", { x: px(v), y: bottom + 16, "text-anchor": "middle" }, v),
    ]);
    for (const v of ticks(y))
      marks.push(
        svg("line", { x1: left, x2: right, y1: py(v), y2: py(v), ...faint }),
        svg("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, v),
      );
    const middle = (top + bottom) / 2;
    const inside = svg("g");
    const drawing = svg(
      "svg",
      { viewBox: `0 0 340 ${height}`, role: "img", "aria-label": label },
      ...marks,
      svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, xlabel),
      svg("text", { transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, ylabel),
      inside,
    );
    const line = (xs, ys, given = {}) => {
      const path = Array.from(xs, (v, i) => `${px(v).toFixed(1)},${py(ys[i]).toFixed(1)}`).join(" ");
      const style = { fill: "none", stroke: "var(--rt-a)", "stroke-width": 2, ...given };
      return inside.appendChild(svg("polyline", { points: path, ...style }));
    };
    const dot = (u, v, given = {}) =>
      inside.appendChild(svg("circle", { cx: px(u), cy: py(v), r: 5, fill: "var(--rt-b)", ...given }));
    const box = (u0, u1, v, given = {}) => {
      const area = { x: px(u0), width: px(u1) - px(u0), y: py(v), height: Math.max(0, bottom - py(v)) };
      return inside.appendChild(svg("rect", { ...area, fill: "var(--rt-a)", ...given }));
    };
    const words = (u, v, text, given) => inside.append(svg("text", { x: px(u), y: py(v) - 4, ...given }, text));
    return { drawing, line, dot, box, words, clear: () => inside.replaceChildren() };
  }

  // Draws each figure of this identity that is on the page and not yet alive.
  function mount(id, title, draw, data) {
    if (!document.querySelector("#rt-style")) document.head.append(make("style", { id: "rt-style" }, STYLE));
    for (const root of document.querySelectorAll(`[data-figure="${id}"]:not(.rt-ready)`)) {
      const said = make("p", { className: "rt-said", role: "status" });
      root.classList.add("rt-figure", "rt-ready");
      root.setAttribute("role", "group");
      root.setAttribute("aria-label", title);
      root.append(...draw(data, (text) => said.textContent !== text && (said.textContent = text)), said);
    }
  }

  return { make, svg, slider, choice, plot, mount };
})();
