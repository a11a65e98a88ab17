// The keyboard: one table, which the help dialog shows too.

import { byId, el } from "./dom.js";
import { addMoment, choose, chooseNext, judge, setEnd, undo } from "./lanes.js";
import { playMoment } from "./moments.js";
import { togglePick } from "./picks.js";
import { player } from "./player.js";
import { kept, state } from "./state.js";
import { timeline } from "./timeline.js";

const withMoment = (act) => () => state.moment && act(state.moment);

// Keys as the browser names them, how they are shown, what they do, in words and in code.
const TABLE = [
  ["Video", null],
  [["/"], "/", "type a sentence", null],
  [[" ", "k"], "Space or K", "play or pause", () => player.toggle()],
  [["j"], "J", "back, faster with each press", () => player.shuttle(-1)],
  [["l"], "L", "forward, faster with each press", () => player.shuttle(1)],
  [["ArrowLeft"], "←", "one frame back", () => player.step(-1)],
  [["ArrowRight"], "→", "one frame forward", () => player.step(1)],
  [["Shift+ArrowLeft"], "Shift ←", "one second back", () => player.seek(player.time - 1)],
  [["Shift+ArrowRight"], "Shift →", "one second forward", () => player.seek(player.time + 1)],
  [["Home"], "Home", "to the start", () => player.seek(0)],
  [["End"], "End", "to the end", () => player.seek(player.duration)],
  [["m"], "M", "sound on or off", () => player.mute()],
  ["Moments", null],
  [["ArrowDown"], "↓", "next moment", () => chooseNext(1)],
  [["ArrowUp"], "↑", "previous moment", () => chooseNext(-1)],
  [["Enter"], "Enter", "play the moment", withMoment(playMoment)],
  [["i"], "I", "start the moment at this frame", () => setEnd("in", player.frame)],
  [["o"], "O", "end the moment after this frame", () => setEnd("out", player.frame)],
  [["n"], "N", "mark a new moment here", () => addMoment(player.time)],
  [["a"], "A", "keep the moment", withMoment((moment) => judge(moment, "kept"))],
  [["x"], "X", "reject the moment", withMoment((moment) => judge(moment, "rejected"))],
  [["p"], "P", "pick the moment, or no longer", withMoment(togglePick)],
  [["Ctrl+z", "Meta+z"], "Ctrl Z", "take the last change back", undo],
  ["Timeline", null],
  [["+", "="], "+", "zoom in", () => timeline.zoom(0.5)],
  [["-"], "−", "zoom out", () => timeline.zoom(2)],
  [["0"], "0", "the whole video", () => timeline.fit()],
  [["z"], "Z", "zoom to the moment", withMoment((moment) => timeline.zoomTo(moment))],
  [["["], "[", "previous lane", () => chooseLane(-1)],
  [["]"], "]", "next lane", () => chooseLane(1)],
  ["Page", null],
  [["?"], "?", "this help", null],
];

const ACTIONS = new Map(TABLE.flatMap(([keys, , , act]) => (Array.isArray(keys) && act ? keys.map((key) => [key, act]) : [])));

function chooseLane(step) {
  const at = state.lanes.indexOf(state.lane) + step;
  if (state.lanes[at]) choose(state.lanes[at]);
}

let dialog = null;

/** Listen to the keyboard. `focusField` moves to the field of the view that is shown. */
export function startKeys(focusField) {
  byId("help").addEventListener("click", showHelp);
  // After a click the space bar plays again, in place of pressing the button once more.
  document.addEventListener("click", (event) => {
    if (event.detail > 0) event.target.closest?.(".video-view button")?.blur();
  });
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const single = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (single && event.key.length === 1 && event.key !== " " && !kept.get("keys", true)) return;
    if (single && (event.key === "/" || event.key === "?")) {
      event.preventDefault();
      if (event.key === "/") focusField();
      else showHelp();
      return;
    }
    if (!state.video || !byId("view").querySelector(".video-view")) return;
    // A button, a link and a list of choices keep the keys that work them.
    if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a, summary")) return;
    const action = ACTIONS.get(named(event));
    if (!action || event.altKey) return;
    event.preventDefault();
    action();
  });
}

function named(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey) return `Ctrl+${key}`;
  if (event.metaKey) return `Meta+${key}`;
  return event.shiftKey && event.key.length > 1 ? `Shift+${key}` : key;
}

function typing(target) {
  return target.matches?.("input:not([type=checkbox]):not([type=file]), textarea, select") || target.isContentEditable;
}

function showHelp() {
  dialog ??= makeHelp();
  if (!dialog.isConnected) document.body.append(dialog);
  dialog.showModal();
}

function makeHelp() {
  const groups = [];
  for (const [keys, shown, words] of TABLE) {
    if (!Array.isArray(keys)) groups.push(el("section", {}, el("h3", {}, keys), el("dl", {})));
    else groups.at(-1).lastChild.append(el("div", {}, el("dt", {}, shown.split(" or ").flatMap((key, index) => [index ? " or " : null, el("kbd", {}, key)])), el("dd", {}, words)));
  }
  const single = el("input", {
    type: "checkbox",
    id: "single-keys",
    checked: kept.get("keys", true),
    on: { change: (event) => kept.set("keys", event.target.checked) },
  });
  return el(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    el("h2", { id: "help-title" }, "Keyboard shortcuts"),
    el("div", { class: "groups" }, groups),
    el("p", {}, single, el("label", { for: "single-keys" }, "Shortcuts of a single letter or sign")),
    el("form", { method: "dialog", class: "buttons" }, el("button", { class: "primary" }, "Close")),
  );
}
