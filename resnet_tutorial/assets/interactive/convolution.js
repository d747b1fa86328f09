// A window slides over an image: stride, padding and position move, and the sum of products is written out.
(({ image, kernel, stride, padding }, say, { make, slider }) => {
  const k = kernel.length;
  const sign = (value) => String(value).replace("-", "\u2212");
  const term = (value) => (value < 0 ? `(${sign(value)})` : sign(value));
  const panels = make("div", { className: "rt-panels" });

  const grid = (title, rows, mark, click) => {
    const cell = (value, i, j) => {
      const given = { className: mark(i, j) };
      return click ? make("td", { ...given, click: () => click(i, j) }, sign(value)) : make("td", given, sign(value));
    };
    const lines = rows.map((row, i) => make("tr", {}, ...row.map((value, j) => cell(value, i, j))));
    const size = `${title}, ${rows.length} \u00d7 ${rows[0].length}`;
    const table = make("table", { "aria-label": size }, make("tbody", {}, ...lines));
    return make("div", {}, make("p", { className: "rt-title" }, size), table);
  };

  const padded = (p) => {
    const width = image[0].length + 2 * p;
    const row = (values) => [...Array(p).fill(0), ...values, ...Array(p).fill(0)];
    const frame = Array.from({ length: p }, () => Array(width).fill(0));
    return [...frame, ...image.map(row), ...frame];
  };
  const products = (x, top, left) =>
    kernel.flatMap((row, u) => row.map((weight, v) => [weight, x[top + u][left + v]]));
  const sum = (pairs) => +pairs.reduce((total, [w, x]) => total + w * x, 0).toFixed(6);

  function draw() {
    const [s, p] = [strides.value(), paddings.value()];
    const x = padded(p);
    const [height, width] = [x.length, x[0].length].map((n) => Math.floor((n - k) / s) + 1);
    if (position.input.max !== String(height * width - 1)) position.limit(height * width - 1);
    const [i, j] = [Math.floor(position.value() / width), position.value() % width];
    const result = Array.from({ length: height }, (_, a) =>
      Array.from({ length: width }, (_, b) => sum(products(x, s * a, s * b))),
    );
    const inWindow = (a, b) => a >= s * i && a < s * i + k && b >= s * j && b < s * j + k;
    const isFrame = (a, b) => a < p || b < p || a >= x.length - p || b >= x[0].length - p;
    panels.replaceChildren(
      grid(p ? "padded image" : "image", x, (a, b) => (inWindow(a, b) ? "rt-on" : "") + (isFrame(a, b) ? " rt-frame" : "")),
      grid("kernel", kernel, () => "rt-on"),
      grid("result", result, (a, b) => (a === i && b === j ? "rt-here" : ""), (a, b) => position.set(a * width + b)),
    );
    for (const cell of panels.querySelectorAll("td")) cell.style.minWidth = "2.3em";
    for (const cell of panels.querySelectorAll(".rt-frame")) cell.style.fontStyle = "italic";
    for (const panel of panels.children) panel.style.flex = "0 1 auto";
    const pairs = products(x, s * i, s * j);
    const terms = pairs.map(([w, value]) => `${term(w)}\u00b7${term(value)}`).join(" + ");
    say(`Row ${i}, column ${j} of the result: ${terms} = ${sign(result[i][j])}`);
  }

  const strides = slider("stride", { min: 1, max: 3, value: stride }, draw);
  const paddings = slider("padding", { min: 0, max: 2, value: padding }, draw);
  const position = slider("position", { min: 0, max: 999, value: 0 }, draw);
  draw();
  const controls = [strides, paddings, position].map((control) => control.label);
  return [make("div", { className: "rt-controls" }, ...controls), panels];
})
