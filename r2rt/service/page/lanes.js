// Lanes: a query of the open video each, with its saliency and its moments, and what the person
// has decided about them, which is kept as annotations.

import { call, follow, send } from "./api.js";
import { counted, say } from "./dom.js";
import { framesPerSecond } from "./player.js";
import { changed, complain, on, state } from "./state.js";
import { loadVideos } from "./video_list.js";

const LEAST_SHARE = 0.5; // of the best score; weaker moments are shown on request
const SAME = 0.6; // overlap from which an annotation is about a found moment
const SAVE_MS = 400;
const MOST_QUERIES = 64; // that the server takes in a request

let count = 0;
let undone = []; // what Ctrl+Z takes back, newest last
let saving = 0; // the timer of the next writing
let writing = Promise.resolve(); // one at a time, in order
let held = null; // the open video's annotations, with what was decided since: see `read`
const unsaved = new Set(); // annotations with decisions that the server does not have yet

const path = (video, rest) => `videos/${encodeURIComponent(video.id)}/${rest}`;

/** Ask sentences about the open video, each in a lane of its own. */
export async function ask(queries) {
  const video = state.video;
  const added = [];
  for (const query of queries.map((text) => text.trim()).filter(Boolean)) {
    const known = state.lanes.find((lane) => lane.query === query);
    if (known?.error) {
      Object.assign(known, { waiting: true, error: null, lost: false }); // it is asked again
      added.push(known);
      continue;
    }
    if (known) {
      choose(known);
      continue;
    }
    const lane = { id: `lane${(count += 1)}`, query, moments: [], saliency: null, waiting: true, error: null, job: null, all: false };
    state.lanes.push(lane);
    added.push(lane);
  }
  if (!added.length) return;
  choose(added[0]);
  changed("lanes");
  const its = held;
  for (let from = 0; from < added.length && state.video === video; from += MOST_QUERIES) {
    await answer(video, added.slice(from, from + MOST_QUERIES), its);
  }
}

async function answer(video, lanes, its) {
  const queries = lanes.map((lane) => lane.query);
  try {
    let result;
    for (;;) {
      try {
        result = await call(path(video, "ground"), { method: "POST", json: { queries } });
        break;
      } catch (error) {
        const job = error.status === 409 ? (error.problem.job?.id ?? error.problem.job) : null;
        if (!job) throw error;
        loadVideos().catch(complain); // the list says that the video is encoded now,
        await follow(job, (seen) => {
          for (const lane of lanes) lane.job = seen;
          changed("lanes");
        });
        loadVideos().catch(complain); // and that it was
      }
    }
    // Without what was decided before, the next decision would replace it.
    await read(its);
    result.predictions.forEach((prediction, index) => take(lanes[index], prediction, its.records));
    say(lanes.map(summary).join(". "));
  } catch (error) {
    for (const lane of lanes) Object.assign(lane, { waiting: false, error: error.message, lost: error.away });
    if (lanes[0]) say(error.message);
  }
  if (state.video?.id === video.id) {
    if (!state.moment && state.lane) state.moment = state.lane.moments[0] ?? null;
    changed("lanes");
    changed("selection");
  }
}

function take(lane, prediction, records) {
  lane.waiting = false;
  lane.job = null;
  lane.present = prediction.present;
  lane.unknown = prediction.unknown_words ?? [];
  lane.truncated = prediction.query_truncated;
  lane.saliency = prediction.saliency ?? null;
  lane.moments = (prediction.moments ?? []).map(({ start_s, end_s, score }) => newMoment(start_s, end_s, score));
  const before = records.find((record) => record.query === lane.query);
  if (before) merge(lane, before);
}

/**
 * The moments of a lane that are shown: all, or those that score at least half as much as the best
 * and overlap no better one, with whatever was decided.
 */
export function shown(lane) {
  if (lane.all) return lane.moments;
  const good = [];
  for (const moment of lane.moments) {
    const found = moment.found;
    if (!found || moment.score < LEAST_SHARE * lane.moments[0].score) continue;
    if (good.every((better) => found[1] <= better.found[0] || found[0] >= better.found[1])) good.push(moment);
  }
  return lane.moments.filter((moment) => moment.verdict || good.includes(moment));
}

function newMoment(start_s, end_s, score, verdict = null) {
  return { id: `moment${(count += 1)}`, start_s, end_s, score, found: score === null ? null : [start_s, end_s], verdict };
}

/** What was found for a lane, as a sentence. */
export function summary(lane) {
  if (lane.error) return lane.error;
  if (lane.waiting) return "Waiting for the answer";
  const found = `${counted(shown(lane).length, "moment")} for ${lane.query}`;
  return lane.present === false ? `${found}, but it is probably not in the video` : found;
}

/** Select a lane, and its best moment or the one given. */
export function choose(lane, moment = lane?.moments[0] ?? null) {
  state.lane = lane;
  state.moment = moment;
  changed("selection");
}

/** Select the next moment of the lane's list, or the one before. */
export function chooseNext(step) {
  const listed = state.lane ? shown(state.lane) : [];
  if (!listed.length) return;
  const place = listed.indexOf(state.moment) + step;
  choose(state.lane, listed[Math.min(Math.max(place, 0), listed.length - 1)]);
}

/** Show a lane's weaker moments too, or no longer. */
export function toggleAll(lane) {
  lane.all = !lane.all;
  changed("moments");
}

/** Take a lane away; what was decided about its moments stays kept. */
export function removeLane(lane) {
  const at = state.lanes.indexOf(lane);
  state.lanes.splice(at, 1);
  if (state.lane === lane) choose(state.lanes[Math.min(at, state.lanes.length - 1)] ?? null);
  changed("lanes");
}

function remember(lane) {
  undone.push({ lane, moments: lane.moments.map((moment) => ({ ...moment })) });
  undone = undone.slice(-100);
}

/** Take the last decision or correction back. */
export function undo() {
  const last = undone.pop();
  if (!last || !state.lanes.includes(last.lane)) return;
  const selected = state.moment?.id;
  last.lane.moments = last.moments;
  choose(last.lane, last.moments.find((moment) => moment.id === selected) ?? last.moments[0] ?? null);
  settled(last.lane);
}

/** Keep or reject a moment; the same verdict again takes it back. */
export function judge(moment, verdict) {
  const lane = laneOf(moment);
  if (!lane) return;
  remember(lane);
  const fresh = moment.verdict !== verdict;
  moment.verdict = fresh ? verdict : null;
  if (!fresh && moment.score === null) lane.moments = lane.moments.filter((other) => other !== moment);
  if (!lane.moments.includes(state.moment)) state.moment = lane.moments[0] ?? null;
  say(fresh ? (verdict === "kept" ? "Moment kept" : "Moment rejected") : "Decision taken back");
  settled(lane);
}

/** Move the ends of a moment, in seconds; they are put on frames, and the moment counts as kept. */
export function correct(moment, start_s, end_s, { record = true } = {}) {
  const lane = laneOf(moment);
  if (!lane) return;
  if (record) remember(lane);
  const rate = framesPerSecond();
  const last = Math.ceil(state.video.duration_s * rate - 1e-6);
  const first = Math.min(Math.max(0, Math.round(start_s * rate)), last - 1);
  const after = Math.max(first + 1, Math.min(last, Math.round(end_s * rate)));
  moment.start_s = first / rate;
  moment.end_s = Math.min(after / rate, state.video.duration_s);
  moment.verdict = "kept";
  settled(lane);
}

/** Remember the lane as it is, before many corrections that count as one. */
export function beginCorrections(moment) {
  const lane = laneOf(moment);
  if (lane) remember(lane);
}

// The answer replaces the moments of a lane, and only an answered lane is written.
function answered() {
  const { lane } = state;
  if (!lane) complain("Ask a sentence first: its lane holds the moments that you mark.");
  else if (lane.error) complain("Ask this sentence again first: its lane has no answer to mark moments beside.");
  else if (lane.waiting) complain("Moments can be marked in this lane once its sentence is answered.");
  else return true;
  return false;
}

/** Set an end of the selected moment to a frame; without a moment, make one from there. */
export function setEnd(which, frame) {
  const rate = framesPerSecond();
  if (!answered()) return;
  let moment = state.moment;
  if (!moment) {
    moment = newMoment(frame / rate, state.video.duration_s, null, "kept");
    remember(state.lane);
    state.lane.moments.push(moment);
    choose(state.lane, moment);
    correct(moment, which === "in" ? frame / rate : 0, which === "in" ? state.video.duration_s : (frame + 1) / rate, { record: false });
    return;
  }
  const start_s = which === "in" ? frame / rate : moment.start_s;
  const end_s = which === "out" ? (frame + 1) / rate : moment.end_s;
  // An end that is set beyond the other one takes it along.
  if (which === "in" && start_s >= end_s) correct(moment, start_s, start_s + 1 / rate);
  else if (which === "out" && end_s <= start_s) correct(moment, end_s - 1 / rate, end_s);
  else correct(moment, start_s, end_s);
}

/** Add a moment of the person's own to the lane, two seconds from a time. */
export function addMoment(time_s) {
  if (!answered()) return;
  remember(state.lane);
  const moment = newMoment(time_s, time_s + 2, null, "kept");
  state.lane.moments.push(moment);
  choose(state.lane, moment);
  correct(moment, time_s, time_s + 2, { record: false });
}

export function laneOf(moment) {
  return state.lanes.find((lane) => lane.moments.includes(moment)) ?? null;
}

/** Take what is decided about a lane's moments into the annotations, and write them soon. */
function settled(lane) {
  changed("moments");
  const spans = (verdict) =>
    lane.moments
      .filter((moment) => moment.verdict === verdict)
      .map((moment) => [moment.start_s, moment.end_s].map(rounded))
      .sort((one, two) => one[0] - two[0]);
  const record = { query: lane.query, windows: spans("kept"), rejected: spans("rejected") };
  const records = new Map(held.records.map((before) => [before.query, before]));
  if (record.windows.length || record.rejected.length) records.set(lane.query, record);
  else records.delete(lane.query);
  held.records = [...records.values()];
  held.decided.add(lane.query);
  unsaved.add(held);
  clearTimeout(saving);
  saving = setTimeout(flush, SAVE_MS);
}

const rounded = (seconds) => Math.round(seconds * 1e6) / 1e6;

/** Write at once what waits to be written. */
function flush() {
  clearTimeout(saving);
  for (const its of unsaved) writing = writing.then(() => save(its)).catch(complain);
}

async function save(its, options = {}, again = true) {
  const { records, version } = its;
  if (!unsaved.has(its)) return; // an earlier turn wrote it
  const headers = version ? { "If-Match": version } : {};
  its.version = null; // unknown until the answer is there
  try {
    const response = await send(path(its.video, "annotations"), { method: "PUT", json: { records }, headers, ...options });
    its.version = response.headers.get("ETag");
    if (its.records !== records) return;
    its.decided.clear();
    unsaved.delete(its);
  } catch (error) {
    its.version = version;
    if (error.status === 412 && again) {
      await join(its);
      await save(its, options, false);
      return;
    }
    if (error.status === 404) unsaved.delete(its); // the video was removed
    throw error; // anything else is written with the next decision, or once connected again
  }
}

/** Take over what others, such as a second page, decided about queries that nobody decided about here. */
async function join(its) {
  const theirs = await get(its);
  const records = new Map(theirs.map((record) => [record.query, record]));
  for (const query of its.decided) {
    const record = its.records.find((own) => own.query === query);
    if (record) records.set(query, record);
    else records.delete(query);
  }
  its.records = [...records.values()];
}

async function get(its) {
  const response = await send(path(its.video, "annotations"));
  const { records } = await response.json();
  its.version = response.headers.get("ETag");
  return records;
}

/** Read a video's annotations into `its.records`, once; one that failed is tried again. */
function read(its) {
  its.reading ??= get(its).then(
    (records) => (its.records = records),
    (error) => {
      its.reading = null;
      throw error;
    },
  );
  return its.reading;
}

/** Read what was kept of a video, and ask those queries again. */
export async function restore(video) {
  undone = [];
  const its = [...unsaved].find((known) => known.video.id === video.id) ?? {
    video,
    records: null, // null until they are read
    reading: null,
    version: null, // of the server's records
    decided: new Set(), // the queries whose records differ from the server's
  };
  held = its;
  state.lanes = [];
  choose(null);
  changed("lanes");
  await recall(its);
}

async function recall(its) {
  await read(its);
  if (held !== its || state.video?.state !== "ready" || !its.records.length) return;
  await ask(its.records.map((record) => record.query));
}

/** What was decided before about a query, taken over into its lane once it is answered. */
function merge(lane, before) {
  for (const [windows, verdict] of [
    [before.windows, "kept"],
    [before.rejected, "rejected"],
  ]) {
    for (const [start_s, end_s] of windows) {
      const same = lane.moments.find((moment) => !moment.verdict && overlap(moment, start_s, end_s) > SAME);
      if (same) Object.assign(same, { start_s, end_s, verdict });
      else lane.moments.push(newMoment(start_s, end_s, null, verdict));
    }
  }
}

function overlap(moment, start_s, end_s) {
  const shared = Math.min(moment.end_s, end_s) - Math.max(moment.start_s, start_s);
  return shared <= 0 ? 0 : shared / (Math.max(moment.end_s, end_s) - Math.min(moment.start_s, start_s));
}

on("connected", () => {
  flush();
  if (state.video && held.records === null && !held.reading) recall(held).catch(complain);
  const lost = state.lanes.filter((lane) => lane.lost).map((lane) => lane.query);
  if (lost.length) ask(lost).catch(complain);
});
// What is left is sent without waiting for its turn: the page may be closed.
window.addEventListener("pagehide", () => {
  for (const its of unsaved) save(its, { keepalive: true }).catch(() => {});
});
