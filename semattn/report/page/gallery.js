// Pictures with an outline on top that can be switched off, one by one or all together.

const OUTLINE_STYLES = [['rgb(0 0 0 / 0.85)', 6], ['#ffc53d', 3]];

function strokeOutline(pen, border) {
  for (const [style, thick] of OUTLINE_STYLES) {
    pen.strokeStyle = style;
    pen.lineWidth = thick;
    pen.lineCap = 'square';
    pen.stroke(border);
  }
}

// Return an empty canvas with the shape of an example.
function overlayCanvas(example) {
  const [height, width] = example.size;
  const times = 448 / Math.max(height, width);
  return make('canvas', { width: Math.round(width * times), height: Math.round(height * times), 'aria-hidden': 'true' });
}

// Return an example as a figure: its picture, a canvas on top that a press switches, and its name.
function outlinedPicture(example, canvas, label, ...details) {
  const name = example.name.split('/').pop();
  const button = make('button', { type: 'button', className: 'shot', tabIndex: -1, title: example.name });
  button.setAttribute('aria-label', `${name}: ${label}`);
  button.append(make('img', { src: example.source, alt: '', draggable: false }), canvas);
  button.style.aspectRatio = `${example.size[1]} / ${example.size[0]}`;
  const set = (on) => {
    canvas.hidden = !on;
    button.setAttribute('aria-pressed', String(on));
  };
  button.addEventListener('click', () => set(canvas.hidden));
  set(true);
  const caption = make('figcaption', {}, make('span', { className: 'name', textContent: name }), ...details);
  return { figure: make('figure', { className: 'example' }, button, caption), button, caption, set };
}

// Return a canvas that fades an example outside the outlined places of a mark.
function regionsOverlay(example) {
  const canvas = overlayCanvas(example);
  const [height, width] = example.size;
  const pen = canvas.getContext('2d');
  const border = new Path2D();
  for (const outline of example.outlines) {
    outline.forEach(([x, y], at) => {
      const point = [((x + 0.5) * canvas.width) / width, ((y + 0.5) * canvas.height) / height];
      if (at) border.lineTo(...point);
      else border.moveTo(...point);
    });
    border.closePath();
  }
  pen.fillStyle = 'rgb(255 255 255 / 0.62)';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = 'destination-out';
  pen.fillStyle = 'black';
  pen.fill(border);
  pen.globalCompositeOperation = 'source-over';
  strokeOutline(pen, border);
  return canvas;
}

// Return an example of a mark as a figure, with its number of matched keypoints.
function markedPicture(example, ...details) {
  return outlinedPicture(example, regionsOverlay(example), 'location of the mark',
    make('span', { className: 'muted', textContent: example.matches_text }), ...details);
}

function meanPicture(mark) {
  const text = `${mark.picture_text[0].toUpperCase()}${mark.picture_text.slice(1)}`;
  return make('figure', { className: 'mean-picture' }, make('img', { src: mark.picture, alt: 'mean picture of the mark' }),
    make('figcaption', { className: 'muted', textContent: text }));
}

// Return the row with the button for all pictures, and the pictures.
function outlinedGallery(shots, what, label) {
  const all = make('button', { type: 'button' });
  const setAll = (on) => {
    all.textContent = `${on ? 'Hide' : 'Show'} ${what}`;
    for (const shot of shots) shot.set(on);
    all.dataset.on = String(on);
  };
  all.addEventListener('click', () => setAll(all.dataset.on !== 'true'));
  setAll(true);
  shots[0].button.tabIndex = 0;
  const place = make('div', { className: 'gallery', role: 'group', 'aria-label': label }, ...shots.map((shot) => shot.figure));
  place.addEventListener('keydown', (event) => {
    const from = shots.findIndex((shot) => shot.button === document.activeElement);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: shots.length - 1 }[event.key];
    if (from < 0 || to === undefined) return;
    event.preventDefault();
    if (!shots[to]) return;
    shots.forEach((shot, at) => { shot.button.tabIndex = at === to ? 0 : -1; });
    shots[to].button.focus();
  });
  const hint = make('span', { className: 'muted', textContent: 'Press a picture to toggle its outline; the arrow keys move between pictures.' });
  return [make('div', { className: 'row' }, all, hint), place];
}

// Table with a row header in the first column.
function namedTable(caption, titles, rows) {
  const head = make('tr', {}, ...titles.map((title) => make('th', { scope: 'col', textContent: title })));
  const body = rows.map(([first, ...rest]) => make('tr', {}, make('th', { scope: 'row', textContent: first }),
    ...rest.map((cell) => make('td', { textContent: cell }))));
  const children = [make('thead', {}, head), make('tbody', {}, ...body)];
  if (caption) children.unshift(make('caption', { textContent: caption }));
  return make('table', { className: 'figures named' }, ...children);
}

function skippedFiles(skipped) {
  return make('details', { open: skipped.length <= 5 },
    make('summary', { textContent: `${count(skipped.length, 'file')} skipped` }),
    make('ul', {}, ...skipped.map((image) => make('li', {}, make('code', { textContent: image.name }), ` ${image.reason}`))));
}
