// The list of the chosen lane's moments: play, keep, reject, correct, pick.

import { frameAddress } from "./api.js";
import { clock, el, icon, iconButton, syncRows } from "./dom.js";
import { addMoment, choose, correct, judge, setEnd, shown, summary, toggleAll } from "./lanes.js";
import { framesPerSecond, player } from "./player.js";
import { isPicked, togglePick } from "./picks.js";
import { on, state } from "./state.js";

const list = el("ol", { class: "moments" });
const title = el("h2", { id: "moments-title" }, "Moments");
const note = el("p", { class: "quiet note" });
const add = el(
  "button",
  { type: "button", class: "small", hidden: true, on: { click: () => addMoment(player.time) } },
  icon("plus"),
  "Mark a moment here (N)",
);
const more = el("button", { type: "button", class: "small", hidden: true, on: { click: () => toggleAll(state.lane) } });
const items = new Map(); // the row of each moment

export const momentsPanel = el("section", { class: "panel", "aria-labelledby": "moments-title" }, title, note, list, el("div", { class: "buttons" }, more, add));

/** Play a moment and select it. */
export function playMoment(moment) {
  choose(state.lanes.find((lane) => lane.moments.includes(moment)), moment);
  player.play(moment.start_s, moment.end_s);
}

function row(moment) {
  const image = el("img", { alt: "", width: 96, height: 54, loading: "lazy" });
  const name = el("span", { class: "rank" });
  const times = el("span", { class: "times" });
  const score = el("span", { class: "score" }, el("i"));
  const value = el("span", { class: "value" });
  const keep = iconButton("yes", "Keep", () => judge(moment, "kept"), { class: "icon keep" });
  const reject = iconButton("no", "Reject", () => judge(moment, "rejected"), { class: "icon reject" });
  const pick = iconButton("pin", "Pick", () => togglePick(moment), { class: "icon pick" });
  const ends = el(
    "div",
    { class: "ends" },
    endButtons("Start", "I", () => setEnd("in", player.frame), (frames) => move(moment, frames, 0)),
    endButtons("End", "O", () => setEnd("out", player.frame), (frames) => move(moment, 0, frames)),
  );
  const main = el(
    "button",
    { type: "button", class: "main", on: { click: () => playMoment(moment) } },
    image,
    el("span", { class: "lines" }, el("span", { class: "first" }, name, value), times, score),
  );
  const node = el("li", {}, el("div", { class: "row" }, main, el("div", { class: "verdicts" }, keep, reject, pick)), ends);
  return { node, image, name, times, score, value, keep, reject, pick, ends, main, shown: "" };
}

/** Buttons that set an end to the frame on show, or move it by a frame. */
function endButtons(which, key, set, nudge) {
  const button = (text, label, onClick) => el("button", { type: "button", class: "small", "aria-label": label, title: label, on: { click: onClick } }, text);
  return el(
    "div",
    { class: "group", role: "group", "aria-label": `${which} of the moment` },
    button("−", `${which} one frame earlier`, () => nudge(-1)),
    button(`${which} here`, `${which} here (${key})`, set),
    button("+", `${which} one frame later`, () => nudge(1)),
  );
}

function move(moment, start, end) {
  const frame_s = 1 / framesPerSecond();
  correct(moment, moment.start_s + start * frame_s, moment.end_s + end * frame_s);
  player.seek(start ? moment.start_s + frame_s / 2 : moment.end_s - frame_s / 2);
}

function show() {
  const lane = state.lane;
  title.textContent = lane ? lane.query : "Moments";
  add.hidden = !lane || lane.waiting || Boolean(lane.error);
  note.textContent = noteOf(lane);
  note.hidden = !note.textContent;
  const moments = lane ? shown(lane) : [];
  const weaker = lane ? lane.moments.length - moments.length : 0;
  more.hidden = !lane || (!weaker && !lane.all);
  more.textContent = lane?.all ? "Show the good ones alone" : `Show ${weaker} weaker`;
  syncRows(list, items, moments, row);
  for (const moment of moments) update(items.get(moment), moment, lane.moments.indexOf(moment));
}

function noteOf(lane) {
  if (!lane) return state.lanes.length ? "Choose a lane." : "Type a sentence to find its moments.";
  if (lane.waiting || lane.error) return summary(lane);
  if (!lane.saliency) return "";
  if (!lane.moments.length) return "No moment was found.";
  return "";
}

function update(item, moment, index) {
  const own = moment.score === null;
  item.name.textContent = own ? "Yours" : `${index + 1}`;
  const length_s = moment.end_s - moment.start_s;
  item.value.textContent = `${length_s.toFixed(1)} s${own ? "" : ` · ${moment.score.toFixed(2)}`}`;
  item.score.hidden = own;
  item.score.firstChild.style.width = `${100 * (moment.score ?? 0)}%`;
  item.times.textContent = `${clock(moment.start_s, 2)} – ${clock(moment.end_s, 2)}`;
  const selected = state.moment === moment;
  item.node.classList.toggle("selected", selected);
  item.node.classList.toggle("rejected", moment.verdict === "rejected");
  item.node.classList.toggle("kept", moment.verdict === "kept");
  item.ends.hidden = !selected;
  if (selected) item.main.setAttribute("aria-current", "true");
  else item.main.removeAttribute("aria-current");
  item.keep.setAttribute("aria-pressed", String(moment.verdict === "kept"));
  item.reject.setAttribute("aria-pressed", String(moment.verdict === "rejected"));
  item.pick.setAttribute("aria-pressed", String(isPicked(moment)));
  const middle = (moment.start_s + moment.end_s) / 2;
  const shown = `${middle.toFixed(1)} of ${state.video.version}`;
  if (item.shown !== shown) {
    item.shown = shown;
    item.image.src = frameAddress(state.video, middle, 108);
  }
  if (selected && list.contains(document.activeElement)) item.node.scrollIntoView({ block: "nearest" });
}


on("lanes selection moments picks video", show);
show();
