// Strips of frames from the server, on a fixed grid: level k has a frame every 2^k seconds, so that
// the same strips serve every view and the browser keeps them.

import { partAddress } from "./api.js";

const FRAMES = 12; // of a strip
const AT_ONCE = 3; // strips under way
const KEPT = 240; // strips held, about 100 KB each once decoded

/** Frames of one video. `onLoad` is called when a strip has come. */
export class Tiles {
  constructor(video, onLoad, { height = 72, frame_s = 0.04 } = {}) {
    this.video = video;
    this.height = height;
    this.lowest = Math.floor(Math.log2(frame_s));
    this._onLoad = onLoad;
    this._strips = new Map(); // by level and number: {image, state, count}
    this._waiting = [];
    this._loading = 0;
  }

  /** The level whose frames are about `seconds` apart. */
  level(seconds) {
    return Math.max(this.lowest, Math.round(Math.log2(Math.max(seconds, 1e-3))));
  }

  /** Seconds between frames of a level. */
  spacing(level) {
    return 2 ** level;
  }

  /** Ask for the strips of a span, in place of all that was asked for and has not begun. */
  want(level, start_s, end_s) {
    const strip_s = FRAMES * this.spacing(level);
    const first = Math.max(0, Math.floor(start_s / strip_s));
    const last = Math.floor(Math.min(end_s, this.video.duration_s - 1e-6) / strip_s);
    this._waiting = [];
    for (let number = first; number <= last; number += 1) {
      const key = `${level}:${number}`;
      if (!this._strips.has(key)) this._waiting.push({ key, level, number });
    }
    this._pump();
  }

  /**
   * Return the frame at a time, as {image, x, width, height} in the image's pixels: of the level,
   * or of a coarser one while that has not come; null where there is none.
   */
  frame(level, time_s) {
    for (let tried = level; tried < level + 14; tried += 1) {
      const spacing = this.spacing(tried);
      const index = Math.floor(time_s / spacing);
      const strip = this._strips.get(`${tried}:${Math.floor(index / FRAMES)}`);
      if (strip?.state !== "loaded") continue;
      const width = strip.image.naturalWidth / strip.count;
      const place = Math.min(index % FRAMES, strip.count - 1);
      return { image: strip.image, x: place * width, width, height: strip.image.naturalHeight };
    }
    return null;
  }

  /** Let strips that failed be asked for again. */
  retry() {
    for (const [key, strip] of this._strips) {
      if (strip.state === "failed") this._strips.delete(key);
    }
    this._onLoad();
  }

  /** Whether nothing is under way or waiting. */
  get idle() {
    return !this._loading && !this._waiting.length;
  }

  close() {
    this._waiting = [];
    this._onLoad = () => {};
  }

  _pump() {
    while (this._loading < AT_ONCE && this._waiting.length) {
      const { key, level, number } = this._waiting.shift();
      const spacing = this.spacing(level);
      const start_s = number * FRAMES * spacing;
      const count = Math.max(1, Math.min(FRAMES, Math.ceil((this.video.duration_s - start_s) / spacing - 1e-9)));
      const image = new Image();
      const strip = { image, count, state: "loading" };
      this._strips.set(key, strip);
      this._loading += 1;
      const ended = (state) => {
        strip.state = state;
        this._loading -= 1;
        this._forget();
        this._onLoad();
        this._pump();
      };
      image.addEventListener("load", () => ended("loaded"));
      image.addEventListener("error", () => ended("failed"));
      image.src = partAddress(this.video, "filmstrip", {
        start_s,
        end_s: start_s + count * spacing,
        count,
        height: this.height,
      });
    }
  }

  _forget() {
    for (const [key, strip] of this._strips) {
      if (this._strips.size <= KEPT) return;
      if (strip.state !== "loading") this._strips.delete(key);
    }
  }
}
