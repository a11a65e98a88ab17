// Moments picked from any video, and taken away as files.

import { call, follow, send } from "./api.js";
import { clock, counted, el, fill, iconButton, say } from "./dom.js";
import { laneOf } from "./lanes.js";
import { changed, complain, kept, on, state } from "./state.js";

const FORMATS = [
  ["clips", "Clips (MP4)"],
  ["reel", "Reel (one MP4)"],
  ["xmeml", "Premiere Pro (XML)"],
  ["premiere-csv", "Premiere Pro markers (CSV)"],
  ["fcpxml", "Final Cut Pro (FCPXML)"],
  ["otio", "OpenTimelineIO"],
  ["edl", "Edit list (EDL, CMX 3600)"],
  ["resolve-edl", "Resolve markers (EDL)"],
  ["resolve-csv", "Resolve markers (CSV)"],
  ["chapters", "Chapters (ffmpeg)"],
  ["srt", "Subtitles (SRT)"],
  ["vtt", "Subtitles (WebVTT)"],
  ["csv", "Table (CSV)"],
  ["json", "JSON"],
  ["jsonl", "JSON lines"],
];

const list = el("ul", { class: "picks" });
const format = el("select", { id: "format" }, FORMATS.map(([value, text]) => el("option", { value }, text)));
const save = el("button", { type: "submit", class: "primary" }, "Save");
const progress = el("p", { class: "quiet", role: "status" });
const form = el("form", { class: "take", on: { submit: take } }, el("label", { for: "format" }, "Take away as"), format, save);
const empty = el("p", { class: "quiet" }, "Pick moments with P or the ribbon beside them. They stay here while you look at other videos.");
const title = el("h2", { id: "picks-title" }, "Picked");
const clear = el("button", { type: "button", class: "small", on: { click: () => set([]) } }, "Clear the list");

export const picksPanel = el("section", { class: "panel", "aria-labelledby": "picks-title" }, title, empty, list, form, progress, clear);

state.picks = valid(kept.get("picks", []));

function valid(picks) {
  const numbers = ["start_s", "end_s"];
  return (Array.isArray(picks) ? picks : []).filter(
    (pick) => typeof pick?.video === "string" && typeof pick.query === "string" && numbers.every((name) => Number.isFinite(pick[name])),
  );
}

function set(picks) {
  state.picks = picks;
  kept.set("picks", picks);
  changed("picks");
}

const same = (pick, moment) =>
  pick.video === state.video?.id && pick.query === laneOf(moment)?.query && pick.start_s === moment.start_s && pick.end_s === moment.end_s;

/** Whether a moment of the open video is in the list. */
export function isPicked(moment) {
  return state.picks.some((pick) => same(pick, moment));
}

/** Put a moment of the open video into the list, or take it out. */
export function togglePick(moment) {
  const without = state.picks.filter((pick) => !same(pick, moment));
  const added = without.length === state.picks.length;
  if (added) {
    const { id: video, name } = state.video;
    without.push({ video, name, query: laneOf(moment).query, start_s: moment.start_s, end_s: moment.end_s, score: moment.score });
  }
  set(without);
  say(added ? "Picked" : "No longer picked");
}

/** Add a moment of any video, such as a result of the library. */
export function pick({ video, name, query, start_s, end_s, score }) {
  set([...state.picks.filter((other) => !(other.video === video && other.start_s === start_s && other.query === query)), { video, name, query, start_s, end_s, score }]);
  say("Picked");
}

function show() {
  title.textContent = state.picks.length ? `Picked (${state.picks.length})` : "Picked";
  empty.hidden = state.picks.length > 0;
  form.hidden = clear.hidden = !state.picks.length;
  fill(
    list,
    state.picks.map((entry) =>
      el(
        "li",
        {},
        el(
          "a",
          { class: "main", href: `#/video/${encodeURIComponent(entry.video)}?t=${entry.start_s},${entry.end_s}`, on: { click: again } },
          el("span", { class: "times" }, `${clock(entry.start_s, 2)} – ${clock(entry.end_s, 2)}`),
          el("span", { class: "quiet" }, `${entry.query} · ${entry.name}`),
        ),
        iconButton("no", `Take out ${entry.query} at ${clock(entry.start_s)}`, () => set(state.picks.filter((other) => other !== entry))),
      ),
    ),
  );
}

/** Play a moment once more whose address is the page's already: the browser sends nothing then. */
function again(event) {
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey;
  if (!elsewhere && event.currentTarget.href === location.href) window.dispatchEvent(new Event("hashchange"));
}

async function take(event) {
  event.preventDefault();
  const byVideo = grouped(state.picks);
  save.disabled = true;
  try {
    for (const [video, picks] of byVideo) {
      progress.textContent = `Making ${format.selectedOptions[0].text} of ${picks[0].name}…`;
      await download(video, picks);
    }
    progress.textContent = `Saved ${counted(byVideo.size, "file")}.`;
  } catch (error) {
    progress.textContent = "";
    complain(error);
  } finally {
    save.disabled = false;
  }
}

function grouped(picks) {
  const groups = new Map();
  for (const entry of picks) groups.set(entry.video, [...(groups.get(entry.video) ?? []), entry]);
  return groups;
}

async function download(video, picks) {
  const moments = picks.map(({ query, start_s, end_s, score }) => ({ query, start_s, end_s, score: score ?? 1 }));
  if (format.value === "clips" || format.value === "reel") {
    const json = { kind: "clips", video, moments, reel: format.value === "reel" };
    const { id } = await call("jobs", { method: "POST", json });
    const job = await follow(id, (seen) => {
      progress.textContent = `Making ${format.selectedOptions[0].text}: ${Math.round(100 * (seen.progress ?? 0))} %`;
    });
    for (const file of job.result.files) {
      hand(new URL(file.url, document.baseURI).href, file.name);
      await new Promise((resolve) => setTimeout(resolve, 300)); // browsers drop downloads that come at once
    }
    return;
  }
  const response = await send("export", { method: "POST", json: { video, format: format.value, moments } });
  const name = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  const url = URL.createObjectURL(await response.blob());
  hand(url, name ? decodeURIComponent(name) : `moments.${format.value}`);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function hand(href, name) {
  const link = el("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

on("picks", show);
show();
