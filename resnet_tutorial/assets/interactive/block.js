// One block, step by step: values fill the table downwards, then gradients fill it upwards.
(({ names, values, gradients, forward, backward, sources }, say, { make, slider }) => {
  const count = names.length;
  const steps = 2 * count; // forward 0 .. count - 1, then backward from the last row to the first
  const show = (value) => String(+value.toFixed(4)).replace("-", "\u2212");
  const table = make("table", { "aria-label": "values on the left, gradients on the right" });
  const users = names.map((_, row) => sources.flatMap((from, other) => (from.includes(row) ? [other] : [])));

  function draw() {
    const now = step.value();
    const row = now < count ? now : steps - 1 - now;
    const back = now >= count;
    const read = back ? users[row] : sources[row]; // the rows from which this one is computed
    const half = (numbers, i, done, isBack) => {
      const mark = back !== isBack ? "" : i === row ? "rt-here" : read.includes(i) ? "rt-on" : "";
      return numbers[i].map((value) => make("td", { className: mark }, done ? show(value) : "\u00a0"));
    };
    const head = (text) => make("th", { scope: "col", colSpan: values[0].length }, text);
    const lines = names.map((name, i) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, name),
        ...half(values, i, i <= now, false),
        ...half(gradients, i, back && i >= row, true),
      ),
    );
    table.replaceChildren(
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "row"), head("forward: value \u2193"), head("backward: gradient \u2191"))),
      make("tbody", {}, ...lines),
    );
    before.disabled = now === 0;
    after.disabled = now === steps - 1;
    say(`Step ${now + 1} of ${steps}, ${back ? "backward" : "forward"}, ${names[row]}: ${(back ? backward : forward)[row]}`);
  }

  const step = slider("step", { min: 0, max: steps - 1, value: 0, say: (n) => `${n + 1} of ${steps}` }, draw);
  const before = make("button", { type: "button", click: () => step.set(step.value() - 1) }, "back");
  const after = make("button", { type: "button", click: () => step.set(step.value() + 1) }, "next");
  draw();
  const scroll = make("div", { tabIndex: 0, role: "region", "aria-label": "the block" }, table);
  scroll.style.overflowX = "auto";
  return [make("div", { className: "rt-controls" }, step.label, before, after), scroll];
})
