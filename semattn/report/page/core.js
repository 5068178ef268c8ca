// Content, state, and the few ways in which the page is built. Text goes in as text, never as HTML.

const content = JSON.parse(document.getElementById('content').textContent);
const STRATA = ['EMPTY', 'LOW', 'HIGH'];
const MEAN = -1; // the head that stands for the mean over heads

function byId(id) {
  return document.getElementById(id);
}

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) found[i] = raw.charCodeAt(i);
  return found;
}

function floats(text) {
  const view = new DataView(bytes(text).buffer);
  const found = new Float32Array(view.byteLength / 4);
  for (let i = 0; i < found.length; i += 1) found[i] = view.getFloat32(4 * i, true);
  return found;
}

// An element with properties (or attributes, where the name has a dash or is `role`) and children.
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

// One state for the whole page; what draws listens, and is told after every change.
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

// Numbers as people read them.
function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return '< 0.1 %';
  return `${value.toFixed(value < 9.95 ? 1 : 0)} %`;
}

function figure(value, digits = 2) {
  if (value === null || value === undefined) return '–';
  const said = value.toFixed(digits);
  return Number(said) === 0 ? said.replace('-', '') : said.replace('-', '\u2212');
}

function signed(value, digits = 1) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value).toFixed(digits);
  if (Number(size) === 0) return size;
  return (value > 0 ? '+' : '\u2212') + size;
}

function count(number, thing) {
  return `${number} ${thing}${number === 1 ? '' : 's'}`;
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

// A colour scale with words at its ends.
function legend(place, palette, low, high) {
  const stops = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];
  const bar = make('span', { className: 'ramp', 'aria-hidden': 'true' });
  const colours = stops.map((stop) => `rgb(${colour(palette, stop).join(' ')})`);
  bar.style.background = `linear-gradient(to right, ${colours.join(', ')})`;
  place.replaceChildren(make('span', { textContent: low }), bar, make('span', { textContent: high }));
}

let made = 0;
// A labelled slider; `said` tells its value in words, for eyes and for screen readers.
function slider(place, { label, min, max, step = 1, value, said, input }) {
  made += 1;
  const id = `slider-${made}`;
  const range = make('input', { type: 'range', id, min, max, step });
  const shown = make('output', { for: id });
  const update = (now) => {
    range.value = now;
    shown.textContent = said(Number(range.value));
    range.setAttribute('aria-valuetext', shown.textContent);
    range.disabled = Number(range.min) === Number(range.max);
  };
  range.addEventListener('input', () => {
    update(range.value);
    input(Number(range.value));
  });
  place.append(make('div', { className: 'slider' }, make('label', { for: id, textContent: label }), shown, range));
  update(value);
  return { range, update };
}

function toggle(place, label, checked, input) {
  const box = make('input', { type: 'checkbox', checked });
  box.addEventListener('change', () => input(box.checked));
  place.append(make('label', { className: 'check' }, box, make('span', { textContent: label })));
  return box;
}

// The numbers of the layers that can be chosen, and how many heads each has.
const layers = (content.attention ?? content.analysis ?? { layers: [] }).layers;
const numbers = layers.map((one) => one.layer);

function layerAt(number) {
  return layers[numbers.indexOf(number)];
}

function headWords(head) {
  return head === MEAN ? 'mean over heads' : `head ${head}`;
}

// Layer and head: as often as they are needed, and always of one mind.
function headSliders(place) {
  const layer = slider(place, {
    label: 'Layer',
    min: 0,
    max: numbers.length - 1,
    value: numbers.indexOf(state.layer),
    said: (at) => [numbers[at], layers[at].name].filter((part) => part !== undefined).join(' · '),
    input: (at) => chooseHead(numbers[at], state.head),
  });
  const head = slider(place, {
    label: 'Head',
    min: MEAN,
    max: layerAt(state.layer).heads - 1,
    value: state.head,
    said: (at) => (at === MEAN ? 'mean over heads' : `${at} of 0–${layerAt(state.layer).heads - 1}`),
    input: (at) => chooseHead(state.layer, at),
  });
  listen(() => {
    layer.update(numbers.indexOf(state.layer));
    head.range.max = layerAt(state.layer).heads - 1;
    head.update(state.head);
  });
}

state.layer = numbers[numbers.length - 1] ?? 0;

function chooseHead(layer, head) {
  change({ layer, head: Math.min(head, layerAt(layer).heads - 1) });
}
