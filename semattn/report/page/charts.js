// Charts of the analysis: axes with ticks, lines, and points that select their head.

class Chart {
  constructor(place, { title, x, y, xs, ys }) {
    this.size = { width: 480, height: 300, left: 46, right: 54, top: 12, bottom: 40 };
    const { width, height } = this.size;
    this.svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title });
    [this.x, this.y] = [this.axis(xs), this.axis(ys)];
    this.frame(x, y);
    place.replaceChildren(this.svg);
  }

  // Return the range and ticks of an axis that covers the values.
  axis(values) {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const span = high - low || Math.abs(high) || 1;
    const power = 10 ** Math.floor(Math.log10(span / 4));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= 6);
    const from = Math.floor(low / step + 1e-9) * step;
    const to = Math.max(Math.ceil(high / step - 1e-9) * step, from + step);
    const ticks = [];
    for (let at = from; at <= to + step / 1e6; at += step) ticks.push(at);
    return { from, to, ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  across(value) {
    const { width, left, right } = this.size;
    return left + ((value - this.x.from) / (this.x.to - this.x.from)) * (width - left - right);
  }

  down(value) {
    const { height, top, bottom } = this.size;
    return height - bottom - ((value - this.y.from) / (this.y.to - this.y.from)) * (height - top - bottom);
  }

  frame(x, y) {
    const { width, height, left, right, top, bottom } = this.size;
    for (const tick of this.x.ticks) {
      const at = this.across(tick);
      this.svg.append(
        draw('line', { class: 'tick', x1: at, x2: at, y1: top, y2: height - bottom }),
        this.text(tick.toFixed(this.x.digits), at, height - bottom + 15, 'middle'),
      );
    }
    for (const tick of this.y.ticks) {
      const at = this.down(tick);
      this.svg.append(
        draw('line', { class: 'tick', x1: left, x2: width - right, y1: at, y2: at }),
        this.text(tick.toFixed(this.y.digits).replace('-', '\u2212'), left - 6, at + 4, 'end'),
      );
    }
    const turned = this.text(y, 0, 0, 'middle', 'axis');
    turned.setAttribute('transform', `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`);
    this.svg.append(this.text(x, (left + width - right) / 2, height - 6, 'middle', 'axis'), turned);
  }

  text(label, x, y, anchor, kind = '') {
    const element = draw('text', { x, y, 'text-anchor': anchor, class: kind });
    element.textContent = label;
    return element;
  }

  level(value, label) {
    const at = this.down(value);
    const { width, left, right } = this.size;
    this.svg.append(
      draw('line', { class: 'chance', x1: left, x2: width - right, y1: at, y2: at }),
      this.text(label, width - right + 6, at + 4, 'start', 'axis'),
    );
  }

  line(points, kind) {
    const path = points.map(([x, y], at) => `${at ? 'L' : 'M'}${this.across(x).toFixed(1)} ${this.down(y).toFixed(1)}`);
    this.svg.append(draw('path', { d: path.join(''), class: `line ${kind}` }));
  }

  // Draw a head as a circle, filled if it differs from every null.
  point(x, y, { layer, head, marked, label, colour: fill }) {
    const title = draw('title');
    title.textContent = label;
    const circle = draw('circle', { cx: this.across(x), cy: this.down(y), r: 4.5, class: `head${marked ? ' marked' : ''}` }, title);
    if (fill) circle.style.setProperty('--own', fill);
    circle.addEventListener('click', () => chooseHead(layer, head));
    listen(() => circle.classList.toggle('chosen', state.layer === layer && state.head === head));
    circle.classList.toggle('chosen', state.layer === layer && state.head === head);
    this.svg.append(circle);
  }
}
