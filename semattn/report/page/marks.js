// Recurring marks: one card per mark, with its mean picture and outlined examples.

function marks() {
  const part = content.marks;
  const hasClasses = Object.keys(part.classes).length > 1;

  function card(mark, at) {
    const title = make('h3', {}, `${at + 1}  ${hasClasses ? mark.class : 'mark'} `,
      mark.significant ? make('span', { className: 'badge', textContent: 'significant' }) : null);
    const frequency = make('p', { textContent: `${mark.frequency[0].toUpperCase()}${mark.frequency.slice(1)}.` });
    if (!mark.examples.length) {
      const text = `Its pictures are left out to limit the file size; ${part.file} contains them.`;
      return make('article', { className: 'cue mark' }, title, frequency, make('p', { className: 'muted', textContent: text }));
    }
    const shots = mark.examples.map((example) => markedPicture(example));
    const label = hasClasses ? `Images with the mark of ${mark.class}` : 'Images with the mark';
    return make('article', { className: 'cue mark' }, title, frequency, meanPicture(mark),
      ...outlinedGallery(shots, 'the location of the mark', label));
  }

  const nClasses = Object.keys(part.classes).length;
  byId('marks-lead').textContent = [count(part.images, 'image'), hasClasses ? `${nClasses} classes` : ''].filter(Boolean).join('  ·  ');
  const outcome = byId('marks-outcome');
  outcome.textContent = `${part.outcome[0].toUpperCase()}${part.outcome.slice(1)}.`;
  if (!part.marks.length) outcome.className = 'note';
  byId('marks-notes').replaceChildren(...part.notes.map((note) => make('p', { className: 'note', textContent: note })));
  byId('marks-cards').replaceChildren(...part.marks.map(card));
  if (part.others.length) {
    byId('marks-others').replaceChildren(make('details', {},
      make('summary', { textContent: `${count(part.others.length, 'mark')} that no class shows significantly more often` }),
      make('div', { className: 'scroll', tabIndex: 0, role: 'group', 'aria-label': 'Marks that are not significant' },
        namedTable('', ['class', 'frequency'], part.others.map((mark) => [mark.class, mark.frequency])))));
  }
  if (part.skipped.length) byId('marks-skipped').replaceChildren(skippedFiles(part.skipped));
  show('marks');
}
