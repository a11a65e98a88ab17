// The view of one video: player, sentence, timeline, moments, picks.

import { call } from "./api.js";
import { byId, clock, el, fill, left, say } from "./dom.js";
import { ask, restore } from "./lanes.js";
import { momentsPanel, playMoment } from "./moments.js";
import { picksPanel } from "./picks.js";
import { player } from "./player.js";
import { changed, complain, isBusy, on, state } from "./state.js";
import { timeline } from "./timeline.js";
import { loadVideos } from "./video_list.js";

const heading = el("h1", { class: "title" });
const facts = el("p", { class: "quiet" });
const progress = el("progress", { max: 1, hidden: true, "aria-label": "Encoding of the video" });
const query = el("input", {
  type: "search",
  id: "query",
  placeholder: "a dog catches a frisbee",
  autocomplete: "off",
  enterkeyhint: "search",
  maxlength: 500,
});
const form = el(
  "form",
  { class: "ask", role: "search", on: { submit: submitted } },
  el("label", { for: "query" }, "Find"),
  query,
  el("button", { type: "submit", class: "primary" }, "Find moments"),
  el("p", { class: "quiet hint wide-only" }, "Press / to type. Several sentences, divided by semicolons, become several lanes."),
);
const empty = el(
  "div",
  { class: "welcome" },
  el("h1", {}, "Find moments in videos from a sentence"),
  el("p", {}, "Add a video: drop it on this page, choose a file, or give a path on the server. It is encoded once; then every sentence is answered at once."),
  el("p", { class: "quiet" }, "Press ? for the keyboard shortcuts."),
);
const content = el(
  "div",
  { class: "video-view" },
  el("div", { class: "top" }, el("header", { class: "about" }, heading, facts, progress), player.element, form),
  timeline.element,
  el("div", { class: "panels" }, momentsPanel, picksPanel),
);

let shownState = "";
let fetched = false; // whether it was, when it was shown last
let opening = null; // the video whose streams are being read
let wanted_s = null; // the span to play once it can be

/** Show a video, and play a span of it; without an id, an invitation to add one. */
export function showVideo(id, span_s) {
  const view = byId("view");
  const entry = id === null ? null : (state.videos ?? []).find((video) => video.id === id);
  if (!entry) {
    state.video = null;
    state.lanes = [];
    state.lane = state.moment = null;
    for (const what of ["video", "lanes", "selection"]) changed(what);
    fill(view, id === null ? empty : el("div", { class: "welcome" }, el("h1", {}, "There is no such video"), el("p", {}, "It was removed, or the address is wrong. Choose one of the list.")));
    return;
  }
  const fresh = state.video?.id !== id;
  if (!view.contains(content)) fill(view, content);
  if (fresh) {
    state.video = { ...entry };
    shownState = entry.state;
    fetched = entry.duration_s !== null;
    wanted_s = span_s;
    changed("video");
    timeline.open(null);
    restore(state.video).catch(complain);
    open(state.video).catch(complain);
  } else if (span_s && state.video.playable === undefined) wanted_s = span_s;
  else if (span_s) player.play(...span_s);
  show();
}

/** Read the streams of a video, and only then show it: its exact rate of frames, whether it plays. */
async function open(video) {
  if (opening === video || (video.duration_s === null && video.origin !== "library")) return; // not fetched yet
  opening = video;
  let details;
  try {
    details = await call(`videos/${encodeURIComponent(video.id)}`);
  } finally {
    if (opening === video) opening = null;
  }
  if (state.video !== video) return;
  if (details.duration_s === null) {
    // The library has it at an address: it is fetched now that it is wanted.
    if (!details.job) await call("jobs", { method: "POST", json: { kind: "encode", video: video.id, encode: false } });
    fetched = false; // it may have come meanwhile
    await loadVideos();
    return;
  }
  Object.assign(video, details, { has_audio: details.audio.length > 0 });
  player.open(video);
  timeline.open(video);
  show();
  if (wanted_s) player.play(...wanted_s);
  wanted_s = null;
}

/** Put the cursor into the field of the sentence. */
export function focusQuery() {
  query.focus();
  query.select();
}

function submitted(event) {
  event.preventDefault();
  const queries = query.value.split(";").map((text) => text.trim());
  if (!queries.some(Boolean)) return;
  // The same sentence once more plays its best moment.
  const [known] = queries.map((text) => state.lanes.find((lane) => lane.query === text)).filter(Boolean);
  if (known && !known.waiting && known.moments.length && queries.filter(Boolean).length === 1) {
    playMoment(state.lane === known && state.moment ? state.moment : known.moments[0]);
  } else ask(queries).catch(complain);
  query.select();
}

function show() {
  const video = state.video;
  if (!video) return;
  heading.textContent = video.name;
  const job = state.encoding.get(video.id);
  const busy = isBusy(video);
  progress.hidden = !busy;
  progress.value = job?.progress ?? 0;
  const parts = video.duration_s === null ? ["not fetched yet"] : [clock(video.duration_s, 1)];
  if (video.width) parts.push(`${video.width} × ${video.height}`);
  if (video.frame_rate) parts.push(`${rateText(video.frame_rate_exact ?? video.frame_rate)} frames/s`);
  if (busy) {
    const percent = `${Math.round(100 * (job?.progress ?? 0))} %`;
    parts.push(job ? ["encoding", percent, left(job.remaining_s)].filter(Boolean).join(", ") : "waits to be encoded");
  } else if (video.state === "new") {
    parts.push("not encoded before the first question");
  } else if (video.state === "failed") {
    parts.push(`not encoded: ${video.error ?? "unknown reason"}`);
  }
  facts.textContent = parts.join(" · ");
  facts.classList.toggle("wrong", video.state === "failed");
  const changes = shownState !== video.state || !fetched;
  if (video.playable === undefined && video.duration_s !== null && changes) open(video).catch(complain);
  if (shownState !== "ready" && video.state === "ready" && !state.lanes.length) restore(video).catch(complain);
  if (shownState !== video.state) say(facts.textContent); // and not with every step of the encoding
  shownState = video.state;
  fetched = video.duration_s !== null;
}

function rateText(rate) {
  const [top, below = "1"] = String(rate).split("/");
  return String(Math.round((1000 * Number(top)) / Number(below)) / 1000);
}

on("videos", show);
on("connected", () => {
  if (state.video && state.video.playable === undefined) open(state.video).catch(complain);
});
