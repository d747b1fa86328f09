// The learning rate over a run, as the fields of a recipe make it: `lr_at` of the package's recipes, line by line.
(({ recipes, schedules, steps }, say, { make, slider, choice, plot }) => {
  const names = Object.keys(recipes);
  const holder = make("div", { className: "rt-panels" });
  const short = (value) => String(+value.toPrecision(3));

  function rateAt(recipe, step) {
    const { lr, schedule, warmup, warmup_lr: fixed, milestones, gamma } = recipe;
    const done = step / steps;
    if (warmup && done < warmup) {
      if (fixed !== null) return fixed;
      const floor = schedule === "one-cycle" ? 1 / 25 : 0;
      const rise = (step + 1) / Math.max(1, warmup * steps);
      return lr * Math.min(1, floor + (1 - floor) * rise);
    }
    if (schedule === "constant") return lr;
    if (schedule === "step") return lr * gamma ** milestones.filter((milestone) => done >= milestone).length;
    return lr * 0.5 * (1 + Math.cos((Math.PI * (done - warmup)) / (1 - warmup)));
  }

  function current() {
    const own = recipes[names[base.value()]];
    const schedule = schedules[kind.value()];
    const milestones = own.milestones.length ? own.milestones : [0.5, 0.75];
    return { ...own, schedule, lr: peak.value(), warmup: rise.value(), milestones };
  }

  function draw() {
    const recipe = current();
    const top = Math.max(...names.map((name) => recipes[name].lr), recipe.lr);
    const axes = plot({ x: [0, steps], y: [0, top * 1.05], xlabel: "step", ylabel: "learning rate", label: "learning rate over the steps of the run" });
    const xs = Array.from({ length: 401 }, (_, i) => Math.round((i / 400) * (steps - 1)));
    const curve = (given) => xs.map((step) => rateAt(given, step));
    const curves = names.map((name) => curve(recipes[name]));
    curves.forEach((ys) => axes.line(xs, ys, { stroke: "var(--rt-line)", "stroke-width": 1, "stroke-opacity": 0.7 }));
    axes.line(xs, curve(recipe));
    const inner = xs.map((_, i) => i).filter((i) => i > 0.04 * xs.length && i < 0.8 * xs.length);
    curves.forEach((ys, k) => {
      // The name stands where its curve is farthest from all others.
      const room = (i) => Math.min(...curves.map((other, j) => (j === k ? Infinity : Math.abs(other[i] - ys[i]))));
      const i = inner.reduce((best, at) => (room(at) > room(best) ? at : best));
      const below = ys[i + 1] < ys[i] ? { "text-anchor": "end", dy: 12 } : {};
      axes.words(xs[i], ys[i], names[k], { stroke: "var(--rt-page)", "stroke-width": 3, "paint-order": "stroke", ...below });
    });
    axes.dot(at.value(), rateAt(recipe, at.value()));
    holder.replaceChildren(axes.drawing);
    const { schedule, warmup } = recipe;
    const which = schedule === "one-cycle" && !warmup ? "one-cycle, which without a warm-up is cosine" : schedule;
    say(`${which}, warm-up over ${Math.round(100 * warmup)} % of the run: the rate of step ${at.value()} is ${short(rateAt(recipe, at.value()))}.`);
  }

  function load() {
    const recipe = recipes[names[base.value()]];
    kind.select.value = schedules.indexOf(recipe.schedule);
    rise.input.value = recipe.warmup;
    rise.limit(0.5);
    peak.set(recipe.lr);
  }

  const most = 2 * Math.max(...names.map((name) => recipes[name].lr));
  const base = choice("recipe", names, load);
  const kind = choice("schedule", schedules, () => draw());
  const peak = slider("lr", { min: most / 100, max: most, step: "any", value: recipes[names[0]].lr, say: short }, () => draw());
  const rise = slider("warm-up", { min: 0, max: 0.5, step: 0.01, value: 0, say: (v) => `${Math.round(100 * v)} %` }, () => draw());
  const at = slider("look at step", { min: 0, max: steps - 1, value: 0 }, () => draw());
  load();
  const controls = [base, kind, peak, rise, at].map((control) => control.label);
  return [make("div", { className: "rt-controls" }, ...controls), holder];
})
