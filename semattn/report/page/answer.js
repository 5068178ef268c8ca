// The answer: the heat map over the picture, the first classes, and how spread the relevance is.

function answer() {
  const { image, explanation } = content;
  const part = explanation.answer;
  const codes = bytes(part.map);
  byId('answer-title').textContent = `Evidence for ${explanation.explained}`;
  byId('answer-lead').textContent = `Heat map of ${explanation.method}`;
  const stage = new Stage(byId('answer-stage'), {
    alt: `Heat map of ${image.name} for ${explanation.explained}`,
    draws: (self) => self.map('relevance', part.size, (i) => codes[i] / 255, 1),
  });
  stage.canvas.id = 'answer-map';
  legend(byId('answer-legend'), 'relevance', 'low', part.signed ? 'high (positive part), relative to this picture' : 'high, relative to this picture');
  byId('answer-bars').replaceChildren(...part.classes.map((entry) => {
    const row = classBar(entry);
    row.share.textContent = entry.share;
    row.fill.style.width = `${(100 * (entry.probability ?? 0)).toFixed(2)}%`;
    row.fill.parentElement.hidden = entry.probability === null;
    return row.bar;
  }));
  byId('answer-bars').hidden = !part.classes.length;
  byId('answer-text').textContent = part.half === null
    ? 'No patch has positive relevance.'
    : `Half of the positive relevance is on ${part.half} of ${image.grid[0] * image.grid[1]} patches. `
      + 'The map shows where evidence is gathered, not that it is sufficient.';
  show('answer');
}
