// Content, state and shared elements of the page. Text is inserted as text, never as HTML.

const content = JSON.parse(document.getElementById('content').textContent);
const STRATA = ['EMPTY', 'LOW', 'HIGH'];
const MEAN = -1; // head index of the mean over heads

function byId(id) {
  return document.getElementById(id);
}

function bytes(text) {
  const raw = atob(text);
  const values = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) values[i] = raw.charCodeAt(i);
  return values;
}

function floats(text) {
  const view = new DataView(bytes(text).buffer);
  const values = new Float32Array(view.byteLength / 4);
  for (let i = 0; i < values.length; i += 1) values[i] = view.getFloat32(4 * i, true);
  return values;
}

// Return an element with properties (attributes if the name has a dash or is `role` or `for`) and children.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'for') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function show(id) {
  byId(id).hidden = false;
}

// State of the whole page; listeners are called after every change.
const state = { token: null, hovered: null, layer: 0, head: MEAN, mode: 'relevance', step: 0 };
const listeners = [];

function listen(listener) {
  listeners.push(listener);
}

function change(part) {
  if (Object.entries(part).every(([name, value]) => state[name] === value)) return;
  Object.assign(state, part);
  for (const listener of listeners) listener(part);
}

// Numbers as text.
function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return '< 0.1 %';
  return `${value.toFixed(value < 9.95 ? 1 : 0)} %`;
}

function figure(value, digits = 2) {
  if (value === null || value === undefined) return '–';
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace('-', '') : text.replace('-', '\u2212');
}

function signed(value, digits = 1) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value).toFixed(digits);
  if (Number(size) === 0) return size;
  return (value > 0 ? '+' : '\u2212') + size;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

// 256 colours of a palette, as bytes: red, green, blue, red, …
const ramps = {};
for (const [name, digits] of Object.entries(content.palettes)) {
  ramps[name] = Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
}

function colour(palette, value) {
  const at = 3 * Math.max(0, Math.min(255, Math.round(255 * value)));
  return ramps[palette].subarray(at, at + 3);
}

// Show a colour scale with a label at each end.
function legend(place, palette, low, high) {
  const stops = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];
  const bar = make('span', { className: 'ramp', 'aria-hidden': 'true' });
  const colours = stops.map((stop) => `rgb(${colour(palette, stop).join(' ')})`);
  bar.style.background = `linear-gradient(to right, ${colours.join(', ')})`;
  place.replaceChildren(make('span', { textContent: low }), bar, make('span', { textContent: high }));
}

// Return the bar of a class, with the parts that show its probability.
function classBar(entry) {
  const fill = make('span', { className: 'fill' });
  const share = make('span', { className: 'share' });
  const label = make('span', { className: 'label', textContent: entry.label });
  if (entry.explained) label.append(make('em', { textContent: ' explained' }));
  const bar = make('div', { className: 'bar' }, label, share, make('span', { className: 'track' }, fill));
  return { bar, fill, share };
}

let sliderCount = 0;
// Add a labelled slider; `describe` returns its value as text, also for screen readers.
function slider(place, { label, min, max, step = 1, value, describe, input }) {
  sliderCount += 1;
  const id = `slider-${sliderCount}`;
  const range = make('input', { type: 'range', id, min, max, step });
  const output = make('output', { for: id });
  const update = (newValue) => {
    range.value = newValue;
    output.textContent = describe(Number(range.value));
    range.setAttribute('aria-valuetext', output.textContent);
    range.disabled = Number(range.min) === Number(range.max);
  };
  range.addEventListener('input', () => {
    update(range.value);
    input(Number(range.value));
  });
  place.append(make('div', { className: 'slider' }, make('label', { for: id, textContent: label }), output, range));
  update(value);
  return { range, update };
}

function toggle(place, label, checked, input) {
  const box = make('input', { type: 'checkbox', checked });
  box.addEventListener('change', () => input(box.checked));
  place.append(make('label', { className: 'check' }, box, make('span', { textContent: label })));
  return box;
}

// Layers that can be selected, with their layerNumbers of heads.
const layers = (content.attention ?? content.analysis ?? { layers: [] }).layers;
const layerNumbers = layers.map((layer) => layer.layer);

function layerAt(number) {
  return layers[layerNumbers.indexOf(number)];
}

function headText(head) {
  return head === MEAN ? 'mean over heads' : `head ${head}`;
}

// Add sliders of layer and head; all of them show the same state.
function headSliders(place) {
  const layer = slider(place, {
    label: 'Layer',
    min: 0,
    max: layerNumbers.length - 1,
    value: layerNumbers.indexOf(state.layer),
    describe: (at) => [layerNumbers[at], layers[at].name].filter((part) => part !== undefined).join(' · '),
    input: (at) => chooseHead(layerNumbers[at], state.head),
  });
  const head = slider(place, {
    label: 'Head',
    min: MEAN,
    max: layerAt(state.layer).heads - 1,
    value: state.head,
    describe: (at) => (at === MEAN ? 'mean over heads' : `${at} of 0–${layerAt(state.layer).heads - 1}`),
    input: (at) => chooseHead(state.layer, at),
  });
  listen(() => {
    layer.update(layerNumbers.indexOf(state.layer));
    head.range.max = layerAt(state.layer).heads - 1;
    head.update(state.head);
  });
}

state.layer = layerNumbers[layerNumbers.length - 1] ?? 0;

function chooseHead(layer, head) {
  change({ layer, head: Math.min(head, layerAt(layer).heads - 1) });
}
