"use strict";
/* The script of a report. It runs the model of this page in the browser: weights and images are in
   the page, and nothing is loaded or sent. An image is H × W grey levels, row by row, from 0
   (ground) to 255 (ink). With JavaScript off, the rest of the page is complete. */

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("live").textContent);
const [H, W] = data.shape;

/* ---- The numbers in the page ---------------------------------------------------------------- */

/** The bytes of a base64 text. */
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** A number from its 16 bits as float16: 1 of sign, 5 of exponent, 10 of fraction. */
function half(bits) {
  const [sign, exponent] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31];
  const fraction = (bits & 1023) / 1024;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

/** Give each linear layer its matrix (outputs × inputs, row by row) and its biases. */
const linear = data.layers.filter(({ kind }) => kind === "linear");
function unpack() {
  const view = new DataView(bytesOf(data.weights).buffer);
  let place = 0;
  const take = () => half(view.getUint16(2 * place++, true));
  for (const layer of linear) {
    layer.weights = Float32Array.from({ length: layer.outputs * layer.inputs }, take);
    layer.biases = Float32Array.from({ length: layer.outputs }, take);
  }
}

const images = bytesOf(data.images);
/** Test images in the page: {row, label, answer, sure, image}; errors first, the surest first. */
const rows = data.rows.map(([row, label, answer, sure], place) => (
  { row, label, answer, sure, image: images.subarray(place * H * W, (place + 1) * H * W) }));
const errors = rows.filter(({ label, answer }) => label !== answer);

/* ---- The model: what each layer does with a vector x ---------------------------------------- */

const STEPS = {
  normalize: (x, { mean, std }) => x.map((value) => (value - mean) / std),
  linear(x, { inputs, outputs, weights, biases }) {
    const y = Float32Array.from(biases);
    for (let out = 0, at = 0; out < outputs; out++) {
      let sum = 0;
      for (let i = 0; i < inputs; i++) sum += weights[at++] * x[i];
      y[out] += sum;
    }
    return y;
  },
  relu: (x) => x.map((value) => Math.max(value, 0)),
  leaky_relu: (x, { slope }) => x.map((value) => (value < 0 ? slope * value : value)),
  tanh: (x) => x.map((value) => Math.tanh(value)),
  gelu_none: (x) => x.map((value) => 0.5 * value * (1 + erf(value / Math.SQRT2))),
  gelu_tanh: (x) => x.map((value) => 0.5 * value *
    (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (value + 0.044715 * value ** 3)))),
  logsoftmax(x) {
    const most = Math.max(...x);
    const log = Math.log(x.reduce((sum, value) => sum + Math.exp(value - most), 0));
    return x.map((value) => value - most - log);
  },
  temperature: (x, { value: temperature }) => x.map((value) => value / temperature),
};

/** The error function, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = terms.reduce((total, term) => total * t + term, 0) * t;
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

/** What comes out of some layers for an image. */
const run = (image, layers) =>
  layers.reduce((x, layer) => STEPS[layer.kind](x, layer), Float32Array.from(image));

/** The probability of each class for an image: the softmax of what the last layer gives. */
const probabilities = (image) => STEPS.logsoftmax(run(image, data.layers)).map(Math.exp);

/* ---- From strokes to the image that the model sees, as `idxflow predict` does it ------------ */

/** Rounded as Python does it: a half goes to the even neighbour. */
const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** Columns `from` to `to` of each row, resized to `size` with Pillow's HAMMING; transposed. */
function resized({ pixels, width, height }, from, to, size) {
  const scale = (to - from) / size, reach = Math.max(scale, 1);
  const out = new Uint8ClampedArray(size * height);
  for (let column = 0; column < size; column++) {
    const centre = from + (column + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(width, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, place) => {
      const x = (Math.PI * (first + place - centre + 0.5)) / reach;
      if (Math.abs(x) >= Math.PI) return 0;
      return x ? (Math.sin(x) / x) * (0.54 + 0.46 * Math.cos(x)) : 1;
    });
    const all = weights.reduce((sum, weight) => sum + weight, 0);
    for (let row = 0; row < height; row++) {
      const start = row * width + first;
      const sum = weights.reduce((total, weight, i) => total + weight * pixels[start + i], 0);
      out[column * height + row] = Math.floor(sum / all + 0.5);
    }
  }
  return { pixels: out, width: height, height: size };
}

/** The ink in MNIST's box of 20 × 20, its centre of mass at the centre of the image. */
function centred(ink) {
  let [left, top, right, bottom] = [Infinity, Infinity, 0, 0];
  ink.pixels.forEach((grey, place) => {
    if (grey <= 127) return;
    const x = place % ink.width, y = Math.floor(place / ink.width);
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
  });
  const image = new Uint8ClampedArray(H * W);
  if (!right) return image;
  // Other sizes, such as digits8x8, have no margin around the ink.
  const share = H === 28 && W === 28 ? 20 / 28 : 1;
  const scale = Math.min(H / (bottom - top), W / (right - left)) * share;
  const [wide, high] = [right - left, bottom - top].map((side) => Math.max(1, even(side * scale)));
  const { pixels } = resized(resized(ink, left, right, wide), top, bottom, high);
  const x = (place) => place % wide, y = (place) => Math.floor(place / wide);
  const sum = (of) => pixels.reduce((total, grey, place) => total + grey * of(place), 0);
  const start = (whole, part, of) =>
    Math.min(Math.max(even(whole / 2 - sum(of) / sum(() => 1)), 0), whole - part);
  const x0 = start(W, wide, x), y0 = start(H, high, y);
  // Strokes thinner than a pixel are faint now; MNIST's are not.
  const most = pixels.reduce((peak, grey) => Math.max(peak, grey));
  pixels.forEach((grey, place) => {
    image[(y0 + y(place)) * W + x0 + x(place)] = even((grey * 255) / most);
  });
  return image;
}

/** The mean of each cell × cell block of pixels. */
function blocks({ pixels, width }, cell) {
  const sums = new Float32Array(H * W), small = (place) => Math.floor(place / cell);
  const cellOf = (place) => small(place / width) * W + small(place % width);
  pixels.forEach((grey, place) => { sums[cellOf(place)] += grey; });
  return Uint8ClampedArray.from(sums, (sum) => Math.round(sum / cell ** 2));
}

/* ---- What is shown -------------------------------------------------------------------------- */

/** A new element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (onclick, properties, ...children) =>
  make("button", { type: "button", onclick, ...properties }, ...children);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const named = (label) => data.classes[label];

/** Draw H × W pixels into a canvas; `color` gives red, green, blue and alpha of a value. */
function paint(canvas, values, color = (grey) => [grey, grey, grey, 255]) {
  [canvas.width, canvas.height] = [W, H];
  const rgba = Uint8ClampedArray.from(Array.from(values).flatMap(color));
  canvas.getContext("2d").putImageData(new ImageData(rgba, W, H), 0, 0);
  return canvas;
}

const pad = byId("pad"), cell = Math.max(1, Math.round(280 / Math.max(H, W)));
/* On the pad: an image of the gallery or nothing, and the strokes over it. */
const drawn = { base: null, strokes: [], erases: false };
let seen = new Uint8ClampedArray(H * W);

/** Draw everything anew, and return it as grey levels of the pad. */
function render() {
  const context = pad.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, pad.width, pad.height);
  context.imageSmoothingEnabled = false;
  const base = drawn.base && paint(make("canvas"), drawn.base.image);
  if (base) context.drawImage(base, 0, 0, pad.width, pad.height);
  for (const { erases, points } of drawn.strokes) {
    const style = { lineCap: "round", lineJoin: "round", lineWidth: Math.max(22, 1.3 * cell) };
    Object.assign(context, style, { strokeStyle: erases ? "#000" : "#fff" });
    context.beginPath();
    context.moveTo(...points[0]);
    points.forEach((point) => context.lineTo(...point));
    context.stroke();
  }
  const { data: rgba, width, height } = context.getImageData(0, 0, pad.width, pad.height);
  return { width, height, pixels: rgba.filter((_, place) => place % 4 === 0) };
}

/** Show what the model sees and answers now. */
function update() {
  const ink = render(), { base, strokes } = drawn;
  if (base) seen = blocks(ink, cell);
  else if (data.digits) seen = centred(ink);
  else seen = resized(resized(ink, 0, ink.width, W), 0, ink.height, H).pixels;
  paint(byId("seen"), seen);
  const isEmpty = !seen.some((grey) => grey);
  const shares = isEmpty ? data.classes.map(() => 0) : probabilities(seen);
  const best = shares.indexOf(Math.max(...shares));
  [...byId("bars").children].forEach((line, label) => {
    line.classList.toggle("best", !isEmpty && label === best);
    line.querySelector("i").style.width = `${100 * shares[label]}%`;
    line.lastChild.textContent = isEmpty ? "" : percent(shares[label]);
  });
  byId("answer").textContent = isEmpty ? "–" : named(best);
  const words = base ? `Test image ${base.row}, labelled ${named(base.label)}` : "";
  byId("origin").textContent = words + (base && strokes.length ? ", altered" : "");
  markActive();
}

function load(row) {
  Object.assign(drawn, { base: row, strokes: [] });
  update();
  byId("try").scrollIntoView({ block: "nearest" });
}

/** A point of the pad under the pointer. */
function pointOf(event) {
  const { left, top, width } = pad.getBoundingClientRect(), scale = pad.width / width;
  return [(event.clientX - left) * scale, (event.clientY - top) * scale];
}

function startPad() {
  unpack();
  [pad.width, pad.height] = [W * cell, H * cell];
  pad.parentElement.hidden = !data.draw;
  byId("bars").append(...data.classes.map((name) =>
    make("li", {}, make("b", {}, name), make("span", {}, make("i")), make("span"))));
  pad.onpointerdown = (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    drawn.strokes.push({ erases: drawn.erases, points: [pointOf(event)] });
    update();
  };
  pad.onpointermove = (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    drawn.strokes.at(-1).points.push(...(events.length ? events : [event]).map(pointOf));
    update();
  };
  byId("undo").onclick = () => { if (!drawn.strokes.pop()) drawn.base = null; update(); };
  byId("clear").onclick = () => { Object.assign(drawn, { base: null, strokes: [] }); update(); };
  byId("eraser").onclick = ({ target }) => { target.ariaPressed = drawn.erases = !drawn.erases; };
  byId("units").ontoggle = byId("all-units").onchange = showUnits;
  const right = rows.filter(({ label, answer }) => label === answer);
  byId("wrong").onclick = () => gallery(byId("loads"), errors, "Misclassified, the surest first");
  byId("right").onclick = () => gallery(byId("loads"), right, "Correct, class by class");
  byId(errors.length ? "wrong" : "right").click();
  if (!data.draw) drawn.base = errors[0] ?? right[0];
  update();
}

/** Show the first layer's weights as pictures; units that weigh most in the next layer first. */
function showUnits() {
  const [first, second] = linear;
  const sums = new Float32Array(first.outputs);
  second?.weights.forEach((weight, place) => { sums[place % second.inputs] += weight ** 2; });
  const order = [...sums.keys()].sort((a, b) => sums[b] - sums[a]);
  const shown = byId("all-units").checked ? order : order.slice(0, 32);
  byId("unit-pictures").replaceChildren(...shown.map((unit) => {
    const weights = first.weights.subarray(unit * H * W, (unit + 1) * H * W);
    const most = weights.reduce((peak, weight) => Math.max(peak, Math.abs(weight)), 1e-9);
    const color = (w) => [...(w > 0 ? [230, 120, 0] : [0, 110, 200]), (380 * Math.abs(w)) / most];
    return Object.assign(paint(make("canvas"), weights, color), { title: `unit ${unit}`, unit });
  }));
  markActive();
}

/** Frame the pictures of the units that the image makes active. */
function markActive() {
  const first = data.layers.slice(0, linear[1] && data.layers.indexOf(linear[1]));
  const values = run(seen, first), most = Math.max(...values);
  [...byId("unit-pictures").children].forEach((picture) =>
    picture.classList.toggle("active", values[picture.unit] > most / 4));
}

/** Show images, 20 at a time; touching one loads it into the pad. */
function gallery(root, some, title, page = 0) {
  const shown = some.slice(20 * page, 20 * page + 20).map((row) => {
    const words = `${named(row.label)} → ${named(row.answer)}\n${percent(row.sure)}`;
    const properties = { title: `test image ${row.row}`, disabled: !data.weights };
    return button(() => load(row), properties, paint(make("canvas"), row.image), words);
  });
  const pages = Math.ceil(some.length / 20);
  const turn = (to, word) => button(() => {
    gallery(root, some, title, to);
    const left = [...root.querySelectorAll(".turns button:enabled")];
    (left.find((other) => other.textContent === word) ?? left[0]).focus();
  }, { disabled: to < 0 || to >= pages }, word);
  const turns = [turn(page - 1, "‹ before"), `${page + 1} of ${pages}`, turn(page + 1, "next ›")];
  root.replaceChildren(make("p", { className: "soft", role: "status" }, title),
    make("div", { className: "images" }, ...shown),
    make("p", { className: "turns", hidden: pages < 2 }, ...turns));
}

/* ---- Tables ------------------------------------------------------------------------------- */

/** Make the cells of the confusion matrix buttons that show their images. */
function startMatrix() {
  const closer = byId("closer");
  [...byId("matrix").tBodies[0].rows].forEach((line, label) => {
    [...line.cells].slice(1).forEach((place, answer) => {
      const count = Number(place.textContent.replace(/\D/g, ""));
      if (!count) return;
      const some = rows.filter((row) => row.label === label && row.answer === answer);
      const words = `${named(label)} named ${named(answer)}`, text = place.textContent;
      const show = () => gallery(closer, some, `${words}: ${some.length} of ${count} images`);
      place.replaceChildren(button(show, { ariaLabel: `${text}, ${words}` }, text));
    });
  });
  const title = `${errors.length} of ${closer.dataset.errors} errors, the surest first`;
  byId("all-errors").onclick = () => gallery(closer, errors, title);
  byId("all-errors").click();
}

/** A cell as what it is sorted by: its number, or its text. */
function valueOf(line, column) {
  const text = line.cells[column].textContent.trim(), number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

/** Make the headers of a table buttons: the first click sorts upwards, the second downwards. */
function startSorting(table) {
  let next = 0;
  [...table.tHead.rows[0].cells].forEach((header) => {
    const column = next;
    next += header.colSpan;
    const sort = () => {
      const down = header.ariaSort === "ascending", body = table.tBodies[0];
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      header.ariaSort = down ? "descending" : "ascending";
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
      body.append(...[...body.rows].sort((a, b) => order(valueOf(a, column), valueOf(b, column))));
    };
    header.append(button(sort, {}, ...header.childNodes));
  });
}

document.documentElement.classList.add("scripted");
const all = (selector) => document.querySelectorAll(selector);
all(".live").forEach((part) => { part.hidden = false; });
all("table.sorts").forEach(startSorting);
if (data.weights) startPad();
startMatrix();

/* Nothing is folded away on paper. */
addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
