// A confusion matrix whose cells are buttons: each shows its images. Arrow keys move between the cells.
(({ classes, counts, places, sprite, side, columns, rows }, say, { make }) => {
  const shown = make("div", { className: "rt-panels" });
  const totals = counts.map((row) => row.reduce((a, b) => a + b, 0));
  const buttons = [];

  function choose(i, j) {
    const n = counts[i][j];
    const picture = (place) => {
      const tile = make("span", { role: "img", "aria-label": `true ${classes[i]}, predicted ${classes[j]}` });
      const at = `${-(place % columns) * 64}px ${-Math.floor(place / columns) * 64}px`;
      tile.style.cssText = `flex: none; width: 64px; height: 64px; background: url(${sprite}) ${at} / ${columns * 64}px ${rows * 64}px; image-rendering: ${side < 64 ? "pixelated" : "auto"};`;
      return tile;
    };
    shown.replaceChildren(...places[i][j].map(picture));
    buttons.flat().forEach((button) => button.setAttribute("aria-pressed", "false"));
    buttons[i][j].setAttribute("aria-pressed", "true");
    stop(buttons[i][j]); // the Tab key leads to the chosen cell
    const rest = n > places[i][j].length && places[i][j].length ? `, the first ${places[i][j].length} shown` : "";
    say(`True ${classes[i]}, predicted ${classes[j]}: ${n} of ${totals[i]} images${rest}.`);
  }

  const stop = (here) => buttons.flat().forEach((button) => (button.tabIndex = button === here ? 0 : -1));

  function move(event, i, j) {
    const [di, dj] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    const next = buttons[i + di]?.[j + dj];
    if (!next || !(di || dj)) return;
    event.preventDefault();
    stop(next);
    next.focus();
  }

  const body = counts.map((row, i) => {
    buttons.push(
      row.map((n, j) => {
        const share = totals[i] ? n / totals[i] : 0;
        const given = { type: "button", tabIndex: i || j ? -1 : 0, click: () => choose(i, j), keydown: (event) => move(event, i, j) };
        const button = make("button", { ...given, "aria-label": `true ${classes[i]}, predicted ${classes[j]}: ${n}` }, String(n));
        const strong = Math.round(100 * Math.sqrt(share)); // the root lets single errors be seen
        button.style.cssText = `width: 100%; min-width: 1.9em; padding: 0.15em 0; border: 0; border-radius: 0; background: color-mix(in srgb, var(--rt-a-soft) ${strong}%, var(--rt-page));`;
        return button;
      }),
    );
    const cells = buttons[i].map((button) => Object.assign(make("td", {}, button), { style: "padding: 0" }));
    return make("tr", {}, make("th", { scope: "row" }, classes[i]), ...cells);
  });
  const upright = (text) => {
    const word = make("span", {}, text);
    word.style.cssText = "writing-mode: vertical-rl; transform: rotate(180deg);";
    return make("th", { scope: "col" }, word);
  };
  const head = make("tr", {}, make("th", { scope: "col" }, "true \\ predicted"), ...classes.map(upright));
  const table = make("table", { "aria-label": "confusion matrix: rows true classes, columns predicted ones" }, make("thead", {}, head), make("tbody", {}, ...body));
  const scroll = make("div", {}, table);
  scroll.style.overflowX = "auto";
  const style = ".rt-figure td button[aria-pressed=true] { box-shadow: inset 0 0 0 3px var(--rt-b); font-weight: 700; } .rt-figure td button:focus-visible { outline: 2px dashed var(--rt-text); outline-offset: -6px; }";
  const wrong = counts.flatMap((row, i) => row.map((n, j) => [i === j ? -1 : n, i, j])).sort((a, b) => b[0] - a[0])[0];
  if (wrong) choose(wrong[1], wrong[2]);
  return [make("style", {}, style), scroll, Object.assign(shown, { style: "gap: 4px; margin-top: 0.6rem; min-height: 64px" })];
})
