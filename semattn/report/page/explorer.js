// The attention explorer: where a patch attends, who attends to it, relevance and concentration.

// Rows of attention as the file keeps them: a = scale (code / 255)^2.
class Attention {
  constructor(part) {
    this.tokens = part.tokens;
    this.prefix = part.prefix;
    this.layers = part.layers;
    this.sets = {};
    for (const name of ['heads', 'mean']) {
      if (!part[name]) continue;
      const heads = this.layers.map((one) => (name === 'heads' ? one.heads : 1));
      const starts = heads.map((_, at) => heads.slice(0, at).reduce((sum, one) => sum + one, 0));
      this.sets[name] = {
        starts,
        rows: part[name].rows,
        place: new Map(part[name].rows.map((token, at) => [token, at])),
        codes: bytes(part[name].codes),
        scales: floats(part[name].scales),
      };
    }
  }

  // Which set answers for a head, and the heads of it that are to be averaged.
  source(layer, head) {
    const heads = this.layers[layer].heads;
    if (head !== MEAN) return [this.sets.heads, [head]];
    if (this.sets.mean) return [this.sets.mean, [0]];
    return [this.sets.heads, [...Array(heads).keys()]];
  }

  // How much `token` attends to each token, or null where its row was not kept.
  row(token, layer, head) {
    const [set, heads] = this.source(layer, head);
    const place = set?.place.get(token);
    if (place === undefined) return null;
    const found = new Float32Array(this.tokens);
    for (const one of heads) {
      const row = (set.starts[layer] + one) * set.rows.length + place;
      const scale = set.scales[row] / (heads.length * 65025);
      for (let i = 0; i < this.tokens; i += 1) {
        found[i] += scale * set.codes[row * this.tokens + i] ** 2;
      }
    }
    return found;
  }

  // How much each token attends to `token`; null for those whose row was not kept.
  column(token, layer, head) {
    const [set, heads] = this.source(layer, head);
    const found = Array(this.tokens).fill(null);
    if (!set) return found;
    set.rows.forEach((asking, place) => {
      let sum = 0;
      for (const one of heads) {
        const row = (set.starts[layer] + one) * set.rows.length + place;
        sum += set.scales[row] * set.codes[row * this.tokens + token] ** 2;
      }
      found[asking] = sum / (heads.length * 65025);
    });
    return found;
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
  const named = content.attention?.reads_class_token ? 'class token' : 'first prefix token';
  const shown = { grid: true, keypoints: true };

  const token = () => state.hovered ?? state.token;
  const layerIndex = () => numbers.indexOf(state.layer);

  // The values over the patches, as what is drawn, for the state of now.
  function values(head = state.head) {
    if (state.mode === 'relevance') return (patch) => relevance[patch] / 255;
    if (state.mode === 'concentration') return (patch) => Math.min(image.lift[patch] / highest, 1);
    const found = attention[state.mode === 'attends' ? 'row' : 'column'](token(), layerIndex(), head);
    if (!found) return () => null;
    let most = 0;
    for (let i = prefix; i < found.length; i += 1) most = Math.max(most, found[i] ?? 0);
    const value = (patch) => {
      const here = found[prefix + patch];
      return here === null ? null : here / (most || 1);
    };
    value.most = most;
    value.found = found;
    return value;
  }

  const palette = () => (state.mode in { relevance: 1, concentration: 1 } ? state.mode : 'attention');

  const stage = new Stage(byId('explorer-stage'), {
    alt: `The image ${image.name}, ${image.size[1]} × ${image.size[0]} pixels, as the model sees it`,
    interactive: true,
    draws: (self) => {
      const value = values();
      if (!(value(0) === null && !value.found)) self.patches(palette(), value);
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
    button = make('button', { type: 'button', id: 'class-token', textContent: named[0].toUpperCase() + named.slice(1) });
    button.addEventListener('click', () => change({ token: state.token === 0 ? prefix + best() : 0, hovered: null }));
    toggles.append(button);
  }

  function best() {
    return explanation.values.reduce((top, value, at, all) => (value > all[top] ? at : top), 0);
  }

  // The patch in words: where it is, what lies in it, and what the map of now says of it.
  function words() {
    const now = token();
    const lines = [];
    if (now < prefix) lines.push([`The ${now === 0 ? named : `prefix token ${now}`}`, '']);
    else {
      const patch = now - prefix;
      lines.push([where(patch)[0].toUpperCase() + where(patch).slice(1), '']);
      lines.push([count(image.counts[patch], 'keypoint'), `${STRATA[image.strata[patch]]}, ${figure(image.lift[patch], 1)} × uniform concentration`]);
      const rank = explanation.values.filter((value) => value > explanation.values[patch]).length + 1;
      lines.push(['Relevance', `rank ${rank} of ${patches}`]);
    }
    if (attention && state.mode.startsWith('att')) lines.push(...attentionWords(now));
    return lines;
  }

  function attentionWords(now) {
    const value = values();
    const at = `layer ${state.layer}, ${headWords(state.head)}`;
    if (!value.found) return [['Attention', `no row is stored for this ${now < prefix ? 'token' : 'patch'} (${at})`]];
    const found = value.found;
    let top = -1;
    for (let i = prefix; i < found.length; i += 1) {
      if (found[i] !== null && (top < 0 || found[i] > found[top])) top = i;
    }
    if (top < 0) return [['Attention', `no patch has a stored row (${at})`]];
    if (state.mode === 'attended') {
      const known = found.filter((one, i) => i >= prefix && one !== null);
      const mean = known.reduce((sum, one) => sum + one, 0) / known.length;
      const others = known.length < patches ? `, of ${known.length} patches with a row` : '';
      return [
        ['Strongest query', `${where(top - prefix)} attends to it with ${percent(found[top])}`],
        ['Mean over queries', `${percent(mean)}${others}; uniform is ${percent(1 / attention.tokens)}`],
      ];
    }
    const lines = [['Strongest key', `${where(top - prefix)}, ${percent(found[top])}`]];
    if (now >= prefix) lines.push(['Itself', percent(found[now])]);
    if (prefix) {
      const taken = found.slice(0, prefix).reduce((sum, one) => sum + one, 0);
      lines.push([prefix === 1 ? `To the ${named}` : `To ${prefix} prefix tokens`, percent(taken)]);
    }
    const high = image.strata.reduce((sum, one, patch) => sum + (one === 2 ? found[prefix + patch] : 0), 0);
    const even = image.strata.filter((one) => one === 2).length / attention.tokens;
    if (even) lines.push(['To HIGH patches', `${percent(high)}; uniform is ${percent(even)}`]);
    return lines;
  }

  function scale() {
    const place = byId('explorer-legend');
    if (state.mode === 'relevance') legend(place, 'relevance', 'low', explanation.signed ? 'high (positive part)' : 'high');
    else if (state.mode === 'concentration') legend(place, 'concentration', '0', `${figure(highest, 1)} × uniform`);
    else {
      const { most } = values();
      if (most === undefined) place.replaceChildren(make('span', { textContent: 'no row is stored here' }));
      else legend(place, 'attention', '0', `${(100 * most).toPrecision(2)} %`);
    }
  }

  // All heads of the layer as small pictures; each is a button.
  function strip() {
    const place = byId('strip-heads');
    byId('strip').hidden = !attention || !state.mode.startsWith('att');
    if (byId('strip').hidden) return;
    const heads = [MEAN, ...Array(layerAt(state.layer).heads).keys()];
    if (place.children.length !== heads.length) {
      place.replaceChildren(...heads.map((head) => {
        const small = make('canvas', { width: image.grid[1], height: image.grid[0], 'aria-hidden': 'true' });
        const one = make('button', { type: 'button' }, small, make('span', { textContent: head === MEAN ? 'mean' : `${head}` }));
        one.setAttribute('aria-label', headWords(head));
        one.addEventListener('click', () => chooseHead(state.layer, head));
        return one;
      }));
    }
    heads.forEach((head, at) => {
      const one = place.children[at];
      one.setAttribute('aria-pressed', String(head === state.head));
      const pen = one.firstChild.getContext('2d');
      const picture = new ImageData(image.grid[1], image.grid[0]);
      const value = values(head);
      for (let patch = 0; patch < patches; patch += 1) {
        const here = value(patch);
        picture.data.set(here === null ? [128, 128, 128, 60] : [...colour('attention', here), 255], 4 * patch);
      }
      pen.putImageData(picture, 0, 0);
    });
  }

  function update() {
    stage.element.classList.toggle('dim', state.mode !== 'relevance');
    stage.redraw();
    byId('readout').replaceChildren(...words().map(([name, text]) =>
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
