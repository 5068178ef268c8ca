// Prompting strength: the relevance map and the probabilities at each step that was computed.

function prompting() {
  const part = content.prompting;
  const maps = part.maps.map(bytes);
  byId('prompting-led').textContent = part.led;
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
    said: (at) => `${part.strengths[at]}${part.strengths[at] === 0 ? ' (off)' : ''}`,
    input: (step) => change({ step }),
  });
  const rows = part.classes.map((one) => {
    const fill = make('span', { className: 'fill' });
    const share = make('span', { className: 'share' });
    const label = make('span', { className: 'label', textContent: one.label });
    if (one.explained) label.append(make('em', { textContent: ' explained' }));
    const bar = make('div', { className: 'bar' }, label, share, make('span', { className: 'track' }, fill));
    return { bar, fill, share };
  });
  byId('bars').replaceChildren(...rows.map((row) => row.bar));

  function update(changed) {
    if (changed && !('step' in changed)) return;
    stage.redraw();
    part.classes.forEach((one, at) => {
      const chance = one.probability[state.step];
      rows[at].fill.style.width = `${(100 * chance).toFixed(2)}%`;
      rows[at].share.textContent = part.percent ? percent(chance) : one.shares[state.step];
    });
    const best = part.classes.reduce((top, one) => (one.probability[state.step] > top.probability[state.step] ? one : top));
    const moved = best.probability[state.step] - best.probability[0];
    const words = state.step === 0 || !part.percent ? '' : `, ${signed(100 * moved)} points from strength 0`;
    const share = part.percent ? percent(best.probability[state.step]) : best.shares[state.step];
    byId('prompting-said').textContent = `At strength ${part.strengths[state.step]}: ${best.label}, ${share}${words}.`;
  }

  show('prompting');
  listen(update);
  update();
}
