// Spurious correlations: a card a cue, with its examples, its place, what it does, and its groups.

const SURE = 0.5; // patches that show a cue likelier than not

function spurious() {
  const part = content.spurious;

  function nats(effect) {
    if (effect.mean === null) return '–';
    return `${figure(effect.mean)} [${figure(effect.low)}, ${figure(effect.high)}]`;
  }

  function chance(p) {
    if (p === null) return '–';
    if (p >= 0.9995) return '1';
    return p < 0.001 ? '< .001' : String(Number(p.toFixed(3))).replace(/^0/, '');
  }

  const part100 = (share) => (share === null ? '–' : share === 0 ? '0 %' : percent(share));

  function table(caption, titles, rows) {
    const head = make('tr', {}, ...titles.map((title) => make('th', { scope: 'col', textContent: title })));
    const body = rows.map(([first, ...rest]) => make('tr', {}, make('th', { scope: 'row', textContent: first }),
      ...rest.map((cell) => make('td', { textContent: cell }))));
    const children = [make('thead', {}, head), make('tbody', {}, ...body)];
    if (caption) children.unshift(make('caption', { textContent: caption }));
    return make('table', { className: 'figures named' }, ...children);
  }

  // --- an example: the picture, and over it everything but the patches of the cue stepping back
  function overlay(example) {
    const [height, width] = example.size;
    const [h, w] = example.grid;
    const times = 448 / Math.max(height, width);
    const canvas = make('canvas', { width: Math.round(width * times), height: Math.round(height * times), 'aria-hidden': 'true' });
    const values = bytes(example.matches);
    const pen = canvas.getContext('2d');
    const shows = (i, j) => i >= 0 && j >= 0 && i < h && j < w && values[i * w + j] / 255 >= SURE;
    const x = (j) => Math.round(((example.origin[1] + j * example.cell[1]) * canvas.width) / width);
    const y = (i) => Math.round(((example.origin[0] + i * example.cell[0]) * canvas.height) / height);
    const border = new Path2D();
    pen.fillStyle = 'rgb(255 255 255 / 0.62)';
    pen.fillRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < h; i += 1) {
      for (let j = 0; j < w; j += 1) {
        if (shows(i, j)) {
          pen.clearRect(x(j), y(i), x(j + 1) - x(j), y(i + 1) - y(i));
          const sides = [[i - 1, j, j, i, j + 1, i], [i + 1, j, j, i + 1, j + 1, i + 1], [i, j - 1, j, i, j, i + 1], [i, j + 1, j + 1, i, j + 1, i + 1]];
          for (const [row, column, ax, ay, bx, by] of sides) {
            if (!shows(row, column)) { border.moveTo(x(ax), y(ay)); border.lineTo(x(bx), y(by)); }
          }
        }
      }
    }
    for (const [style, thick] of [['rgb(0 0 0 / 0.85)', 6], ['#ffc53d', 3]]) {
      pen.strokeStyle = style;
      pen.lineWidth = thick;
      pen.lineCap = 'square';
      pen.stroke(border);
    }
    return canvas;
  }

  function example(one, cue) {
    const canvas = overlay(one);
    const name = one.name.split('/').pop();
    const button = make('button', { type: 'button', className: 'shot', tabIndex: -1, title: one.name });
    button.setAttribute('aria-label', `${name}: location of the cue`);
    button.append(make('img', { src: one.source, alt: '', draggable: false }), canvas);
    button.style.aspectRatio = `${one.size[1]} / ${one.size[0]}`;
    const set = (on) => {
      canvas.hidden = !on;
      button.setAttribute('aria-pressed', String(on));
    };
    button.addEventListener('click', () => set(canvas.hidden));
    set(true);
    const words = make('figcaption', {}, make('span', { className: 'name', textContent: name }));
    if (one.before === null) words.append(make('span', { className: 'muted', textContent: 'not tested' }));
    else words.append(...odds('with cue', one.before), ...odds('removed', one.without));
    words.title = `probability of ${cue.class}`;
    return { figure: make('figure', { className: 'example' }, button, words), button, set };
  }

  function odds(words, share) {
    if (share === null) return [];
    const fill = make('span', { className: 'fill' });
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    return [make('span', { className: 'odds' }, make('span', { textContent: words }), make('span', { className: 'track', 'aria-hidden': 'true' }, fill),
      make('span', { textContent: part100(share) }))];
  }

  function gallery(cue) {
    const shots = cue.examples.map((one) => example(one, cue));
    const all = make('button', { type: 'button' });
    const said = (on) => {
      all.textContent = on ? 'Hide the location of the cue' : 'Show the location of the cue';
      for (const shot of shots) shot.set(on);
      all.dataset.on = String(on);
    };
    all.addEventListener('click', () => said(all.dataset.on !== 'true'));
    said(true);
    shots[0].button.tabIndex = 0;
    const place = make('div', { className: 'gallery', role: 'group', 'aria-label': `Images of ${cue.class} with the cue` }, ...shots.map((one) => one.figure));
    place.addEventListener('keydown', (event) => {
      const from = shots.findIndex((one) => one.button === document.activeElement);
      const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: shots.length - 1 }[event.key];
      if (from < 0 || to === undefined) return;
      event.preventDefault();
      if (!shots[to]) return;
      shots.forEach((one, at) => { one.button.tabIndex = at === to ? 0 : -1; });
      shots[to].button.focus();
    });
    const hint = make('span', { className: 'muted', textContent: 'Press a picture to toggle its outline; the arrow keys move between pictures.' });
    return [make('div', { className: 'row' }, all, hint), place];
  }

  // --- what the cue does: two bars with their intervals
  function effects(cue) {
    const rows = [['loss by removal', cue.removed, 'removed'], ['gain by transplant', cue.transplanted, 'put']];
    const values = rows.flatMap(([, one]) => [one.mean, one.low, one.high]).filter((one) => one !== null);
    const low = Math.min(0, ...values);
    const high = Math.max(0.001, ...values);
    const [left, right, width] = [1, 4, 480];
    const across = (value) => left + ((value - low) / (high - low)) * (width - left - right);
    const words = rows.map(([title, one]) => `${title}: ${nats(one)} nats`).join('; ');
    const svg = draw('svg', { viewBox: `0 0 ${width} 104`, role: 'img', 'aria-label': words });
    rows.forEach(([title, one, kind], at) => {
      const top = 14 + 54 * at;
      const label = draw('text', { x: left, y: top, class: 'axis' });
      label.textContent = `${title}: ${one.mean === null ? 'not tested' : `${nats(one)} nats, ${count(one.count, 'image')}`}`;
      svg.append(label);
      if (one.mean === null) return;
      const [from, to] = [across(Math.min(0, one.mean)), across(Math.max(0, one.mean))];
      svg.append(draw('line', { x1: across(0), x2: across(0), y1: top + 5, y2: top + 27, class: 'zero' }));
      svg.append(draw('rect', { x: from, y: top + 7, width: Math.max(1, to - from), height: 18, class: `effect ${kind}` }));
      if (one.low !== null) svg.append(draw('line', { x1: across(one.low), x2: across(one.high), y1: top + 16, y2: top + 16, class: 'interval' }));
    });
    return svg;
  }

  // --- where it sits
  function placeMap(cue) {
    const [h, w] = cue.grid;
    const canvas = make('canvas', { width: w, height: h, className: 'place' });
    canvas.setAttribute('role', 'img');
    const values = bytes(cue.place);
    const at = values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
    canvas.setAttribute('aria-label', `Frequency of the cue in each patch; highest ${part100(cue.most)}, in row ${Math.floor(at / w) + 1} of ${h}, column ${(at % w) + 1} of ${w}`);
    canvas.style.aspectRatio = `${w} / ${h}`;
    const picture = new ImageData(w, h);
    values.forEach((value, i) => picture.data.set([...colour('concentration', value / 255), 255], 4 * i));
    canvas.getContext('2d').putImageData(picture, 0, 0);
    const scale = make('div', { className: 'legend' });
    legend(scale, 'concentration', '0 %', `${part100(cue.most)} of images`);
    return make('div', { className: 'where' }, make('h4', { textContent: 'Location' }), canvas, scale);
  }

  function groups(cue) {
    if (!cue.groups.length) return null;
    const names = { 'class, cue': `${cue.class}, with the cue`, 'class, no cue': `${cue.class}, without the cue`, 'others, cue put there': 'other classes, cue transplanted', others: 'other classes, unchanged' };
    const rows = cue.groups.map((one) => [names[one.name] ?? one.name, one.count, part100(one.accuracy), part100(one.prompted),
      one.accuracy === null || one.prompted === null ? '–' : signed(100 * (one.prompted - one.accuracy), 0)]);
    return make('div', { className: 'scroll' }, table('Accuracy of the model, unchanged and with attention biased away from the cue',
      ['group', 'images', 'unchanged', 'biased away', 'points'], rows));
  }

  function card(cue, at) {
    const title = make('h3', {}, `${at + 1}  ${cue.class} `, make('span', { className: 'badge', textContent: 'confirmed' }));
    const facts = [cue.where, cue.tag, `on ${part100(cue.covers)} of an image`,
      `score ${figure(cue.score)} [${cue.interval.map((one) => figure(one)).join(', ')}] nats`, `p ${chance(cue.p)}`].join('  ·  ');
    const said = `${part100(cue.inside)} of the images of ${cue.class} contain the cue, ${part100(cue.outside)} of other classes.`
      + (cue.said ? ` Mean probability of the class in the pictures below: ${cue.said}.` : '');
    const shown = cue.examples.length ? gallery(cue)
      : [make('p', { className: 'muted', textContent: 'Its pictures are left out to limit the file size; spurious.npz contains them.' })];
    const left = make('div', {}, make('h4', { textContent: `Effect on the log-odds of ${cue.class}` }), effects(cue), groups(cue));
    return make('article', { className: 'cue' }, title, make('p', { className: 'muted', textContent: facts }), make('p', { textContent: said }),
      ...shown, make('div', { className: 'columns effects' }, left, placeMap(cue)));
  }

  // --- the whole
  byId('spurious-lead').textContent = [count(part.images, 'image'), `${part.classes.length} classes searched`, `${part.candidates} candidates judged`,
    part.accuracy === null ? '' : `accuracy of the model ${percent(part.accuracy)}`, part.model].filter(Boolean).join('  ·  ');
  const outcome = byId('spurious-outcome');
  outcome.textContent = `${part.outcome[0].toUpperCase()}${part.outcome.slice(1)}.`;
  if (!part.cues.length) outcome.className = 'note';
  byId('spurious-notes').replaceChildren(...part.notes.map((note) => make('p', { className: 'note', textContent: note })));
  byId('cues').replaceChildren(...part.cues.map(card));
  byId('ranks').replaceChildren(...table('', ['class', 'images', 'score, nats'],
    part.classes.map((one) => [one.name, one.images, one.score > 0 ? figure(one.score) : 'none confirmed'])).children);
  byId('next').replaceChildren(...part.next.map((one) => make('li', {}, make('p', { textContent: one.text }),
    one.code ? make('pre', { tabIndex: 0 }, make('code', { textContent: one.code })) : null)));
  if (part.tried.length) {
    const rows = part.tried.map((one) => [one.class, one.where, one.tag, part100(one.inside), part100(one.outside), nats(one.removed), nats(one.transplanted), one.reason]);
    byId('spurious-tried').replaceChildren(make('details', {},
      make('summary', { textContent: `${part.tried.length} tested and not confirmed` }),
      make('div', { className: 'scroll tried', tabIndex: 0, role: 'group', 'aria-label': 'Tested and not confirmed' }, table('',
        ['class', 'where', 'keypoints', 'in the class', 'in others', 'removal', 'transplant', 'reason'], rows))));
  }
  if (part.skipped.length) {
    byId('spurious-skipped').replaceChildren(make('details', { open: part.skipped.length <= 5 },
      make('summary', { textContent: `${count(part.skipped.length, 'file')} skipped` }),
      make('ul', {}, ...part.skipped.map((one) => make('li', {}, make('code', { textContent: one.name }), ` ${one.reason}`)))));
  }
  show('spurious');
}
