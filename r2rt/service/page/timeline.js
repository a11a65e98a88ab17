// The timeline: frames, sound, and a lane for every query, over one span of time that zooms.

import { call } from "./api.js";
import { clock, el, iconButton } from "./dom.js";
import { colours, drawFrames, drawPeaks, prepare, ticks } from "./draw.js";
import { LaneView } from "./lane_view.js";
import { framesPerSecond, player } from "./player.js";
import { on, state } from "./state.js";
import { Tiles } from "./tiles.js";

const FRAMES_HEIGHT = 64;
const PEAKS_HEIGHT = 30;
const AXIS_HEIGHT = 24;
const PREVIEW = 168;
const MOST_ZOOM_FRAMES = 12; // fewest frames that fill the view

const axis = el("canvas", { class: "axis" });
const frames = el("canvas", { class: "frames" });
const sound = el("canvas", { class: "sound", hidden: true });
const playhead = el("div", { class: "playhead", "aria-hidden": "true" });
const lanesBox = el("div", { class: "lanes" });
const thumb = el("div", { class: "thumb" });
const overview = el("div", { class: "overview", "aria-hidden": "true", hidden: true }, thumb);
const preview = el("canvas", { class: "preview", hidden: true, "aria-hidden": "true" });
const surface = el(
  "div",
  { class: "surface", role: "slider", tabindex: "0", "aria-label": "Position in the video", "aria-valuemin": "0" },
  axis,
  frames,
  sound,
);
const tracks = el("div", { class: "tracks" }, surface, lanesBox, playhead, preview);
const span = el("span", { class: "quiet span" });

let view = { start_s: 0, end_s: 1 };
let tiles = null;
let peaks = null; // of a span a little wider than the view
let askingPeaks = 0;
let peaksOf = null; // the video whose peaks are under way
let drawing = 0;
let laneViews = [];
let paint = {};

export const timeline = {
  element: el(
    "section",
    { class: "timeline", "aria-label": "Timeline" },
    el(
      "div",
      { class: "zoom" },
      span,
      iconButton("minus", "Zoom out (−)", () => timeline.zoom(2)),
      iconButton("plus", "Zoom in (+)", () => timeline.zoom(0.5)),
      iconButton("fit", "Whole video (0)", () => timeline.fit()),
    ),
    tracks,
    overview,
  ),

  /** Show another video as a whole. */
  open(video) {
    tiles?.close();
    tiles = video ? new Tiles(video, invalidate, { frame_s: 1 / framesPerSecond(video) }) : null;
    peaks = null;
    sound.hidden = !video?.has_audio;
    view = { start_s: 0, end_s: video?.duration_s || 1 };
    invalidate();
  },

  fit() {
    look(0, state.video.duration_s);
  },

  /** Show `factor` times as much, about the playhead, or about a time. */
  zoom(factor, about_s = player.time) {
    const fixed = about_s >= view.start_s && about_s <= view.end_s ? about_s : (view.start_s + view.end_s) / 2;
    look(fixed - (fixed - view.start_s) * factor, fixed + (view.end_s - fixed) * factor);
  },

  /** Show a moment with as much again on either side. */
  zoomTo(moment) {
    const length = Math.max(moment.end_s - moment.start_s, 12 / framesPerSecond());
    look(moment.start_s - length, moment.end_s + length);
  },

  /** Bring a time into the view. */
  reveal(time_s) {
    if (time_s >= view.start_s && time_s <= view.end_s) return;
    const length = view.end_s - view.start_s;
    look(time_s - length / 4, time_s + (3 * length) / 4);
  },
};

function look(start_s, end_s) {
  const duration = state.video?.duration_s || 1;
  const least = Math.min(duration, MOST_ZOOM_FRAMES / framesPerSecond());
  const length = Math.min(duration, Math.max(least, end_s - start_s));
  const middle = (start_s + end_s) / 2;
  const start = Math.min(Math.max(0, middle - length / 2), duration - length);
  view = { start_s: start, end_s: start + length };
  invalidate();
}

function invalidate() {
  if (!drawing) drawing = requestAnimationFrame(draw);
}

function draw() {
  drawing = 0;
  const width = tracks.clientWidth;
  const video = state.video;
  if (!video || !tiles || !width) return;
  paint = colours(["ink", "quiet", "line", "card", "curve", "fill", "sound"]);
  drawAxis(width);
  const level = levelOf(width);
  tiles.want(level, view.start_s, view.end_s);
  drawFrames(prepare(frames, width, FRAMES_HEIGHT), {
    tiles,
    level,
    view,
    width,
    height: FRAMES_HEIGHT,
    duration_s: video.duration_s,
    empty: paint.card,
  });
  if (!sound.hidden) drawSound(width);
  for (const laneView of laneViews) laneView.draw(view, width, paint);
  const whole = view.end_s - view.start_s > video.duration_s - 1e-6;
  overview.hidden = whole;
  thumb.style.left = `${(100 * view.start_s) / video.duration_s}%`;
  thumb.style.width = `${(100 * (view.end_s - view.start_s)) / video.duration_s}%`;
  span.textContent = whole ? clock(video.duration_s) : `${clock(view.start_s)} to ${clock(view.end_s)}`;
  placeHead();
}

function levelOf(width) {
  const shape = state.video.width && state.video.height ? state.video.width / state.video.height : 16 / 9;
  return tiles.level(((view.end_s - view.start_s) * FRAMES_HEIGHT * Math.min(shape, 2)) / width);
}

function drawAxis(width) {
  const context = prepare(axis, width, AXIS_HEIGHT);
  const { step, times_s } = ticks(view, width);
  const scale = width / (view.end_s - view.start_s);
  context.fillStyle = paint.quiet;
  context.strokeStyle = paint.line;
  context.font = '12px system-ui, "Noto Sans", sans-serif';
  context.textBaseline = "middle";
  const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  for (const at of times_s) {
    const x = (at - view.start_s) * scale;
    const text = clock(at, digits);
    const half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(Math.max(0, x - half), width - 2 * half), 9);
    context.beginPath();
    context.moveTo(x, 18);
    context.lineTo(x, AXIS_HEIGHT);
    context.stroke();
  }
}

function drawSound(width) {
  const context = prepare(sound, width, PEAKS_HEIGHT);
  if (peaks) drawPeaks(context, { peaks, view, width, height: PEAKS_HEIGHT, colour: paint.sound });
  const covered = peaks && peaks.start_s <= view.start_s + 1e-6 && peaks.end_s >= view.end_s - 1e-6;
  const coarse = peaks && (peaks.end_s - peaks.start_s) / (view.end_s - view.start_s) > 4;
  if (covered && !coarse) return;
  clearTimeout(askingPeaks);
  askingPeaks = setTimeout(askPeaks, 150, width);
}

async function askPeaks(width) {
  const video = state.video;
  // One request at a time: for a long video the first takes a while, and connections are few.
  if (!video || peaksOf === video) return;
  peaksOf = video;
  const margin = (view.end_s - view.start_s) / 2;
  const [start_s, end_s] = [Math.max(0, view.start_s - margin), Math.min(video.duration_s, view.end_s + margin)];
  const parameters = new URLSearchParams({ start_s, end_s, count: Math.min(2000, Math.max(100, width)) });
  try {
    const answer = await call(`videos/${encodeURIComponent(video.id)}/peaks?${parameters}`);
    if (state.video !== video || !answer.max?.length) return;
    peaks = { start_s, end_s, ...answer };
    invalidate(); // which asks again where the view has moved
  } catch (error) {
    // A video without readable sound has no waveform.
    if (state.video === video && !error.away) sound.hidden = true;
  } finally {
    if (peaksOf === video) peaksOf = null;
  }
}

function placeHead() {
  const video = state.video;
  if (!video) return;
  const at = (player.time - view.start_s) / (view.end_s - view.start_s);
  playhead.hidden = at < 0 || at > 1;
  playhead.style.transform = `translateX(${at * tracks.clientWidth}px)`;
  surface.setAttribute("aria-valuemax", video.duration_s.toFixed(2));
  surface.setAttribute("aria-valuenow", player.time.toFixed(2));
  surface.setAttribute("aria-valuetext", `${clock(player.time)} of ${clock(video.duration_s)}`);
}

/** The time under a pointer. */
function timeAt(event) {
  const box = tracks.getBoundingClientRect();
  return view.start_s + ((event.clientX - box.left) / box.width) * (view.end_s - view.start_s);
}

function scrub(event) {
  if (event.button !== 0 || event.target.closest("button")) return;
  const target = event.currentTarget;
  target.setPointerCapture(event.pointerId);
  player.stop();
  player.seek(timeAt(event));
  const move = (moved) => {
    player.seek(timeAt(moved));
    showPreview(moved);
  };
  const end = () => {
    target.removeEventListener("pointermove", move);
    preview.hidden = true;
  };
  target.addEventListener("pointermove", move);
  for (const name of ["pointerup", "pointercancel"]) target.addEventListener(name, end, { once: true });
}

function showPreview(event) {
  const video = state.video;
  const time_s = Math.min(Math.max(0, timeAt(event)), video.duration_s - 1e-6);
  const width = tracks.clientWidth;
  const frame = tiles.frame(levelOf(width), time_s);
  preview.hidden = !frame;
  if (!frame) return;
  const height = Math.round((PREVIEW * frame.height) / frame.width);
  const context = prepare(preview, PREVIEW, height + 20);
  context.drawImage(frame.image, frame.x, 0, frame.width, frame.height, 0, 0, PREVIEW, height);
  context.fillStyle = paint.ink;
  context.font = '600 13px system-ui, "Noto Sans", sans-serif';
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(clock(time_s, 2), PREVIEW / 2, height + 11);
  preview.style.width = `${PREVIEW}px`;
  preview.style.height = `${height + 20}px`;
  const x = event.clientX - tracks.getBoundingClientRect().left;
  preview.style.left = `${Math.min(Math.max(0, x - PREVIEW / 2), Math.max(0, width - PREVIEW))}px`;
  preview.style.top = `${-height - 26}px`;
}

surface.addEventListener("pointerdown", scrub);
surface.addEventListener("pointermove", (event) => {
  if (state.video && event.pointerType === "mouse") showPreview(event);
});
surface.addEventListener("pointerleave", () => {
  preview.hidden = true;
});
tracks.addEventListener(
  "wheel",
  (event) => {
    if (!state.video) return;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      timeline.zoom(2 ** (event.deltaY / 240), timeAt(event));
    } else if (event.deltaX || event.shiftKey) {
      event.preventDefault();
      const by = ((event.deltaX || event.deltaY) / tracks.clientWidth) * (view.end_s - view.start_s);
      look(view.start_s + by, view.end_s + by);
    }
  },
  { passive: false },
);
overview.addEventListener("pointerdown", (event) => {
  overview.setPointerCapture(event.pointerId);
  const box = overview.getBoundingClientRect();
  const go = (moved) => {
    const middle = ((moved.clientX - box.left) / box.width) * state.video.duration_s;
    const half = (view.end_s - view.start_s) / 2;
    look(middle - half, middle + half);
  };
  go(event);
  overview.addEventListener("pointermove", go);
  for (const name of ["pointerup", "pointercancel"]) {
    overview.addEventListener(name, () => overview.removeEventListener("pointermove", go), { once: true });
  }
});

on("lanes", () => {
  laneViews = state.lanes.map((lane) => laneViews.find((known) => known.lane === lane) ?? new LaneView(lane, { scrub, timeAt }));
  lanesBox.replaceChildren(...laneViews.map((laneView) => laneView.element));
  for (const laneView of laneViews) laneView.update();
  invalidate();
});
on("selection moments picks", () => {
  for (const laneView of laneViews) laneView.update();
  invalidate();
});
on("connected", () => tiles?.retry());
on("time", () => {
  if (!player.paused) timeline.reveal(player.time);
  placeHead();
});
new ResizeObserver(invalidate).observe(tracks);
window.addEventListener("resize", invalidate);

