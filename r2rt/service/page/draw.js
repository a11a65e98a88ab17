// Drawing of the timeline's canvases: sharp on every display, in the colours of the style sheet.

/** Colours of the style sheet by name, such as `--ink`. */
export function colours(names) {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Give a canvas the pixels of the display and return its context, in CSS pixels, cleared. */
export function prepare(canvas, width, height) {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  const [pixels, rows] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixels || canvas.height !== rows) {
    canvas.width = pixels;
    canvas.height = rows;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Frames of the span side by side; each cell begins at a multiple of the level's spacing. */
export function drawFrames(context, { tiles, level, view, width, height, duration_s, empty }) {
  const spacing = tiles.spacing(level);
  const scale = width / (view.end_s - view.start_s);
  context.fillStyle = empty;
  context.fillRect(0, 0, (Math.min(view.end_s, duration_s) - view.start_s) * scale, height);
  for (let cell = Math.floor(view.start_s / spacing); cell * spacing < Math.min(view.end_s, duration_s); cell += 1) {
    const start_s = cell * spacing;
    const frame = tiles.frame(level, start_s);
    if (!frame) continue;
    const x = (start_s - view.start_s) * scale;
    const cellWidth = Math.min(spacing, duration_s - start_s) * scale;
    // The frame fills its cell; what does not fit is cut at its sides.
    const shown = Math.min(frame.width, (cellWidth / height) * frame.height);
    const shownHeight = Math.min(frame.height, (shown / cellWidth) * height);
    context.drawImage(
      frame.image,
      frame.x + (frame.width - shown) / 2,
      (frame.height - shownHeight) / 2,
      shown,
      shownHeight,
      x,
      0,
      cellWidth + 0.5,
      height,
    );
  }
}

const STEPS_S = [0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

/** Ticks of a view that are far enough apart for their labels, in seconds. */
export function ticks(view, width, apart = 84) {
  const smallest = ((view.end_s - view.start_s) * apart) / width;
  const step = STEPS_S.find((candidate) => candidate >= smallest) ?? 7200;
  const found = [];
  for (let at = Math.ceil(view.start_s / step - 1e-9) * step; at <= view.end_s; at += step) found.push(at);
  return { step, times_s: found };
}

/** The saliency of a view as a filled curve; `range` holds its least and greatest value. */
export function drawCurve(context, { saliency, range, view, width, height, line, area }) {
  const { start_s, fps, values } = saliency;
  const scale = width / (view.end_s - view.start_s);
  const [low, high] = range;
  const y = (value) => height - 3 - ((value - low) / (high - low || 1)) * (height - 6);
  const first = Math.max(0, Math.floor((view.start_s - start_s) * fps) - 1);
  const last = Math.min(values.length - 1, Math.ceil((view.end_s - start_s) * fps) + 1);
  if (last < first) return;
  const x = (index) => (start_s + (index + 0.5) / fps - view.start_s) * scale;
  // Several clips in a pixel become their greatest.
  const stride = Math.max(1, Math.floor((last - first + 1) / width));
  const points = [];
  for (let index = first; index <= last; index += stride) {
    let most = values[index];
    for (let other = index + 1; other < Math.min(index + stride, last + 1); other += 1) most = Math.max(most, values[other]);
    points.push([x(index), y(most)]);
  }
  const trace = () => {
    context.beginPath();
    points.forEach(([across, down], index) => (index ? context.lineTo(across, down) : context.moveTo(across, down)));
  };
  trace();
  context.lineTo(points.at(-1)[0], height);
  context.lineTo(points[0][0], height);
  context.closePath();
  context.fillStyle = area;
  context.fill();
  trace();
  context.strokeStyle = line;
  context.lineWidth = 1.75;
  context.lineJoin = "round";
  context.stroke();
}

/** The waveform's peaks, mirrored about the middle. */
export function drawPeaks(context, { peaks, view, width, height, colour }) {
  const { start_s, end_s, max, min } = peaks;
  const scale = width / (view.end_s - view.start_s);
  const each = (end_s - start_s) / max.length;
  context.fillStyle = colour;
  for (let index = 0; index < max.length; index += 1) {
    const x = (start_s + index * each - view.start_s) * scale;
    if (x < -2 || x > width) continue;
    const top = height / 2 - (Math.max(0, max[index]) * height) / 2;
    const bottom = height / 2 - (Math.min(0, min[index]) * height) / 2;
    context.fillRect(x, top, Math.max(each * scale, 0.75), Math.max(bottom - top, 1));
  }
}
