// A temperature divides the logits: confidence moves, accuracy does not. Every number was computed beforehand.
(({ temperatures, counts, confidence, accuracy, ece, loss, start, best }, say, { make, slider, plot }) => {
  const bins = counts[0].length;
  const top = plot({ x: [0, 1], y: [0, 1], xlabel: "confidence (largest probability)", ylabel: "accuracy", label: "reliability diagram" });
  const most = Math.max(...counts.flat());
  const below = plot({ x: [0, 1], y: [0, most], xlabel: "confidence", ylabel: "images", label: "images in each bin" });

  function draw() {
    const i = heat.value();
    top.clear();
    below.clear();
    counts[i].forEach((n, b) => {
      const edges = [(b + 0.06) / bins, (b + 0.94) / bins];
      if (n) top.box(...edges, accuracy[i][b], { "fill-opacity": 0.55 });
      below.box(...edges, n, { fill: "var(--rt-line)" });
    });
    top.line([0, 1], [0, 1], { stroke: "var(--rt-text)", "stroke-width": 1, "stroke-dasharray": "5 4" });
    counts[i].forEach((n, b) => n && top.dot(confidence[i][b], accuracy[i][b], { r: 4 }));
    const total = counts[i].reduce((a, b) => a + b, 0);
    const mean = counts[i].reduce((sum, n, b) => sum + (n ? n * confidence[i][b] : 0), 0) / total;
    say(`T = ${temperatures[i].toFixed(2)}: ECE ${ece[i].toFixed(3)}, mean confidence ${mean.toFixed(3)}, cross-entropy ${loss[i].toFixed(3)}.`);
  }

  const says = (i) => temperatures[i].toFixed(2);
  const heat = slider("temperature T", { min: 0, max: temperatures.length - 1, value: start, say: says }, draw);
  const go = (i) => make("button", { type: "button", click: () => heat.set(i) }, i === start ? "T = 1" : "lowest cross-entropy");
  draw();
  const controls = make("div", { className: "rt-controls" }, heat.label, go(start), ...(best === start ? [] : [go(best)]));
  return [controls, make("div", { className: "rt-panels" }, top.drawing, below.drawing)];
})
