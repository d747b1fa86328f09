// One class against the rest: a threshold moves the counts, the metrics, and the points on both curves.
(({ classes, thresholds, tp, fp, positives, negatives, curves, auc, selected, start }, say, { make, slider, choice, plot }) => {
  const RARER = [1, 2, 5, 10, 20, 50, 100, 1000]; // a positive counts as one in so many
  const weight = (i) => (i ? `1/${RARER[i]}` : "1");
  const number = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "\u2013");
  const axes = { x: [0, 1], y: [0, 1] };
  const roc = plot({ ...axes, xlabel: "false positive rate", ylabel: "true positive rate (recall)", label: "ROC curve" });
  const pr = plot({ ...axes, xlabel: "recall", ylabel: "precision", label: "precision-recall curve" });
  const table = make("table", { "aria-label": "counts at this threshold" });
  const counted = make("p", { className: "rt-title" });
  const metrics = make("p", { className: "rt-said" });

  function draw() {
    const c = which.value();
    const w = 1 / RARER[rarer.value()];
    const [P, N] = [positives[c] * w, negatives[c]];
    const [t, f] = [tp[c][cut.value()] * w, fp[c][cut.value()]];
    const [recall, fpr, precision] = [t / P, f / N, t / (t + f)];
    const f1 = (2 * t) / (2 * t + f + P - t);
    const [above, wrong] = curves[c]; // positives and negatives at or above the score of each positive
    const recalls = above.map((n) => (n * w) / P);
    const precisions = above.map((n, i) => (n * w) / (n * w + wrong[i]));
    // Average precision: precision times the step of recall, summed (as in scikit-learn).
    const ap = recalls.reduce((sum, r, i) => sum + (r - (recalls[i - 1] ?? 0)) * precisions[i], 0);

    roc.clear();
    roc.line([0, 1], [0, 1], { stroke: "var(--rt-line)", "stroke-width": 1, "stroke-dasharray": "4 4" });
    roc.line([0, ...wrong.map((n) => n / N), 1], [0, ...recalls, 1]);
    roc.dot(fpr, recall);
    pr.clear();
    pr.line([0, 1], [P / (P + N), P / (P + N)], { stroke: "var(--rt-line)", "stroke-width": 1, "stroke-dasharray": "4 4" });
    pr.line([0, ...recalls], [precisions[0], ...precisions]);
    if (t + f > 0) pr.dot(recall, precision);

    const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
    const name = classes[c];
    const cell = (value) => make("td", {}, count(value));
    const head = (text, scope) => make("th", { scope }, text);
    table.replaceChildren(
      make("thead", {}, make("tr", {}, head("true class", "col"), head(`called ${name}`, "col"), head("called other", "col"))),
      make("tbody", {}, make("tr", {}, head(name, "row"), cell(t), cell(P - t)), make("tr", {}, head("other", "row"), cell(f), cell(N - f))),
    );
    counted.textContent = w < 1 ? `Images, each ${name} counted as ${weight(rarer.value())} of one` : "Images";
    metrics.textContent = `Areas, whatever the threshold: AUC ${number(auc[c])} under the ROC curve, average precision ${number(ap)}.`;
    say(`Precision ${number(precision)}, recall ${number(recall)}, F1 ${number(f1)}, false positive rate ${number(fpr, 4)}.`);
  }

  const which = choice("class", classes, draw);
  which.select.value = selected;
  const says = (i) => number(thresholds[i], thresholds[i] > 0.99 || thresholds[i] < 0.01 ? 4 : 2);
  const cut = slider("threshold", { min: 0, max: thresholds.length - 1, value: start, say: says }, draw);
  const rarer = slider("a positive counts as", { min: 0, max: RARER.length - 1, value: 0, say: weight }, draw);
  draw();
  const controls = make("div", { className: "rt-controls" }, which.label, cut.label, rarer.label);
  return [controls, make("div", { className: "rt-panels" }, roc.drawing, pr.drawing), counted, table, metrics];
})
