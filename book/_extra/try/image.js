// From a picture of any size to the 32 x 32 pixels that the network sees, as `load_image` of the package does it,
// and what the switches of the page do to them. Pixels are RGB beside each other, row by row.
"use strict";

const pictures = (() => {
  const SIDE = 32;

  function canvasOf(width, height) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
  }

  // A file as RGBA: upright (the browser applies the camera's note), colours as stored, transparency on white.
  async function decode(blob) {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(blob, options);
    const { width, height } = bitmap;
    const [, context] = canvasOf(width, height);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return { width, height, rgba: context.getImageData(0, 0, width, height).data };
  }

  // Keys' cubic (a = -1/2), the kernel of Pillow's bicubic.
  function cubic(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  }

  // For each of the SIDE pixels between start and end: the first source pixel, and the weights from there on, whole
  // numbers that sum to about 2^22. When the picture shrinks, the kernel widens with it: that is the antialiasing.
  function weightsOf(length, start, end) {
    const scale = (end - start) / SIDE;
    const stretch = Math.max(scale, 1);
    return Array.from({ length: SIDE }, (_, i) => {
      const centre = start + (i + 0.5) * scale;
      const first = Math.max(0, Math.floor(centre - 2 * stretch + 0.5));
      const last = Math.min(length, Math.floor(centre + 2 * stretch + 0.5));
      const raw = Array.from({ length: last - first }, (_, k) => cubic((first + k - centre + 0.5) / stretch));
      const sum = raw.reduce((a, b) => a + b, 0);
      return [first, raw.map((value) => Math.sign(value) * Math.round((Math.abs(value) / sum) * 2 ** 22))];
    });
  }

  // One direction at a time, each rounded to 8 bits, as Pillow does: result i of a line is the sum of source values
  // that are `across` apart, each times its weight. Lines begin `lineStep` apart. The result has three channels.
  function resample(values, lines, lineStep, across, weights) {
    const out = new Uint8ClampedArray(lines * SIDE * 3);
    for (let line = 0; line < lines; line++)
      for (let i = 0; i < SIDE; i++) {
        const [first, factors] = weights[i];
        for (let c = 0; c < 3; c++) {
          let at = line * lineStep + first * across + c;
          let sum = 2 ** 21; // a half, to round
          for (let k = 0; k < factors.length; k++, at += across) sum += factors[k] * values[at];
          out[(line * SIDE + i) * 3 + c] = Math.floor(sum / 2 ** 22); // the array clips to 0..255
        }
      }
    return out;
  }

  function centralSquare({ width, height, rgba }) {
    const side = Math.min(width, height);
    const [left, top] = [(width - side) / 2, (height - side) / 2]; // may end in a half
    const across = weightsOf(width, left, left + side);
    const down = weightsOf(height, top, top + side);
    // Pillow 13 begins downwards when a picture is much taller than wide; older ones never do. The order shows only
    // in how the numbers are rounded.
    if (height - width > Math.abs(width - SIDE)) {
      const columns = resample(rgba, width, 4, 4 * width, down); // (width, 32, 3)
      return resample(columns, SIDE, 3, 3 * SIDE, across); // (32, 32, 3)
    }
    const rows = resample(rgba, height, 4 * width, 4, across); // (height, 32, 3)
    const turned = resample(rows, SIDE, 3, 3 * SIDE, down); // (32, 32, 3), columns first
    return eachPixel((i, j) => turned.subarray((j * SIDE + i) * 3));
  }

  // 32 x 32 x 3 numbers, of which `at(i, j)` gives the three of row i and column j first.
  function eachPixel(at) {
    const out = new Uint8ClampedArray(SIDE * SIDE * 3);
    for (let i = 0; i < SIDE; i++)
      for (let j = 0; j < SIDE; j++) out.set(at(i, j).subarray(0, 3), (i * SIDE + j) * 3);
    return out;
  }

  async function loadImage(blob) {
    return centralSquare(await decode(blob));
  }

  // Mirrored, then moved to the right and down by whole pixels; what comes in is the mirrored border, as in training.
  function moved(pixels, right, down, mirrored) {
    const inside = (i) => (i < 0 ? -i : i >= SIDE ? 2 * (SIDE - 1) - i : i);
    return eachPixel((i, j) => {
      const column = inside(j - right);
      return pixels.subarray((inside(i - down) * SIDE + (mirrored ? SIDE - 1 - column : column)) * 3);
    });
  }

  function paint(pixels) {
    const [canvas, context] = canvasOf(SIDE, SIDE);
    const image = context.createImageData(SIDE, SIDE);
    for (let i = 0; i < SIDE * SIDE; i++) image.data.set([...pixels.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // Written as a JPEG file of this quality (1 to 100) and read again.
  async function compressed(pixels, quality) {
    const blob = await new Promise((done) => paint(pixels).toBlob(done, "image/jpeg", quality / 100));
    const { rgba } = await decode(blob);
    return eachPixel((i, j) => rgba.subarray((i * SIDE + j) * 4));
  }

  return { loadImage, moved, compressed, paint };
})();
