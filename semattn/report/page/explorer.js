// Patch explorer: attention from and to a patch, relevance and concentration.

// Attention rows as stored in the file: a = scale (code / 255)^2.
class Attention {
  constructor(part) {
    this.tokens = part.tokens;
    this.prefix = part.prefix;
    this.layers = part.layers;
    this.sets = {};
    for (const name of ['heads', 'mean']) {
      if (!part[name]) continue;
      const heads = this.layers.map((layer) => (name === 'heads' ? layer.heads : 1));
      const starts = heads.map((_, at) => heads.slice(0, at).reduce((sum, number) => sum + number, 0));
      this.sets[name] = {
        starts,
        rows: part[name].rows,
        place: new Map(part[name].rows.map((token, at) => [token, at])),
        codes: bytes(part[name].codes),
        scales: floats(part[name].scales),
      };
    }
  }

  // Return the set with the rows of a head, and the heads in it to average.
  source(layer, head) {
    const heads = this.layers[layer].heads;
    if (head !== MEAN) return [this.sets.heads, [head]];
    if (this.sets.mean) return [this.sets.mean, [0]];
    return [this.sets.heads, [...Array(heads).keys()]];
  }

  // Attention of `token` to each token; null if its row is not stored.
  row(token, layer, selectedHead) {
    const [set, heads] = this.source(layer, selectedHead);
    const place = set?.place.get(token);
    if (place === undefined) return null;
    const weights = new Float32Array(this.tokens);
    for (const head of heads) {
      const row = (set.starts[layer] + head) * set.rows.length + place;
      const scale = set.scales[row] / (heads.length * 65025);
      for (let i = 0; i < this.tokens; i += 1) {
        weights[i] += scale * set.codes[row * this.tokens + i] ** 2;
      }
    }
    return weights;
  }

  // Attention of each token to `token`; null for tokens whose row is not stored.
  column(token, layer, selectedHead) {
    const [set, heads] = this.source(layer, selectedHead);
    const weights = Array(this.tokens).fill(null);
    if (!set) return weights;
    set.rows.forEach((query, place) => {
      let sum = 0;
      for (const head of heads) {
        const row = (set.starts[layer] + head) * set.rows.length + place;
        sum += set.scales[row] * set.codes[row * this.tokens + token] ** 2;
      }
      weights[query] = sum / (heads.length * 65025);
    });
    return weights;
  }
}

const MODES = {
  attends: 'Attends to',
  attended: 'Attended by',
  relevance: 'Relevance',
  concentration: 'Concentration',
};

function where(patch) {
  const w = content.image.grid[1];
  return `row ${Math.floor(patch / w) + 1}, column ${(patch % w) + 1}`;
}

function explorer() {
  const { image, explanation } = content;
  const attention = content.attention ? new Attention(content.attention) : null;
  const prefix = attention?.prefix ?? 0;
  const patches = image.grid[0] * image.grid[1];
  const relevance = bytes(explanation.relevance);
  const highest = Math.max(...image.lift, 1);
  const classToken = attention?.sets.heads?.place.has(0) || attention?.sets.mean?.place.has(0);
  const prefixName = content.attention?.reads_class_token ? 'class token' : 'first prefix token';
  const shown = { grid: true, keypoints: true };

  const token = () => state.hovered ?? state.token;
  const layerIndex = () => layerNumbers.indexOf(state.layer);

  // Return a function of the patch with the value to draw in the current state.
  function values(head = state.head) {
    if (state.mode === 'relevance') return (patch) => relevance[patch] / 255;
    if (state.mode === 'concentration') return (patch) => Math.min(image.lift[patch] / highest, 1);
    const weights = attention[state.mode === 'attends' ? 'row' : 'column'](token(), layerIndex(), head);
    if (!weights) return () => null;
    let largest = 0;
    for (let i = prefix; i < weights.length; i += 1) largest = Math.max(largest, weights[i] ?? 0);
    const value = (patch) => {
      const weight = weights[prefix + patch];
      return weight === null ? null : weight / (largest || 1);
    };
    value.largest = largest;
    value.weights = weights;
    return value;
  }

  const palette = () => (state.mode in { relevance: 1, concentration: 1 } ? state.mode : 'attention');

  const stage = new Stage(byId('explorer-stage'), {
    alt: `The image ${image.name}, ${image.size[1]} × ${image.size[0]} pixels, as the model sees it`,
    interactive: true,
    draws: (self) => {
      const value = values();
      if (!(value(0) === null && !value.weights)) self.patches(palette(), value);
      if (shown.grid) self.grid();
      if (shown.keypoints) self.keypoints();
      if (token() >= prefix) self.ring(token() - prefix);
    },
  });
  const { canvas } = stage;
  canvas.tabIndex = 0;
  canvas.id = 'patches';
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-roledescription', 'grid of patches');
  canvas.setAttribute('aria-label', `${image.grid[0]} rows and ${image.grid[1]} columns of patches over ${image.name}`);
  canvas.setAttribute('aria-describedby', 'explorer-hint readout');

  canvas.addEventListener('pointermove', (event) => {
    if (event.pointerType === 'touch') return;
    const patch = stage.patchAt(event);
    change({ hovered: patch === null ? null : prefix + patch });
  });
  canvas.addEventListener('pointerleave', () => change({ hovered: null }));
  canvas.addEventListener('click', (event) => {
    const patch = stage.patchAt(event);
    if (patch !== null) change({ token: prefix + patch, hovered: null });
  });
  canvas.addEventListener('keydown', (event) => {
    const w = image.grid[1];
    const at = Math.max(token() - prefix, 0);
    const column = at % w;
    const moves = {
      ArrowLeft: column > 0 ? -1 : 0,
      ArrowRight: column < w - 1 ? 1 : 0,
      ArrowUp: at >= w ? -w : 0,
      ArrowDown: at + w < patches ? w : 0,
      Home: -column,
      End: w - 1 - column,
    };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    change({ token: prefix + at + moves[event.key], hovered: null });
  });

  for (const [mode, label] of Object.entries(MODES)) {
    if (!attention && mode.startsWith('att')) continue;
    const radio = make('input', { type: 'radio', name: 'mode', value: mode, checked: mode === state.mode });
    radio.addEventListener('change', () => change({ mode }));
    byId('explorer-modes').append(make('label', {}, radio, make('span', { textContent: label })));
  }
  if (attention) headSliders(byId('explorer-sliders'));
  const toggles = byId('explorer-toggles');
  for (const [name, label] of [['grid', 'Patch grid'], ['keypoints', 'Keypoints']]) {
    if (name === 'keypoints' && !image.keypoints.length) continue;
    toggle(toggles, label, true, (checked) => {
      shown[name] = checked;
      stage.redraw();
    });
  }
  let button = null;
  if (attention && prefix && classToken) {
    button = make('button', { type: 'button', id: 'class-token', textContent: prefixName[0].toUpperCase() + prefixName.slice(1) });
    button.addEventListener('click', () => change({ token: state.token === 0 ? prefix + best() : 0, hovered: null }));
    toggles.append(button);
  }

  function best() {
    return explanation.values.reduce((top, value, at, all) => (value > all[top] ? at : top), 0);
  }

  // Return lines of text about the current patch: position, content, and values of the shown map.
  function readoutLines() {
    const current = token();
    const lines = [];
    if (current < prefix) lines.push([`The ${current === 0 ? prefixName : `prefix token ${current}`}`, '']);
    else {
      const patch = current - prefix;
      lines.push([where(patch)[0].toUpperCase() + where(patch).slice(1), '']);
      lines.push([count(image.counts[patch], 'keypoint'), `concentration ${figure(image.lift[patch], 1)} × average`]);
      lines.push([STRATA[image.strata[patch]], stratumText(patch)]);
      const rank = explanation.values.filter((value) => value > explanation.values[patch]).length + 1;
      lines.push(['Relevance', `rank ${rank} of ${patches}`]);
    }
    if (attention && state.mode.startsWith('att')) lines.push(...attentionText(current));
    return lines;
  }

  // HIGH and LOW are equally many, so patches with the median concentration are in both.
  function stratumText(patch) {
    const stratum = image.strata[patch];
    if (stratum === 0) return 'density 0; its concentration comes from smoothing';
    const tied = image.lift.flatMap((lift, at) => (lift === image.lift[patch] && image.strata[at] ? [image.strata[at]] : []));
    if (new Set(tied).size > 1) {
      const high = tied.filter((one) => one === 2).length;
      return `drawn at random: ${tied.length} patches have the median concentration, ${high} of them are HIGH`;
    }
    return `the ${stratum === 2 ? 'upper' : 'lower'} half of the patches whose density is not 0`;
  }

  function attentionText(current) {
    const value = values();
    const at = `layer ${state.layer}, ${headText(state.head)}`;
    if (!value.weights) return [['Attention', `no row is stored for this ${current < prefix ? 'token' : 'patch'} (${at})`]];
    const weights = value.weights;
    let top = -1;
    for (let i = prefix; i < weights.length; i += 1) {
      if (weights[i] !== null && (top < 0 || weights[i] > weights[top])) top = i;
    }
    if (top < 0) return [['Attention', `no patch has a stored row (${at})`]];
    if (state.mode === 'attended') {
      const stored = weights.filter((weight, i) => i >= prefix && weight !== null);
      const mean = stored.reduce((sum, weight) => sum + weight, 0) / stored.length;
      const others = stored.length < patches ? `, of ${stored.length} patches with a row` : '';
      return [
        ['Strongest query', `${where(top - prefix)} attends to it with ${percent(weights[top])}`],
        ['Mean over queries', `${percent(mean)}${others}; uniform is ${percent(1 / attention.tokens)}`],
      ];
    }
    const lines = [['Strongest key', `${where(top - prefix)}, ${percent(weights[top])}`]];
    if (current >= prefix) lines.push(['Itself', percent(weights[current])]);
    if (prefix) {
      const toPrefix = weights.slice(0, prefix).reduce((sum, weight) => sum + weight, 0);
      lines.push([prefix === 1 ? `To the ${prefixName}` : `To ${prefix} prefix tokens`, percent(toPrefix)]);
    }
    const high = image.strata.reduce((sum, stratum, patch) => sum + (stratum === 2 ? weights[prefix + patch] : 0), 0);
    const uniform = image.strata.filter((stratum) => stratum === 2).length / attention.tokens;
    if (uniform) lines.push(['To HIGH patches', `${percent(high)}; uniform is ${percent(uniform)}`]);
    return lines;
  }

  function scale() {
    const place = byId('explorer-legend');
    if (state.mode === 'relevance') legend(place, 'relevance', 'low', explanation.signed ? 'high (positive part), relative to this picture' : 'high, relative to this picture');
    else if (state.mode === 'concentration') legend(place, 'concentration', '0', `${figure(highest, 1)} × average`);
    else {
      const { largest } = values();
      if (largest === undefined) place.replaceChildren(make('span', { textContent: 'no row is stored here' }));
      else legend(place, 'attention', '0', `${(100 * largest).toPrecision(2)} %`);
    }
  }

  // Show all heads of the layer as small pictures; each is a button.
  function strip() {
    const place = byId('strip-heads');
    byId('strip').hidden = !attention || !state.mode.startsWith('att');
    if (byId('strip').hidden) return;
    const heads = [MEAN, ...Array(layerAt(state.layer).heads).keys()];
    if (place.children.length !== heads.length) {
      place.replaceChildren(...heads.map((head) => {
        const small = make('canvas', { width: image.grid[1], height: image.grid[0], 'aria-hidden': 'true' });
        const button = make('button', { type: 'button' }, small, make('span', { textContent: head === MEAN ? 'mean' : `${head}` }));
        button.setAttribute('aria-label', headText(head));
        button.addEventListener('click', () => chooseHead(state.layer, head));
        return button;
      }));
    }
    heads.forEach((head, at) => {
      const headButton = place.children[at];
      headButton.setAttribute('aria-pressed', String(head === state.head));
      const pen = headButton.firstChild.getContext('2d');
      const picture = new ImageData(image.grid[1], image.grid[0]);
      const value = values(head);
      for (let patch = 0; patch < patches; patch += 1) {
        const weight = value(patch);
        picture.data.set(weight === null ? [128, 128, 128, 60] : [...colour('attention', weight), 255], 4 * patch);
      }
      pen.putImageData(picture, 0, 0);
    });
  }

  function update() {
    stage.element.classList.toggle('dim', state.mode !== 'relevance');
    stage.redraw();
    byId('readout').replaceChildren(...readoutLines().map(([name, text]) =>
      make('p', {}, make('strong', { textContent: name }), text ? ` ${text}` : '')));
    if (button) button.setAttribute('aria-pressed', String(token() === 0 && prefix > 0));
    byId('explorer-sliders').hidden = !state.mode.startsWith('att');
    scale();
    strip();
    byId('explorer-lead').textContent = lead();
  }

  function lead() {
    const parts = [`${image.grid[0]} × ${image.grid[1]} patches`];
    if (image.detector) parts.push(`${count(image.keypoints.length, 'keypoint')} by ${image.detector}`);
    if (attention && state.mode.startsWith('att')) {
      const { differs } = layerAt(state.layer);
      if (differs) parts.push(`layer ${state.layer} ${differs}, shown on this grid`);
    }
    return parts.join('  ·  ');
  }

  state.token = prefix + best();
  if (attention) {
    state.mode = 'attends';
    byId('explorer-modes').querySelector('input').checked = true;
  }
  show('explorer');
  listen(update);
  for (const listener of listeners) listener({});
}
