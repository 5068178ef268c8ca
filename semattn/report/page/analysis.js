// Analysis: heat map of all heads, tables of the selected head, charts, findings.

const NULLS = { shifted: 'shifted', other: 'other', permuted: 'permuted' };

function analysis() {
  const part = content.analysis;
  const { metrics, lift } = part;
  const analysedLayers = part.layers;
  const alignment = metrics.alignment;

  const at = (table, l, h) => table?.[l]?.[h] ?? null;

  // Return whether a head differs from every null; null if there is no null.
  function differs(table, pick) {
    const results = Object.values(table.nulls ?? {}).map((test) => pick(test.significant));
    const defined = results.filter((result) => result !== null && result !== undefined);
    return defined.length ? defined.every(Boolean) : null;
  }

  // Return the name, z and expected value of each null.
  function against(table, pick) {
    return Object.keys(NULLS).filter((name) => table.nulls?.[name])
      .map((name) => [NULLS[name], pick(table.nulls[name].z), pick(table.nulls[name].expected ?? [])])
      .filter(([, z]) => z !== null && z !== undefined);
  }

  function interval(low, high, digits = 2) {
    if (low === null || low === undefined || high === null || high === undefined) return '';
    return `[${figure(low, digits)}, ${figure(high, digits)}]`;
  }

  // --- heat map
  const values = alignment.mean.flat().filter((value) => value !== null);
  const reach = Math.max(0.05, ...values.map((value) => Math.abs(Math.log(Math.max(value, 1e-3)))));

  // Return background and text colour: blue below chance, orange above, on a log scale.
  function shade(value) {
    if (value === null) return ['transparent', 'inherit'];
    const side = Math.max(-1, Math.min(1, Math.log(Math.max(value, 1e-3)) / reach));
    const strength = Math.abs(side) ** 0.8;
    const [from, to] = [[244, 245, 247], side < 0 ? [27, 94, 176] : [204, 85, 0]];
    const mixed = from.map((channel, axis) => Math.round(channel + (to[axis] - channel) * strength));
    return [`rgb(${mixed.join(' ')})`, luminance(mixed) < 0.2 ? '#ffffff' : '#17181c'];
  }

  function luminance(rgb) {
    const [r, g, b] = rgb.map((channel) => (channel / 255) ** 2.2);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  const widest = Math.max(...analysedLayers.map((layer) => layer.heads));
  const heat = byId('heat');
  const cells = [];
  const header = make('tr', {}, make('th', { scope: 'col', textContent: 'layer' }));
  for (let h = 0; h < widest; h += 1) header.append(make('th', { scope: 'col', textContent: h }));
  heat.append(make('thead', {}, header));
  const body = make('tbody');
  analysedLayers.forEach((layer, l) => {
    const row = make('tr', {}, make('th', { scope: 'row', textContent: layer.layer }));
    for (let h = 0; h < layer.heads; h += 1) {
      const value = at(alignment.mean, l, h);
      const marked = differs(alignment, (table) => at(table, l, h));
      const cell = make('button', { type: 'button', tabIndex: -1, textContent: figure(value) + (marked ? '*' : '') });
      const [background, ink] = shade(value);
      cell.style.background = background;
      cell.style.color = ink;
      const tests = against(alignment, (table) => at(table, l, h)).map(([name, z]) => `z ${signed(z)} ${name}`);
      cell.setAttribute('aria-label', `layer ${layer.layer}, head ${h}: alignment ${figure(value)}, ${[...tests, marked ? 'differs from every null' : 'does not differ from every null'].join(', ')}`);
      cell.title = cell.getAttribute('aria-label');
      cell.addEventListener('click', () => choose(l, h));
      cells.push({ cell, l, h, layer: layer.layer });
      row.append(make('td', {}, cell));
    }
    body.append(row);
  });
  heat.append(body);

  function choose(l, h) {
    if (layerNumbers.includes(analysedLayers[l].layer)) chooseHead(analysedLayers[l].layer, h);
  }

  heat.addEventListener('keydown', (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const from = cells.find((entry) => entry.cell === document.activeElement);
    if (!move || !from) return;
    event.preventDefault();
    const to = cells.find((entry) => entry.l === from.l + move[0] && entry.h === from.h + move[1]);
    if (!to) return;
    choose(to.l, to.h);
    to.cell.focus();
  });
  const bar = byId('heat-legend');
  const ramp = make('span', { className: 'ramp', 'aria-hidden': 'true' });
  ramp.style.background = `linear-gradient(to right, ${[-1, -0.5, 0, 0.5, 1].map((side) => shade(Math.exp(side * reach))[0]).join(', ')})`;
  bar.replaceChildren(
    make('span', { textContent: figure(Math.exp(-reach)) }), ramp, make('span', { textContent: `${figure(Math.exp(reach))}` }),
    make('span', { className: 'muted', textContent: '1 is chance; * differs from every null' }),
  );

  // --- tables of the selected head
  const selectedLayer = () => {
    const l = analysedLayers.findIndex((layer) => layer.layer === state.layer);
    return l < 0 || state.head >= analysedLayers[l].heads ? null : l;
  };

  function liftTable(lift, l, h, caption) {
    const head = make('tr', {}, make('th', { scope: 'col', textContent: 'query' }));
    for (const name of STRATA) head.append(make('th', { scope: 'col', textContent: name }));
    const rows = STRATA.map((name, u) => {
      const row = make('tr', {}, make('th', { scope: 'row', textContent: name }));
      STRATA.forEach((_, v) => {
        const pick = (table) => at(table, l, h)?.[u]?.[v] ?? null;
        const value = pick(lift.mean);
        const marked = differs(lift, pick);
        const cell = make('td', {}, make('b', { textContent: figure(value) + (marked ? '*' : '') }));
        const between = interval(pick(lift.low), pick(lift.high));
        if (between) cell.append(make('small', { textContent: between }));
        for (const [null_, z] of against(lift, pick)) cell.append(make('small', { textContent: `z ${signed(z)} ${null_}` }));
        const [background, ink] = value === null ? ['', ''] : shade(value);
        cell.style.background = background;
        cell.style.color = ink;
        row.append(cell);
      });
      return row;
    });
    return make('table', { className: 'lift' },
      make('caption', { textContent: caption }),
      make('thead', {}, head), make('tbody', {}, ...rows));
  }

  // Return the lift table and, if it exists, the collapsed one without outlier tokens.
  function lifts(l, h) {
    const first = liftTable(lift, l, h, 'Lift: attention from the query stratum (rows) to the key stratum (columns), in multiples of chance');
    if (!part.lift_without_outliers) return [first];
    const other = liftTable(part.lift_without_outliers, l, h, 'Lift without outlier tokens (rows: query stratum, columns: key stratum)');
    const collapsed = make('details', { open: state.isExpanded === true }, make('summary', { textContent: 'Lift without outlier tokens' }), other);
    collapsed.addEventListener('toggle', () => { state.isExpanded = collapsed.open; });
    return [first, collapsed];
  }

  function figureTable(l, h) {
    const rows = Object.entries(metrics).map(([, table]) => {
      const pick = (values) => at(values, l, h);
      const digits = { pixels: 1, share: 3 }[table.unit] ?? 2;
      const value = make('td', {}, make('b', { textContent: figure(pick(table.mean), digits) + (differs(table, pick) ? '*' : '') }));
      const between = interval(pick(table.low), pick(table.high), digits);
      if (between) value.append(make('small', { textContent: between }));
      const nulls = against(table, pick).map(([name, z, expected]) => make('small', {
        textContent: `z ${signed(z)} ${name}${expected === null ? '' : ` (${figure(expected, digits)})`}` }));
      if (table.chance !== null && table.chance !== undefined) nulls.unshift(make('small', { textContent: `chance ${figure(table.chance, 0)}` }));
      const unit = table.unit ? `, ${table.unit}` : '';
      return make('tr', {}, make('th', { scope: 'row', textContent: table.title + unit }), value,
        make('td', {}, ...(nulls.length ? nulls : [make('small', { textContent: 'no null (descriptive)' })])));
    });
    return make('table', { className: 'figures' },
      make('caption', { textContent: 'Metrics of this head' }),
      make('thead', {}, make('tr', {}, ...['metric', 'value', 'null'].map((name) => make('th', { scope: 'col', textContent: name })))),
      make('tbody', {}, ...rows));
  }

  function update(changed) {
    if (changed && !('layer' in changed || 'head' in changed)) return;
    const l = selectedLayer();
    const place = byId('head-tables');
    const h = state.head;
    byId('head-title').textContent = `Layer ${state.layer}, ${headText(h)}`;
    cells.forEach((entry) => {
      const isSelected = entry.layer === state.layer && entry.h === h;
      entry.cell.setAttribute('aria-pressed', String(isSelected));
      entry.cell.tabIndex = isSelected ? 0 : -1;
    });
    if (!cells.some((entry) => entry.cell.tabIndex === 0)) cells[0].cell.tabIndex = 0;
    if (l === null) place.replaceChildren(make('p', { className: 'muted', textContent: 'This layer is not in the analysis.' }));
    else if (h === MEAN) {
      place.replaceChildren(make('p', { className: 'muted', textContent: 'Select a single head: metrics and their nulls are measured per head.' }));
    } else place.replaceChildren(...lifts(l, h), figureTable(l, h));
  }

  // --- charts
  function depth() {
    const pick = (table, l, h, u) => at(table, l, h)?.[u]?.[2] ?? null;
    const all = lift.mean.flat().flatMap((matrix) => (matrix ? matrix.map((row) => row?.[2]) : [])).filter((value) => value !== null && value !== undefined);
    if (!all.length) return;
    const chart = new Chart(byId('depth'), {
      title: 'Lift of attention to HIGH patches, by layer',
      x: 'layer', y: 'lift to HIGH patches',
      xs: [analysedLayers[0].layer, analysedLayers[analysedLayers.length - 1].layer], ys: [...all, 1],
    });
    chart.level(1, 'chance');
    STRATA.forEach((name, u) => {
      const points = analysedLayers.map((layer, l) => {
        const lifts = [...Array(layer.heads).keys()].map((h) => pick(lift.mean, l, h, u)).filter((value) => value !== null);
        return lifts.length ? [layer.layer, lifts.reduce((sum, value) => sum + value, 0) / lifts.length] : null;
      }).filter(Boolean);
      if (points.length) chart.line(points, name.toLowerCase());
    });
    analysedLayers.forEach((layer, l) => {
      for (let h = 0; h < layer.heads; h += 1) {
        const value = pick(lift.mean, l, h, 2);
        if (value === null) continue;
        const marked = differs(lift, (table) => pick(table, l, h, 2));
        const tests = against(lift, (table) => pick(table, l, h, 2)).map(([name, z]) => `z ${signed(z)} ${name}`);
        chart.point(layer.layer, value, { layer: layer.layer, head: h, marked,
          label: [`layer ${layer.layer}, head ${h}: lift from HIGH to HIGH ${figure(value)}`, ...tests].join(', ') });
      }
    });
    byId('depth-lead').replaceChildren('Lines: mean over heads of the lift to HIGH patches, for queries in ',
      ...STRATA.flatMap((name, u) => [make('span', { className: `key ${name.toLowerCase()}`, textContent: name }), u < 2 ? ', ' : '. ']),
      'Circles: each head, HIGH to HIGH; filled where it differs from every null.');
  }

  function scatter() {
    const distance = metrics.distance;
    if (!distance) return;
    const points = analysedLayers.flatMap((layer, l) => [...Array(layer.heads).keys()].map((h) => ({ l, h, layer: layer.layer,
      x: at(distance.mean, l, h), y: at(alignment.mean, l, h) }))).filter((point) => point.x !== null && point.y !== null);
    if (!points.length) return;
    const chart = new Chart(byId('scatter'), {
      title: 'Attention distance against alignment, one point per head',
      x: `mean attention distance, ${distance.unit}`, y: 'alignment',
      xs: points.map((point) => point.x), ys: [...points.map((point) => point.y), 1],
    });
    chart.level(1, 'chance');
    const deepest = Math.max(1, analysedLayers.length - 1);
    for (const { l, h, layer, x, y } of points) {
      const tests = against(alignment, (table) => at(table, l, h)).map(([name, z]) => `z ${signed(z)} ${name}`);
      chart.point(x, y, { layer, head: h, marked: differs(alignment, (table) => at(table, l, h)),
        colour: `rgb(${colour('concentration', 0.05 + (0.8 * l) / deepest).join(' ')})`,
        label: [`layer ${layer}, head ${h}: distance ${figure(x, 1)} ${distance.unit}, alignment ${figure(y)}`, ...tests].join(', ') });
    }
    byId('scatter-lead').textContent = 'One circle per head, dark for the first layers, bright for the last; filled if its alignment differs from every null. Select a circle to show its tables.';
  }

  // --- texts
  const intervals = [alignment.low].flat(2).some((bound) => bound !== null && bound !== undefined);
  const images = count(part.images, 'image');
  byId('analysis-lead').textContent = [images, part.model, `density: ${part.density}`,
    intervals ? 'intervals over images in brackets' : 'too few images for intervals',
    'z: against shifted keypoints, keypoints of another image, permuted keypoints'].filter(Boolean).join('  ·  ');
  if (part.findings?.length) {
    const few = part.findings.length <= 6 || window.innerWidth >= 700;
    byId('findings').replaceChildren(make('details', { open: few },
      make('summary', {}, make('strong', { textContent: count(part.findings.length, 'finding') })),
      make('ul', { className: 'findings' }, ...part.findings.map((finding) => make('li', { textContent: finding.text })))));
  }
  if (part.skipped?.length) {
    const list = make('ul', {}, ...part.skipped.map((image) =>
      make('li', {}, make('code', { textContent: image.name }), ` ${image.reason}`)));
    byId('skipped').replaceChildren(make('details', { open: part.skipped.length <= 5 },
      make('summary', { textContent: `${count(part.skipped.length, 'file')} skipped` }), list));
  }
  // Select the head with the highest alignment among those that differ from every null.
  const selectable = cells.filter((entry) => layerNumbers.includes(entry.layer));
  const differing = selectable.filter((entry) => differs(alignment, (table) => at(table, entry.l, entry.h)));
  const candidates = differing.length ? differing : selectable;
  if (candidates.length) {
    const alignmentOf = (entry) => at(alignment.mean, entry.l, entry.h) ?? -1;
    const best = candidates.reduce((top, entry) => (alignmentOf(entry) > alignmentOf(top) ? entry : top));
    Object.assign(state, { layer: best.layer, head: best.h });
  }
  headSliders(byId('analysis-sliders'));
  show('analysis');
  depth();
  scatter();
  listen(update);
  for (const listener of listeners) listener({ layer: state.layer });
}
