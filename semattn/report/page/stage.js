// Picture with a canvas of the same size on top.

const OPACITY = 0.88; // at the highest value
const MEAN_OPACITY = 0.30; // limit of the mean over the picture, so that it stays visible

// Opacity at the highest of values in [0, 1], as in semattn/viz/overlay.py.
function fullOpacity(values) {
  const mean = OPACITY * values.reduce((sum, value) => sum + value ** 0.7, 0) / values.length;
  return OPACITY * Math.min(1, MEAN_OPACITY / Math.max(mean, 1e-9));
}

class Stage {
  // `alt` describes the picture; `draws(stage)` draws on top of it, as the state requires.
  constructor(place, { alt, draws, interactive = false, faded = true }) {
    this.image = make('img', { src: content.image.source, alt, draggable: false });
    if (faded) this.image.classList.add('faded');
    this.canvas = make('canvas');
    if (!interactive) this.canvas.setAttribute('aria-hidden', 'true');
    this.element = make('div', { className: 'stage' }, this.image, this.canvas);
    [this.height, this.width] = content.image.size;
    this.element.style.aspectRatio = `${this.width} / ${this.height}`;
    this.draws = draws;
    place.append(this.element);
    new ResizeObserver(() => this.redraw()).observe(this.element);
  }

  redraw() {
    const box = this.element.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round(box.height * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.scale = [height / this.height, width / this.width];
    this.ratio = ratio;
    this.pen = this.canvas.getContext('2d');
    this.pen.clearRect(0, 0, width, height);
    this.draws(this);
  }

  // Box of a patch in whole pixels of the canvas, so that neighbours leave no gap.
  box(patch) {
    const w = content.image.grid[1];
    const row = Math.floor(patch / w);
    const column = patch % w;
    const { cell, origin } = content.image;
    const [down, across] = [0, 1].map((axis) =>
      (count) => Math.round((origin[axis] + count * cell[axis]) * this.scale[axis]));
    const [x, y] = [across(column), down(row)];
    return [x, y, across(column + 1) - x, down(row + 1) - y];
  }

  patchAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    const y = ((event.clientY - box.top) / box.height) * this.height;
    const [h, w] = content.image.grid;
    const { cell, origin } = content.image;
    const row = Math.floor((y - origin[0]) / cell[0]);
    const column = Math.floor((x - origin[1]) / cell[1]);
    return row >= 0 && row < h && column >= 0 && column < w ? row * w + column : null;
  }

  // Draw one value in [0, 1] per patch as colour and opacity; null marks a patch without a value.
  patches(palette, value) {
    const total = content.image.grid[0] * content.image.grid[1];
    const values = Array.from({ length: total }, (_, patch) => value(patch));
    const full = fullOpacity(values.map((patchValue) => patchValue ?? 0));
    for (let patch = 0; patch < total; patch += 1) {
      const patchValue = values[patch];
      if (patchValue === null) this.unknown(patch);
      else if (patchValue > 0) {
        const alpha = full * patchValue ** 0.7;
        this.pen.fillStyle = `rgb(${colour(palette, patchValue).join(' ')} / ${alpha.toFixed(3)})`;
        this.pen.fillRect(...this.box(patch));
      }
    }
  }

  unknown(patch) {
    const [x, y, width, height] = this.box(patch);
    this.pen.strokeStyle = 'rgb(255 255 255 / 0.35)';
    this.pen.lineWidth = this.ratio;
    this.pen.beginPath();
    this.pen.moveTo(x + 0.3 * width, y + 0.7 * height);
    this.pen.lineTo(x + 0.7 * width, y + 0.3 * height);
    this.pen.stroke();
  }

  // Draw a map of bytes (height x width) at its own resolution, with interpolation.
  map(palette, size, value, opacity) {
    const [height, width] = size;
    const picture = new ImageData(width, height);
    const full = fullOpacity(Array.from({ length: width * height }, (_, i) => value(i)));
    for (let i = 0; i < width * height; i += 1) {
      const pixel = value(i);
      const [red, green, blue] = colour(palette, pixel);
      picture.data.set([red, green, blue, Math.round(255 * opacity * full * pixel ** 0.7)], 4 * i);
    }
    const small = make('canvas', { width, height });
    small.getContext('2d').putImageData(picture, 0, 0);
    this.pen.imageSmoothingEnabled = true;
    this.pen.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
  }

  grid() {
    const [h, w] = content.image.grid;
    this.pen.strokeStyle = 'rgb(255 255 255 / 0.22)';
    this.pen.lineWidth = 1;
    this.pen.beginPath();
    const [left, top] = this.box(0);
    const [right, bottom] = this.corner(h, w);
    for (let row = 1; row < h; row += 1) {
      const y = this.box(row * w)[1] - 0.5;
      this.pen.moveTo(left, y);
      this.pen.lineTo(right, y);
    }
    for (let column = 1; column < w; column += 1) {
      const x = this.box(column)[0] - 0.5;
      this.pen.moveTo(x, top);
      this.pen.lineTo(x, bottom);
    }
    if (left > 0 || top > 0 || right < this.canvas.width - 1 || bottom < this.canvas.height - 1) {
      this.pen.rect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    }
    this.pen.stroke();
  }

  corner(h, w) {
    const [x, y, width, height] = this.box(h * w - 1);
    return [x + width, y + height];
  }

  keypoints() {
    const [down, across] = this.scale;
    for (const [style, width] of [['rgb(0 0 0 / 0.35)', 2.2], ['rgb(255 197 61 / 0.75)', 1]]) {
      this.pen.strokeStyle = style;
      this.pen.lineWidth = width * this.ratio;
      this.pen.beginPath();
      for (const [x, y, size] of content.image.keypoints) {
        const radius = Math.max((size / 2) * across, this.ratio);
        this.pen.moveTo((x + 0.5) * across + radius, (y + 0.5) * down);
        this.pen.arc((x + 0.5) * across, (y + 0.5) * down, radius, 0, 2 * Math.PI);
      }
      this.pen.stroke();
    }
  }

  ring(patch) {
    const [x, y, width, height] = this.box(patch);
    for (const [style, thick] of [['rgb(0 0 0 / 0.75)', 4], ['#ffffff', 2]]) {
      this.pen.strokeStyle = style;
      this.pen.lineWidth = thick * this.ratio;
      this.pen.strokeRect(x, y, width, height);
    }
  }
}
