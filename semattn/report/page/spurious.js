// Spurious correlations: one card per cue, with its examples, location, effects and groups.

const MIN_MATCH = 0.5; // match score from which a patch counts as showing the cue

function spurious() {
  const part = content.spurious;

  function formatNats(effect) {
    if (effect.mean === null) return '–';
    return `${figure(effect.mean)} [${figure(effect.low)}, ${figure(effect.high)}]`;
  }

  function formatP(p) {
    if (p === null) return '–';
    if (p >= 0.9995) return '1';
    return p < 0.001 ? '< .001' : String(Number(p.toFixed(3))).replace(/^0/, '');
  }

  const formatPercent = (share) => (share === null ? '–' : share === 0 ? '0 %' : percent(share));

  // --- an example: the picture, faded outside the patches of the cue, and half where it is not removed
  function overlay(example) {
    const [height, width] = example.size;
    const [h, w] = example.grid;
    const canvas = overlayCanvas(example);
    const values = bytes(example.matches);
    const pen = canvas.getContext('2d');
    const offObject = example.off_object ? bytes(example.off_object) : new Uint8Array(values.length).fill(1);
    const matches = (i, j) => values[i * w + j] / 255 >= MIN_MATCH;
    const shows = (i, j) => i >= 0 && j >= 0 && i < h && j < w && matches(i, j) && offObject[i * w + j];
    const x = (j) => Math.round(((example.origin[1] + j * example.cell[1]) * canvas.width) / width);
    const y = (i) => Math.round(((example.origin[0] + i * example.cell[0]) * canvas.height) / height);
    const border = new Path2D();
    const fade = (opacity, ...rectangle) => {
      pen.fillStyle = `rgb(255 255 255 / ${opacity})`;
      pen.clearRect(...rectangle);
      pen.fillRect(...rectangle);
    };
    fade(0.62, 0, 0, canvas.width, canvas.height);
    for (let i = 0; i < h; i += 1) {
      for (let j = 0; j < w; j += 1) {
        if (matches(i, j)) fade(shows(i, j) ? 0 : 0.31, x(j), y(i), x(j + 1) - x(j), y(i + 1) - y(i));
        if (shows(i, j)) {
          const sides = [[i - 1, j, j, i, j + 1, i], [i + 1, j, j, i + 1, j + 1, i + 1], [i, j - 1, j, i, j, i + 1], [i, j + 1, j + 1, i, j + 1, i + 1]];
          for (const [row, column, ax, ay, bx, by] of sides) {
            if (!shows(row, column)) { border.moveTo(x(ax), y(ay)); border.lineTo(x(bx), y(by)); }
          }
        }
      }
    }
    strokeOutline(pen, border);
    return canvas;
  }

  function exampleFigure(example, cue) {
    const [withCue, without] = cue.mark ? ['mark', 'erased'] : ['with cue', 'removed'];
    const details = example.before === null ? [make('span', { className: 'muted', textContent: 'not tested' })]
      : [...probabilityRow(withCue, example.before), ...probabilityRow(without, example.without)];
    const shot = cue.mark ? markedPicture(example, ...details)
      : outlinedPicture(example, overlay(example), 'location of the cue', ...details);
    shot.caption.title = `probability of ${cue.class}`;
    return shot;
  }

  function probabilityRow(label, share) {
    if (share === null) return [];
    const fill = make('span', { className: 'fill' });
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    return [make('span', { className: 'probability' }, make('span', { textContent: label }), make('span', { className: 'track', 'aria-hidden': 'true' }, fill),
      make('span', { textContent: formatPercent(share) }))];
  }

  function gallery(cue) {
    const shots = cue.examples.map((example) => exampleFigure(example, cue));
    if (cue.mark) return [meanPicture(cue), ...outlinedGallery(shots, 'the location of the mark', `Images with the mark of ${cue.class}`)];
    return outlinedGallery(shots, 'the location of the cue', `Images of ${cue.class} with the cue`);
  }

  // --- effects of the cue: two bars with their intervals
  function effects(cue) {
    const rows = [['loss by removal', cue.removal, 'removed'], ['gain by transplant', cue.transplant, 'transplanted']];
    const values = rows.flatMap(([, effect]) => [effect.mean, effect.low, effect.high]).filter((value) => value !== null);
    const low = Math.min(0, ...values);
    const high = Math.max(0.001, ...values);
    const [left, right, width] = [1, 4, 480];
    const across = (value) => left + ((value - low) / (high - low)) * (width - left - right);
    const description = rows.map(([title, effect]) => `${title}: ${formatNats(effect)} nats`).join('; ');
    const svg = draw('svg', { viewBox: `0 0 ${width} 104`, role: 'img', 'aria-label': description });
    rows.forEach(([title, effect, kind], at) => {
      const top = 14 + 54 * at;
      const label = draw('text', { x: left, y: top, class: 'axis' });
      label.textContent = `${title}: ${effect.mean === null ? 'not tested' : `${formatNats(effect)} nats, ${count(effect.count, 'image')}`}`;
      svg.append(label);
      if (effect.mean === null) return;
      const [from, to] = [across(Math.min(0, effect.mean)), across(Math.max(0, effect.mean))];
      svg.append(draw('line', { x1: across(0), x2: across(0), y1: top + 5, y2: top + 27, class: 'zero' }));
      svg.append(draw('rect', { x: from, y: top + 7, width: Math.max(1, to - from), height: 18, class: `effect ${kind}` }));
      if (effect.low !== null) svg.append(draw('line', { x1: across(effect.low), x2: across(effect.high), y1: top + 16, y2: top + 16, class: 'interval' }));
    });
    return svg;
  }

  // --- location of the cue
  function locationMap(cue) {
    const [h, w] = cue.grid;
    const canvas = make('canvas', { width: w, height: h, className: 'location' });
    canvas.setAttribute('role', 'img');
    const values = bytes(cue.place);
    const at = values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
    canvas.setAttribute('aria-label', `Frequency of the cue in each patch; highest ${formatPercent(cue.max_frequency)}, in row ${Math.floor(at / w) + 1} of ${h}, column ${(at % w) + 1} of ${w}`);
    canvas.style.aspectRatio = `${w} / ${h}`;
    const picture = new ImageData(w, h);
    values.forEach((value, i) => picture.data.set([...colour('concentration', value / 255), 255], 4 * i));
    canvas.getContext('2d').putImageData(picture, 0, 0);
    const scale = make('div', { className: 'legend' });
    legend(scale, 'concentration', '0 %', `${formatPercent(cue.max_frequency)} of images`);
    return make('div', { className: 'location-panel' }, make('h4', { textContent: 'Location' }), canvas, scale);
  }

  function groups(cue) {
    if (!cue.groups.length) return null;
    const names = { 'class, cue': `${cue.class}, with the cue`, 'class, no cue': `${cue.class}, without the cue`, 'others, cue transplanted': 'other classes, cue transplanted', others: 'other classes, unchanged' };
    const rows = cue.groups.map((group) => [names[group.name] ?? group.name, group.count, formatPercent(group.accuracy), formatPercent(group.prompted),
      group.accuracy === null || group.prompted === null ? '–' : signed(100 * (group.prompted - group.accuracy), 0)]);
    return make('div', { className: 'scroll' }, namedTable('Accuracy of the model, unchanged and with attention biased away from the cue',
      ['group', 'images', 'unchanged', 'biased away', 'points'], rows));
  }

  function card(cue, at) {
    const title = make('h3', {}, `${at + 1}  ${cue.class} `, make('span', { className: 'badge', textContent: 'confirmed' }));
    const facts = [cue.where, cue.tag, cue.extent_text,
      `score ${figure(cue.score)} [${cue.interval.map((bound) => figure(bound)).join(', ')}] nats`, `p ${formatP(cue.p)}`].join('  ·  ');
    const frequency = cue.mark ? `Frequency of the mark: ${cue.mark}.`
      : `${formatPercent(cue.inside)} of the images of ${cue.class} contain the cue, ${formatPercent(cue.outside)} of other classes.`;
    const summary = frequency
      + (cue.examples_text ? ` Mean probability of the class in the pictures below: ${cue.examples_text}.` : '');
    const shown = cue.examples.length ? gallery(cue)
      : [make('p', { className: 'muted', textContent: 'Its pictures are left out to limit the file size; spurious.npz contains them.' })];
    const left = make('div', {}, make('h4', { textContent: `Effect on the log-odds of ${cue.class}` }), effects(cue), groups(cue));
    return make('article', { className: 'cue' }, title, make('p', { className: 'muted', textContent: facts }), make('p', { textContent: summary }),
      ...shown, make('div', { className: 'columns effects' }, left, locationMap(cue)));
  }

  // --- the section
  byId('spurious-lead').textContent = [count(part.images, 'image'), part.classes.length === 1 ? '1 class searched' : `${part.classes.length} classes searched`, `${part.candidates} candidates judged`,
    part.accuracy === null ? '' : `accuracy of the model ${percent(part.accuracy)}`, part.model].filter(Boolean).join('  ·  ');
  const outcome = byId('spurious-outcome');
  outcome.textContent = `${part.outcome[0].toUpperCase()}${part.outcome.slice(1)}.`;
  if (!part.cues.length) outcome.className = 'note';
  byId('spurious-notes').replaceChildren(...part.notes.map((note) => make('p', { className: 'note', textContent: note })));
  byId('cues').replaceChildren(...part.cues.map(card));
  byId('ranks').replaceChildren(...namedTable('', ['class', 'images', 'score, nats'],
    part.classes.map((entry) => [entry.name, entry.images, entry.score > 0 ? figure(entry.score) : 'none confirmed'])).children);
  byId('next').replaceChildren(...part.next.map((step) => make('li', {}, make('p', { textContent: step.text }),
    step.code ? make('pre', { tabIndex: 0 }, make('code', { textContent: step.code })) : null)));
  if (part.unconfirmed.length) {
    const rows = part.unconfirmed.map((cue) => [cue.class, cue.where, cue.tag, formatPercent(cue.inside), formatPercent(cue.outside), formatNats(cue.removal), formatNats(cue.transplant), cue.rejection_reason]);
    byId('spurious-unconfirmed').replaceChildren(make('details', {},
      make('summary', { textContent: `${part.unconfirmed.length} tested and not confirmed` }),
      make('div', { className: 'scroll unconfirmed', tabIndex: 0, role: 'group', 'aria-label': 'Tested and not confirmed' }, namedTable('',
        ['class', 'where', 'keypoints', 'in the class', 'in others', 'removal', 'transplant', 'reason'], rows))));
  }
  if (part.skipped.length) byId('spurious-skipped').replaceChildren(skippedFiles(part.skipped));
  show('spurious');
}
