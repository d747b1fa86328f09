// The page "Try the network": reads the controls, asks the worker, shows the answer.
"use strict";

window.tryNetwork = (() => {
  const { classes, norms, shapes, weights, pictures: samples } = tryNetworkData;
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  // Never "100.0 %" or "0.0 %": softmax gives neither.
  function percent(p) {
    if (p > 0.999) return "> 99.9 %";
    if (p < 0.001) return "< 0.1 %";
    return `${(100 * p).toFixed(p < 0.0995 || p > 0.985 ? 1 : 0)} %`;
  }

  // ---- the worker: made from the source of one function, since a page on disk may load no worker from a file ----
  const source = `${residualNetwork}
    let forward;
    onmessage = ({ data: [id, ...given] }) => {
      if (!forward) forward = residualNetwork(...given);
      else postMessage([id, forward(...given)]);
    };`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.postMessage([0, shapes, new Uint16Array(bytes(weights).buffer)]);
  const waiting = new Map();
  worker.onmessage = ({ data: [id, answer] }) => {
    waiting.get(id)(answer);
    waiting.delete(id);
  };
  let count = 0;
  function run(pixels, norm, connected) {
    return new Promise((done) => {
      waiting.set(++count, done);
      worker.postMessage([count, pixels, norm, connected]);
    });
  }

  // ---- what may be done to the numbers before the first layer ----
  const none = { mean: [0, 0, 0], std: [1, 1, 1], scale: 255, order: [0, 1, 2] };
  const normalisations = {
    trained: { ...none, ...norms["CIFAR-10"] },
    imagenet: { ...none, ...norms.ImageNet },
    unit: none,
    bytes: { ...none, scale: 1 },
    swapped: { ...none, ...norms["CIFAR-10"], order: [2, 1, 0] },
  };
  function logits(pixels, norm = "trained", connected = [true, true, true]) {
    return run(pixels, normalisations[norm], connected).then((answer) => answer.logits);
  }
  function softmax(z) {
    const largest = Math.max(...z);
    const powers = z.map((value) => Math.exp(value - largest));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((value) => value / sum);
  }

  // ---- the page ----
  const root = document.querySelector("#try-network");
  const find = (name) => root.querySelector(`[data-try="${name}"]`);
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const state = { pixels: null, name: "", chosen: null }; // the picture before the switches; the class of the map
  let running = false;
  let again = false;
  let drawn = Promise.resolve();

  const rows = classes.map((name, k) => {
    const bar = make("span", { className: "try-bar", style: "width: 0" });
    const value = make("span", { className: "try-percent" });
    const button = make("button", { type: "button" }, make("span", {}, name), make("span", {}, bar), value);
    button.addEventListener("click", () => {
      state.chosen = state.chosen === k ? null : k;
      update();
    });
    find("classes").append(make("li", {}, button));
    return { button, bar, value };
  });

  // Two ramps: from black to white for maps that are never negative, from blue over white to orange for the others.
  const grey = (v) => [255 * v, 255 * v, 255 * v];
  const signed = (v) =>
    v < 0 ? [255 + 255 * v, 255 + 141 * v, 255 + 77 * v] : [255 - 42 * v, 255 - 161 * v, 255 - 255 * v];
  function draw(canvas, values, size, colour, alpha = 255) {
    canvas.width = canvas.height = size;
    const image = new ImageData(size, size);
    values.forEach((value, i) => image.data.set([...colour(value), alpha], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function showMaps(maps) {
    const names = ["stem", "stage 1", "stage 2", "stage 3"];
    find("maps").replaceChildren(
      ...maps.map(({ channels, size, values }, k) => {
        const area = size * size;
        const planes = Array.from({ length: channels }, (_, c) => values.subarray(c * area, (c + 1) * area));
        const means = planes.map((plane) => plane.reduce((a, b) => a + b, 0) / area);
        const best = means.map((_, c) => c).sort((a, b) => means[b] - means[a]).slice(0, 6);
        const pictures = best.map((c) => {
          const largest = planes[c].reduce((a, b) => Math.max(a, b), 0) || 1;
          const canvas = make("canvas", { className: "try-pixels" });
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", `channel ${c}, mean ${means[c].toFixed(2)}`);
          canvas.title = `channel ${c}, mean ${means[c].toFixed(2)}`;
          return draw(canvas, Array.from(planes[c], (value) => value / largest), size, grey);
        });
        const title = make("h3", {}, `${names[k]}: ${channels} maps of ${size} × ${size}`);
        return make("div", { className: "try-stage" }, title, make("div", {}, ...pictures));
      }),
    );
  }

  // The activation map over the picture in grey, enlarged smoothly, as strong as it is far from zero.
  function showActivation(pixels, map) {
    const canvas = find("activation");
    const context = draw(canvas, Array.from({ length: 1024 }, (_, i) => {
      const [r, g, b] = pixels.subarray(3 * i, 3 * i + 3);
      return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
    }), 32, grey).getContext("2d");
    const largest = Math.max(...map.map(Math.abs)) || 1;
    const small = draw(document.createElement("canvas"), map.map((value) => value / largest), 8, signed);
    context.globalAlpha = 0.65;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, 32, 32);
  }

  async function compute() {
    const pressed = (name) => find(name).checked;
    const number = (name) => Number(find(name).value);
    let pixels = pictures.moved(state.pixels, number("right"), number("down"), pressed("mirror"));
    if (number("jpeg")) pixels = await pictures.compressed(pixels, number("jpeg"));
    const connected = [1, 2, 3].map((k) => pressed(`stage${k}`));
    const start = performance.now();
    const answer = await run(pixels, normalisations[find("norm").value], connected);
    const time = performance.now() - start;

    const p = softmax(answer.logits);
    const order = p.map((_, k) => k).sort((a, b) => p[b] - p[a]);
    const k = state.chosen ?? order[0];
    rows.forEach(({ button, bar, value }, i) => {
      bar.style.width = `${100 * p[i]}%`;
      value.textContent = percent(p[i]);
      button.classList.toggle("try-first", i === order[0]);
      button.setAttribute("aria-pressed", String(i === k));
    });
    find("seen").replaceChildren(Object.assign(pictures.paint(pixels), { className: "try-pixels" }));
    find("seen").firstChild.setAttribute("role", "img");
    find("seen").firstChild.setAttribute("aria-label", `${state.name}, 32 × 32 pixels as the network sees them`);
    find("right-value").textContent = number("right");
    find("down-value").textContent = number("down");
    const told = order.slice(0, 3).map((i) => `${classes[i]} ${percent(p[i])}`).join(", ");
    find("answer").textContent = `${state.name}: ${told}.`;
    find("time").textContent = `Computed in ${Math.round(time)} ms.`;
    showActivation(pixels, answer.cams[k]);
    find("activation").setAttribute("aria-label", `class activation map for ${classes[k]}`);
    find("activation-class").textContent = classes[k];
    showMaps(answer.maps);
  }

  // While one picture is being computed, any number of changes ask for only one more.
  function update() {
    if (running) {
      again = true;
      return drawn;
    }
    running = true;
    drawn = (async () => {
      try {
        do {
          again = false;
          await compute();
        } while (again);
      } finally {
        running = false;
      }
    })();
    return drawn;
  }

  function show(pixels, name, button = null) {
    Object.assign(state, { pixels, name, chosen: null });
    for (const other of find("samples").children) other.setAttribute("aria-pressed", String(other === button));
    return update();
  }

  async function read(file) {
    try {
      const pixels = await pictures.loadImage(file);
      find("error").textContent = "";
      await show(pixels, file.name || "your picture");
    } catch {
      find("error").textContent = `${file.name || "This file"} is no picture that this browser can read: choose a JPEG, PNG or WebP file.`;
    }
  }

  samples.forEach(({ label, pixels }, i) => {
    const name = `${classes[label]} ${(i % 2) + 1}`;
    const picture = Object.assign(pictures.paint(bytes(pixels)), { className: "try-pixels" });
    const button = make("button", { type: "button", title: name }, picture);
    button.setAttribute("aria-label", `test image: ${name}`);
    button.addEventListener("click", () => show(bytes(pixels), `Test image “${name}”`, button));
    find("samples").append(button);
  });
  find("file").addEventListener("change", ({ target }) => target.files[0] && read(target.files[0]));
  for (const name of ["dragover", "dragleave", "drop"])
    find("drop").addEventListener(name, (event) => {
      event.preventDefault();
      find("drop").classList.toggle("try-over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
    });
  find("switches").addEventListener("input", update);
  find("reset").addEventListener("click", () => {
    find("switches").reset();
    state.chosen = null;
    update();
  });
  find("switches").addEventListener("submit", (event) => event.preventDefault());

  root.hidden = false;
  show(bytes(samples[0].pixels), `Test image “${classes[samples[0].label]} 1”`, find("samples").firstChild);
  return { loadImage: pictures.loadImage, logits, percent, settled: () => drawn };
})();
