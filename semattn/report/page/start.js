// Headline, theme, and the sections of the page that have content.

function headlines() {
  const { explanation, analysis: analysed, spurious: discovery, marks: recurring, image } = content;
  const folder = () => {
    if (analysed) return `Attention and keypoints in ${count(analysed.images, 'image')}`;
    return discovery ? `Spurious correlations in ${count(discovery.images, 'image')}` : `Recurring marks in ${count(recurring.images, 'image')}`;
  };
  byId('headline').textContent = explanation ? explanation.headline : folder();
  const parts = explanation ? [image.name, explanation.chosen, explanation.method, explanation.model] : [(analysed ?? discovery ?? recurring).model];
  byId('subline').textContent = parts.filter(Boolean).join('  ·  ');
  const notes = [...(explanation?.notes ?? []), ...content.missing];
  const rows = content.attention;
  if (rows && !rows.all) {
    const storedPatches = (set) => (set ? set.rows.filter((token) => token >= rows.prefix).length : 0);
    const all = rows.tokens - rows.prefix;
    notes.push(`To limit the file size, attention is stored for some patches only: ${storedPatches(rows.heads)} of ${all} patches for single heads, `
      + `${storedPatches(rows.mean ?? rows.heads)} of ${all} for the mean over heads. Patches without a stored row are marked; under “Attended by” they are crossed out.`);
  }
  byId('notes').replaceChildren(...notes.map((note) => make('p', { className: 'note', textContent: note })));
}

function theme() {
  const button = byId('theme');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light')) === 'dark';
  const updateButton = () => {
    button.textContent = isDark() ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Use the ${isDark() ? 'light' : 'dark'} theme`);
  };
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
    updateButton();
  });
  dark.addEventListener('change', updateButton);
  updateButton();
}

function about() {
  const place = byId('about-body');
  const precision = content.attention ? ' Attention is stored as bytes on a square-root scale: the error of a value is at most 0.4 % of the largest value in its row, and much smaller for small values.' : '';
  place.append(make('p', { className: 'muted', textContent: `Created by semattn ${content.version}. The file contains all its data and loads nothing from the network.${precision}` }));
  const manifest = content.explanation?.manifest ?? content.spurious?.manifest ?? content.marks?.manifest;
  if (!manifest) return;
  const list = make('dl', { className: 'facts' });
  for (const [name, value] of Object.entries(manifest)) {
    list.append(make('dt', { textContent: name }), make('dd', { textContent: typeof value === 'string' ? value : JSON.stringify(value) }));
  }
  place.append(make('details', {}, make('summary', { textContent: 'Model, method and versions' }), list));
}

headlines();
theme();
if (content.explanation) {
  answer();
  explorer();
}
if (content.prompting) prompting();
if (content.comparison) methods();
if (content.analysis) analysis();
if (content.spurious) spurious();
if (content.marks) marks();
frame();
about();
