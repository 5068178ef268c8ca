// Comparison of methods: one map per card, each with its own scale, and two of them blended over the image.

function methods() {
  const part = content.comparison;
  const rows = part.rows.filter((row) => !row.refusal);
  const maps = new Map(rows.map((row) => [row.method, bytes(row.map)]));
  const chosen = { a: rows[0], b: rows[Math.min(1, rows.length - 1)], mix: 0, opacity: 1 };
  const stages = [];

  // Value of a map at a fraction of its height and width, at any resolution.
  function at(row, down, across) {
    const [h, w] = row.size;
    return maps.get(row.method)[Math.floor(down * h) * w + Math.floor(across * w)] / 255;
  }

  const large = new Stage(byId('methods-stage'), {
    alt: `The image ${content.image.name} under the maps of the two selected methods`,
    draws: (self) => {
      const [h, w] = [0, 1].map((axis) => Math.max(chosen.a.size[axis], chosen.b.size[axis]));
      self.map('relevance', [h, w], (i) => {
        const [down, across] = [(Math.floor(i / w) + 0.5) / h, ((i % w) + 0.5) / w];
        return (1 - chosen.mix) * at(chosen.a, down, across) + chosen.mix * at(chosen.b, down, across);
      }, chosen.opacity);
    },
  });
  large.canvas.id = 'blend';
  stages.push(large);
  legend(byId('methods-legend'), 'relevance', 'low', 'high, each by its own scale');

  function update() {
    for (const stage of stages) {
      stage.image.style.filter = filterOf(chosen.opacity);
      stage.redraw();
    }
    const mix = chosen.mix;
    const shownMaps = mix === 0 ? chosen.a.method : mix === 1 ? chosen.b.method
      : `${percent(1 - mix)} ${chosen.a.method}, ${percent(mix)} ${chosen.b.method}`;
    byId('methods-status').textContent = `Shown: ${shownMaps}, map at ${percent(chosen.opacity)}.`;
  }

  for (const [name, label] of [['a', 'A'], ['b', 'B']]) {
    const select = make('select', { id: `method-${name}` });
    for (const row of rows) select.append(make('option', { value: row.method, textContent: row.method }));
    select.value = chosen[name].method;
    select.addEventListener('change', () => {
      chosen[name] = rows.find((row) => row.method === select.value);
      update();
    });
    byId('methods-choices').append(make('label', { className: 'choice' }, make('span', { textContent: `Method ${label}` }), select));
  }
  slider(byId('methods-sliders'), {
    label: 'A ↔ B', min: 0, max: 100, value: 0,
    describe: (value) => `${value} % B`,
    input: (value) => { chosen.mix = value / 100; update(); },
  });
  slider(byId('methods-sliders'), {
    label: 'Image ↔ map', min: 0, max: 100, value: 100,
    describe: (value) => `${value} % map`,
    input: (value) => { chosen.opacity = value / 100; update(); },
  });

  for (const row of part.rows) byId('cards').append(card(row));

  function card(row) {
    const title = make('h3', { textContent: row.method });
    if (row.refusal) {
      return make('article', { className: 'card' }, title, make('p', { className: 'refusal', textContent: row.refusal }));
    }
    const place = make('div');
    const stage = new Stage(place, {
      alt: `Map of ${row.method}`,
      draws: (self) => self.map('relevance', row.size, (i) => maps.get(row.method)[i] / 255, chosen.opacity),
    });
    stages.push(stage);
    const facts = [
      ['time', row.seconds === null ? '–' : `${row.seconds.toFixed(row.seconds < 10 ? 2 : 0)} s`],
      ['memory', row.mib === null ? '–' : `${row.mib.toFixed(0)} MiB`],
      ['sensitivity', figure(row.sensitivity)],
    ];
    const list = make('dl', {}, ...facts.flatMap(([name, value]) =>
      [make('dt', { textContent: name }), make('dd', { textContent: value })]));
    const signNote = row.signed ? make('p', { className: 'muted', textContent: 'positive part of a signed map' }) : null;
    return make('article', { className: 'card' }, title, place, list, signNote);
  }

  const other = part.other === null ? ''
    : ` Sensitivity: share of the map that moves when ${part.other} is explained instead, from 0 (none) to 1 (all).`;
  byId('methods-lead').textContent = `${count(rows.length, 'method')} on the same image.${other}`;
  byId('methods-notes').replaceChildren(...part.notes.map((note) => make('p', { className: 'muted', textContent: note })));
  show('methods');
  update();
}

// Filter of the picture: paler and darker with the opacity of the map.
function filterOf(opacity) {
  return `grayscale(${0.45 * opacity}) brightness(${1 - 0.1 * opacity})`;
}
