// Relevance map and probabilities of the prompted model at each computed strength.

function prompting() {
  const part = content.prompting;
  const maps = part.maps.map(bytes);
  byId('prompting-direction').textContent = part.direction;
  const stage = new Stage(byId('prompting-stage'), {
    alt: `Relevance of the patches of ${content.image.name} for ${content.explanation.explained}`,
    draws: (self) => self.patches('relevance', (patch) => maps[state.step][patch] / 255),
  });
  legend(byId('prompting-legend'), 'relevance', 'low', 'high, at this strength');
  slider(byId('prompting-slider'), {
    label: 'Strength',
    min: 0,
    max: part.strengths.length - 1,
    value: 0,
    describe: (at) => `${part.strengths[at]}${part.strengths[at] === 0 ? ' (off)' : ''}`,
    input: (step) => change({ step }),
  });
  const rows = part.classes.map(classBar);
  byId('bars').replaceChildren(...rows.map((row) => row.bar));

  function update(changed) {
    if (changed && !('step' in changed)) return;
    stage.redraw();
    part.classes.forEach((entry, at) => {
      const probability = entry.probability[state.step];
      rows[at].fill.style.width = `${(100 * probability).toFixed(2)}%`;
      rows[at].share.textContent = part.percent ? percent(probability) : entry.shares[state.step];
    });
    const best = part.classes.reduce((top, entry) => (entry.probability[state.step] > top.probability[state.step] ? entry : top));
    const difference = best.probability[state.step] - best.probability[0];
    const comparison = state.step === 0 || !part.percent ? '' : `, ${signed(100 * difference)} points from strength 0`;
    const share = part.percent ? percent(best.probability[state.step]) : best.shares[state.step];
    byId('prompting-status').textContent = `At strength ${part.strengths[state.step]}: ${best.label}, ${share}${comparison}.`;
  }

  show('prompting');
  listen(update);
  update();
}
