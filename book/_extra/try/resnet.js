// ResNet-20 in plain JavaScript: what `Block` and `Network` of chapter 3 do, line by line, in eval mode.
//
// A feature map is { channels, size, values }: a Float32Array of channels * size * size numbers, row by row.
// Each batch normalisation is already folded into the convolution before it, so `conv1` here is `bn1(conv1(x))`
// there. The whole function is also the source of the page's worker; it uses nothing from outside of itself.
"use strict";

function residualNetwork(shapes, halves) {
  // ---- the weights: float16, one layer after the other, its weight and then its bias ----
  const layers = {};
  let next = 0;
  for (const [name, [out, channels, k = 1]] of Object.entries(shapes)) {
    const take = (n) => Float32Array.from(halves.subarray(next, (next += n)), fromHalf);
    layers[name] = { out, weight: take(out * channels * k * k), bias: take(out) };
  }

  // float16: one bit of sign, five of exponent, ten of fraction.
  function fromHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  }

  function zeros(channels, size) {
    return { channels, size, values: new Float32Array(channels * size * size) };
  }

  function relu(x) {
    return { ...x, values: x.values.map((value) => Math.max(0, value)) };
  }

  function add(x, y) {
    return { ...x, values: x.values.map((value, i) => value + y.values[i]) };
  }

  // A frame of one zero around each channel: (C, H, H) -> (C, H + 2, H + 2).
  function pad(x) {
    const padded = zeros(x.channels, x.size + 2);
    for (let c = 0; c < x.channels; c++)
      for (let i = 0; i < x.size; i++) {
        const from = (c * x.size + i) * x.size;
        const row = x.values.subarray(from, from + x.size);
        padded.values.set(row, (c * padded.size + i + 1) * padded.size + 1);
      }
    return padded;
  }

  // a[o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] * x[c, s i + u, s j + v], with x padded (chapter 2).
  function conv3x3(x, layer, stride = 1) {
    const { weight: w, bias, out } = layer;
    const { values: p, size: width } = pad(x);
    const size = Math.floor((x.size - 1) / stride) + 1;
    const a = zeros(out, size);
    for (let o = 0; o < out; o++) {
      const plane = a.values.subarray(o * size * size, (o + 1) * size * size).fill(bias[o]);
      for (let c = 0; c < x.channels; c++) {
        const [w0, w1, w2, w3, w4, w5, w6, w7, w8] = w.subarray((o * x.channels + c) * 9);
        for (let i = 0; i < size; i++) {
          let r0 = (c * width + stride * i) * width; // three rows of the window
          for (let j = 0; j < size; j++, r0 += stride) {
            const r1 = r0 + width;
            const r2 = r1 + width;
            plane[i * size + j] +=
              w0 * p[r0] + w1 * p[r0 + 1] + w2 * p[r0 + 2] +
              w3 * p[r1] + w4 * p[r1 + 1] + w5 * p[r1 + 2] +
              w6 * p[r2] + w7 * p[r2 + 1] + w8 * p[r2 + 2];
          }
        }
      }
    }
    return a;
  }

  // Shortcut A: every stride-th pixel; of the new channels, all zero, half before the old ones and half after.
  function shortcut(x, channels, stride) {
    if (stride === 1 && channels === x.channels) return x;
    const size = Math.ceil(x.size / stride);
    const y = zeros(channels, size);
    const before = (channels - x.channels) >> 1;
    for (let c = 0; c < x.channels; c++)
      for (let i = 0; i < size; i++)
        for (let j = 0; j < size; j++)
          y.values[((c + before) * size + i) * size + j] = x.values[(c * x.size + stride * i) * x.size + stride * j];
    return y;
  }

  function block(x, name, stride, connected) {
    let out = relu(conv3x3(x, layers[`${name}.conv1`], stride)); // (C, H/s, W/s)
    out = conv3x3(out, layers[`${name}.conv2`]); // the same shape
    return relu(connected ? add(out, shortcut(x, out.channels, stride)) : out);
  }

  function stage(x, name, connected) {
    const n = Object.keys(layers).filter((layer) => layer.startsWith(name)).length / 2;
    for (let i = 0; i < n; i++) x = block(x, `${name}.${i}`, i === 0 && name !== "layer1" ? 2 : 1, connected);
    return x;
  }

  // Mean over the pixels of each channel: (C, H, W) -> (C,).
  function globalPool(x) {
    const area = x.size * x.size;
    return Array.from({ length: x.channels }, (_, c) => {
      return x.values.subarray(c * area, (c + 1) * area).reduce((sum, value) => sum + value, 0) / area;
    });
  }

  function linear(features, { weight, bias, out }) {
    return Array.from({ length: out }, (_, k) => {
      return features.reduce((sum, value, c) => sum + weight[k * features.length + c] * value, bias[k]);
    });
  }

  // The head before its mean: how much each pixel of the last feature map speaks for class k (Zhou et al., 2016).
  function activationMaps(x, { weight, out }) {
    const area = x.size * x.size;
    return Array.from({ length: out }, (_, k) => {
      return Array.from({ length: area }, (_, i) => {
        let sum = 0;
        for (let c = 0; c < x.channels; c++) sum += weight[k * x.channels + c] * x.values[c * area + i];
        return sum;
      });
    });
  }

  // pixels: 32 * 32 * 3 numbers in 0..255, RGB beside each other -> (3, 32, 32), normalised.
  function normalize(pixels, { scale, mean, std, order }) {
    const x = zeros(3, 32);
    for (let c = 0; c < 3; c++)
      for (let i = 0; i < 1024; i++) x.values[c * 1024 + i] = (pixels[3 * i + order[c]] / scale - mean[c]) / std[c];
    return x;
  }

  // connected: for each of the three stages, whether its blocks have their shortcuts.
  return function forward(pixels, norm, connected = [true, true, true]) {
    const stem = relu(conv3x3(normalize(pixels, norm), layers.conv1)); // (16, 32, 32)
    const layer1 = stage(stem, "layer1", connected[0]); // (16, 32, 32)
    const layer2 = stage(layer1, "layer2", connected[1]); // (32, 16, 16)
    const layer3 = stage(layer2, "layer3", connected[2]); // (64, 8, 8)
    const logits = linear(globalPool(layer3), layers.fc); // (10,)
    return { logits, maps: [stem, layer1, layer2, layer3], cams: activationMaps(layer3, layers.fc) };
  };
}
