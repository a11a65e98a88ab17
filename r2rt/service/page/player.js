// The player: time, frames, shuttle. A file that the browser cannot play is shown in stills, and
// played in parts that the server converts.

import { frameAddress, lost, partAddress } from "./api.js";
import { clock, el, fill, icon, iconButton } from "./dom.js";
import { changed, complain, on, state } from "./state.js";

const RATES = [1, 2, 4, 8];
const CONVERTED_S = 30; // how much of an unplayable file is converted to play it

const video = el("video", { preload: "metadata", playsinline: true, tabindex: "-1" });
const still = el("img", { class: "still", alt: "", hidden: true });
const stage = el("div", { class: "stage" }, video, still);
const readout = el("output", { class: "clock", "aria-label": "Time" });
const playButton = iconButton("play", "Play (space)", () => player.toggle());
const soundButton = iconButton("sound", "Sound off (M)", () => player.mute());
const hint = el("p", { class: "quiet hint", hidden: true }, "This browser cannot play the file itself: stills are shown, and parts are converted as you play them.");

let converted = false; // whether parts are converted, since the browser cannot play the file
let playingPart = false;
let offset_s = 0; // where the playing part starts
let at_s = 0; // time of the still
let coming = false; // whether a still is on its way; one at a time
let outdated = false; // and whether another one is wanted by now
let stopAt_s = Infinity;
let wanted_s = null; // the last seek that waits for the one under way
let cut = false; // whether the connection broke off: the file is read on once the server answers
let backwards = 0; // how fast the player runs back; 0 where it does not
let ticking = 0;

/** Frames a second of a video, as a number. */
export function framesPerSecond(of = state.video) {
  const [top, below = "1"] = String(of?.frame_rate_exact ?? of?.frame_rate ?? 25).split("/");
  const value = Number(top) / Number(below);
  return Number.isFinite(value) && value > 0 ? value : 25;
}

export const player = {
  element: el(
    "section",
    { class: "player", "aria-label": "Player" },
    stage,
    el(
      "div",
      { class: "controls" },
      iconButton("back", "Back (J)", () => player.shuttle(-1)),
      iconButton("frame_back", "Previous frame (←)", () => player.step(-1)),
      playButton,
      iconButton("frame_forward", "Next frame (→)", () => player.step(1)),
      iconButton("forward", "Forward (L)", () => player.shuttle(1)),
      readout,
      soundButton,
    ),
    hint,
  ),

  get time() {
    if (converted && !playingPart) return at_s;
    return wanted_s ?? video.currentTime + offset_s;
  },

  get duration() {
    return state.video?.duration_s ?? 0;
  },

  get paused() {
    return video.paused && !backwards;
  },

  /** The frame on show, counted from 0. */
  get frame() {
    return Math.floor(this.time * framesPerSecond() + 1e-6);
  },

  /** Show another video, from its start. */
  open(entry) {
    this.stop();
    converted = entry.playable === false;
    playingPart = cut = false;
    offset_s = at_s = 0;
    wanted_s = null;
    stopAt_s = Infinity;
    hint.hidden = !converted;
    still.hidden = !converted;
    soundButton.hidden = !entry.has_audio;
    stage.style.setProperty("--shape", entry.width && entry.height ? `${entry.width} / ${entry.height}` : "16 / 9");
    video.setAttribute("aria-label", `The video ${entry.name}`);
    if (converted) {
      video.removeAttribute("src");
      video.load();
      showStill();
    } else {
      video.src = partAddress(entry, "file");
    }
    show();
  },

  /** Go to a time in seconds; the last of many calls wins. */
  seek(time_s) {
    const last = Math.max(0, this.duration - 0.5 / framesPerSecond());
    const target = Math.min(Math.max(0, time_s), last);
    if (converted) {
      endPart();
      at_s = target;
      showStill();
    } else if (video.readyState === 0 || video.seeking || cut) {
      wanted_s = target;
    } else {
      wanted_s = null;
      video.currentTime = target;
    }
    show();
    changed("time");
  },

  /** Play from one time to another. */
  play(start_s = this.time, end_s = Infinity) {
    stopBack();
    stopAt_s = end_s;
    video.playbackRate = 1;
    if (converted) {
      playPart(start_s, end_s);
      return;
    }
    if (start_s !== this.time) this.seek(start_s);
    started(video.play());
  },

  stop() {
    stopBack();
    video.pause();
  },

  toggle() {
    if (!this.paused) this.stop();
    else if (this.time >= this.duration - 1.5 / framesPerSecond()) this.play(0);
    else this.play();
  },

  /** J and L: faster with each press, as on an editing desk. */
  shuttle(direction) {
    if (direction > 0) {
      stopBack();
      const next = video.paused ? 1 : RATES[Math.min(RATES.indexOf(video.playbackRate) + 1, RATES.length - 1)];
      if (video.paused) this.play();
      video.playbackRate = next;
    } else {
      video.pause();
      backwards = backwards ? Math.min(backwards * 2, RATES.at(-1)) : 1;
      tick();
    }
    show();
  },

  /** Move by frames. The middle of a frame is sought, so that rounding cannot show its neighbour. */
  step(frames) {
    this.stop();
    stopAt_s = Infinity;
    this.seek((this.frame + frames + 0.5) / framesPerSecond());
  },

  mute() {
    video.muted = !video.muted;
    const label = video.muted ? "Sound on (M)" : "Sound off (M)";
    soundButton.setAttribute("aria-label", label);
    soundButton.title = label;
    fill(soundButton, icon(video.muted ? "mute" : "sound"));
  },
};

function started(promise) {
  promise?.catch((error) => {
    if (error.name === "NotAllowedError") {
      // A page may not start sound before the person touched it.
      video.muted = false;
      player.mute();
      video.play().catch(() => {});
    }
  });
}

function stopBack() {
  backwards = 0;
}

function endPart() {
  if (!playingPart) return;
  at_s = Math.min(video.currentTime + offset_s, player.duration);
  playingPart = false;
  video.pause();
  showStill();
}

function playPart(start_s, end_s) {
  const until = Math.min(end_s, start_s + CONVERTED_S, player.duration);
  offset_s = start_s;
  playingPart = true;
  outdated = false;
  still.hidden = true;
  video.src = partAddress(state.video, "clip", { start_s, end_s: until });
  started(video.play());
}

function showStill() {
  still.hidden = false;
  outdated = coming;
  if (coming) return;
  coming = true;
  still.src = frameAddress(state.video, at_s, 540);
}

function stillCame() {
  coming = false;
  if (outdated) showStill();
}

// While the player runs, what shows the time follows it at the display's rate.
function tick() {
  cancelAnimationFrame(ticking);
  let before = performance.now();
  const next = (now) => {
    if (player.paused) return;
    if (backwards) {
      const passed_s = ((now - before) / 1000) * backwards;
      before = now;
      player.seek(player.time - passed_s);
      if (player.time <= 0) stopBack();
    } else if (player.time >= stopAt_s) {
      const end_s = stopAt_s;
      stopAt_s = Infinity;
      player.stop();
      // The last frame of the moment stays on show, not the first one after it.
      player.seek(end_s - 0.5 / framesPerSecond());
    }
    show();
    changed("time");
    ticking = requestAnimationFrame(next);
  };
  ticking = requestAnimationFrame(next);
}

function show() {
  const paused = player.paused;
  const fast = backwards ? ` −${backwards}×` : video.playbackRate !== 1 && !paused ? ` ${video.playbackRate}×` : "";
  readout.textContent = `${clock(player.time, 2)} / ${clock(player.duration, 0)} · frame ${player.frame}${fast}`;
  const name = paused ? "play" : "pause";
  if (playButton.dataset.shows !== name) {
    playButton.dataset.shows = name;
    const label = paused ? "Play (space)" : "Pause (space)";
    playButton.setAttribute("aria-label", label);
    playButton.title = label;
    fill(playButton, icon(name));
  }
}

video.addEventListener("play", () => {
  show();
  tick();
});
video.addEventListener("pause", () => {
  show();
  changed("time");
});
video.addEventListener("ended", endPart);
for (const name of ["seeked", "loadedmetadata"]) {
  video.addEventListener(name, () => {
    if (wanted_s !== null && !cut) {
      const target = wanted_s;
      wanted_s = null;
      video.currentTime = target;
    }
    show();
    changed("time");
  });
}
video.addEventListener("click", () => player.toggle());
video.addEventListener("error", () => {
  if (!state.video || !video.getAttribute("src")) return;
  if (playingPart) {
    endPart();
    complain("The server could not convert this part of the video.");
    return;
  }
  const now_s = player.time;
  if (video.error?.code === MediaError.MEDIA_ERR_NETWORK) {
    cut = true;
    wanted_s = now_s;
    player.stop();
    lost();
    return;
  }
  converted = true;
  hint.hidden = false;
  at_s = now_s;
  wanted_s = null;
  video.removeAttribute("src");
  showStill();
  show();
});
still.addEventListener("load", stillCame);
still.addEventListener("error", () => {
  still.hidden = true;
  stillCame();
});
on("connected", () => {
  if (cut) {
    cut = false;
    video.load();
  } else if (converted && !playingPart && still.hidden) showStill();
});
// The video before is not shown under the name of the next one, which may not be here yet.
on("video", () => {
  player.stop();
  converted = playingPart = cut = false;
  offset_s = at_s = 0;
  wanted_s = null;
  coming = outdated = false;
  still.hidden = true;
  still.removeAttribute("src");
  video.removeAttribute("src");
  video.load();
  show();
});
