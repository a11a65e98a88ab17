// One lane of the timeline: its head, its curve, and a bar for every moment.

import { clock, counted, el, iconButton, left } from "./dom.js";
import { drawCurve, prepare } from "./draw.js";
import { beginCorrections, choose, correct, removeLane, shown } from "./lanes.js";
import { framesPerSecond, player } from "./player.js";
import { state } from "./state.js";

const HEIGHT = 58;

export class LaneView {
  /** `scrub` begins scrubbing on a pointer event, `timeAt` is the time under one. */
  constructor(lane, { scrub, timeAt }) {
    this.lane = lane;
    this._timeAt = timeAt;
    this._canvas = el("canvas", { class: "curve" });
    this._bars = el("div", { class: "bars", "aria-hidden": "true" });
    this._body = el("div", { class: "body" }, this._canvas, this._bars);
    this._facts = el("span", { class: "facts" });
    this._head = el(
      "button",
      { type: "button", class: "query", on: { click: () => choose(lane) } },
      el("span", { class: "words" }, lane.query),
      this._facts,
    );
    this.element = el(
      "div",
      { class: "lane" },
      el("div", { class: "head" }, this._head, iconButton("no", `Remove the lane ${lane.query}`, () => removeLane(lane))),
      this._body,
    );
    this._body.addEventListener("pointerdown", (event) => {
      if (state.lane !== lane) choose(lane, null);
      if (!event.target.closest(".bar-moment")) scrub(event);
    });
    this._byMoment = new Map();
    this._range = null;
  }

  /** Take over what changed in the lane. */
  update() {
    const { lane } = this;
    const selected = state.lane === lane;
    this.element.classList.toggle("selected", selected);
    this._head.setAttribute("aria-pressed", String(selected));
    this._facts.textContent = facts(lane);
    this._facts.classList.toggle("wrong", Boolean(lane.error));
    if (lane.saliency && !this._range) {
      this._range = lane.saliency.values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    }
    const listed = shown(lane);
    for (const [moment, bar] of this._byMoment) {
      if (!listed.includes(moment)) {
        bar.remove();
        this._byMoment.delete(moment);
      }
    }
    for (const moment of listed) {
      if (!this._byMoment.has(moment)) this._byMoment.set(moment, this._bar(moment));
      const bar = this._byMoment.get(moment);
      if (!bar.isConnected) this._bars.append(bar);
      bar.querySelector(".number").textContent = moment.score === null ? "✎" : lane.moments.indexOf(moment) + 1;
      bar.classList.toggle("selected", state.moment === moment);
      bar.classList.toggle("kept", moment.verdict === "kept");
      bar.classList.toggle("rejected", moment.verdict === "rejected");
      bar.title = `${clock(moment.start_s, 2)} to ${clock(moment.end_s, 2)}`;
    }
  }

  draw(view, width, paint) {
    const context = prepare(this._canvas, width, HEIGHT);
    if (this.lane.saliency?.values.length) {
      drawCurve(context, { saliency: this.lane.saliency, range: this._range, view, width, height: HEIGHT, line: paint.curve, area: paint.fill });
    }
    const scale = width / (view.end_s - view.start_s);
    for (const [moment, bar] of this._byMoment) {
      const [from, to] = [(moment.start_s - view.start_s) * scale, (moment.end_s - view.start_s) * scale];
      const [shown, end] = [Math.max(from, -10), Math.min(to, width + 10)];
      bar.hidden = end <= 0 || shown >= width;
      bar.style.left = `${shown}px`;
      bar.style.width = `${Math.max(end - shown, 4)}px`;
      bar.classList.toggle("narrow", end - shown < 26);
    }
  }

  // Bars repeat the list of moments for the eye and the mouse; keys and screen readers use the list.
  _bar(moment) {
    const bar = el("div", { class: "bar-moment" }, el("span", { class: "end in" }), el("span", { class: "number" }), el("span", { class: "end out" }));
    bar.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation();
      const end = event.target.closest(".end");
      choose(this.lane, moment);
      if (end) this._drag(event, moment, end.classList.contains("in"));
      else player.play(moment.start_s, moment.end_s);
    });
    return bar;
  }

  _drag(event, moment, isStart) {
    const handle = event.target;
    handle.setPointerCapture(event.pointerId);
    beginCorrections(moment);
    const { start_s, end_s } = moment; // the other end stays where it is now
    const frame_s = 1 / framesPerSecond();
    const move = (moved) => {
      const at = this._timeAt(moved);
      if (isStart) correct(moment, Math.min(at, end_s - frame_s), end_s, { record: false });
      else correct(moment, start_s, Math.max(at, start_s + frame_s), { record: false });
      player.seek(isStart ? moment.start_s + 1e-3 : moment.end_s - 1e-3);
    };
    handle.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) {
      handle.addEventListener(name, () => handle.removeEventListener("pointermove", move), { once: true });
    }
  }
}

function facts(lane) {
  if (lane.error) return lane.error;
  if (lane.waiting) {
    if (!lane.job) return "asking…";
    const percent = Math.round(100 * (lane.job.progress ?? 0));
    return ["waits for the video", `${percent} %`, left(lane.job.remaining_s)].filter(Boolean).join(" · ");
  }
  const notes = [lane.moments.length ? counted(shown(lane).length, "moment") : lane.saliency ? "saliency alone" : "no moments"];
  if (lane.unknown?.length) notes.push(`unknown to the model: ${lane.unknown.join(", ")}`);
  else if (lane.present === false) notes.push("probably not in this video");
  if (lane.truncated) notes.push("the end of the sentence was not read");
  return notes.join(" · ");
}
