// Live watches: standing queries on a source, and their events as they come.

import { call, listen } from "./api.js";
import { byId, clock, counted, el, fill, iconButton, say } from "./dom.js";
import { complain } from "./state.js";

const MOST_EVENTS = 500;

const source = el("input", { type: "text", id: "source", required: true, autocomplete: "off", spellcheck: "false", placeholder: "rtsp://camera/stream" });
const queries = el("textarea", { id: "watch-queries", required: true, rows: 2, placeholder: "a parcel is left" });
const note = el("p", { class: "quiet", role: "status" });
const list = el("ul", { class: "watches" });
const title = el("h2", { id: "events-title" }, "Events");
const events = el("ol", { class: "events" });
// What is new is said, once: by itself a log is read out whenever a row in it changes.
const log = el("div", { class: "log", role: "log", "aria-live": "off", "aria-labelledby": "events-title", tabindex: "0" }, events);
const content = el(
  "div",
  { class: "live-view" },
  el("h1", {}, "Live"),
  el(
    "form",
    { class: "watch", on: { submit: start } },
    el("label", { for: "source" }, "Stream (RTSP, RTMP, HLS, SRT), or a file on the server, played from its start"),
    source,
    el("label", { for: "watch-queries" }, "Sentences, one a line"),
    queries,
    el("button", { type: "submit", class: "primary" }, "Watch"),
  ),
  note,
  list,
  el("section", { "aria-labelledby": "events-title" }, title, log),
);

let watches = [];
let chosen = null;
let stop = () => {};
let shown = false; // whether this view is
let turn = 0; // of the newest reading of the list
let newest = 0; // the highest id of a moment in this run of the service
const rows = new Map(); // the row and the last event of each moment that has not ended, by its id

/** Show the watches, and the events of the newest. */
export async function showLive() {
  if (!byId("view").contains(content)) fill(byId("view"), content);
  shown = true;
  note.textContent = "Loading…";
  try {
    await load();
  } catch (error) {
    note.textContent = error.message;
  }
}

/** Close the stream of events, when another view is shown. */
export function leaveLive() {
  stop();
  shown = false;
  chosen = null;
}

export function focusLive() {
  source.focus();
}

/** Read the list; returns whether it is shown: neither was the view left nor a later list asked for. */
async function load() {
  const mine = (turn += 1);
  const answer = await call("watches");
  if (!shown || mine !== turn) return false;
  watches = Array.isArray(answer) ? answer : answer.watches;
  note.textContent = watches.length ? "" : "Nothing is watched. Give a stream and a sentence.";
  note.hidden = watches.length > 0;
  if (!watches.some((watch) => watch.id === chosen)) choose(watches[0] ?? null);
  show();
  return true;
}

async function start(event) {
  event.preventDefault();
  const sentences = queries.value.split("\n").map((text) => text.trim()).filter(Boolean);
  try {
    const watch = await call("watches", { method: "POST", json: { source: source.value.trim(), queries: sentences } });
    source.value = queries.value = "";
    if (!(await load())) return;
    choose(watches.find(({ id }) => id === watch.id) ?? watch);
    show();
  } catch (error) {
    complain(error);
  }
}

function choose(watch) {
  stop();
  chosen = watch?.id ?? null;
  rows.clear();
  newest = 0;
  fill(events);
  title.textContent = watch ? `Events of ${watch.source}` : "Events";
  log.parentElement.hidden = !watch;
  if (!watch) return;
  const noted = (text) => (event) => note_of(text(event));
  const over = (state_) => (event) => {
    endAll();
    const listed = watches.find(({ id }) => id === watch.id); // the list may have been read again
    if (listed) Object.assign(listed, { state: state_, error: event.error ?? null });
    show();
  };
  stop = listen(
    `watches/${encodeURIComponent(watch.id)}/events`,
    {
      opened: (event) => {
        // Ids grow, and begin anew with the service: what was open before it has no other end.
        if (event.moment_id <= newest) endAll();
        newest = event.moment_id;
        add(event, false);
        say(`${event.query} at ${clock(event.start_s)}`);
      },
      changed: (event) => add(event, false),
      closed: (event) => add(event, true),
      dropped: noted(() => "The machine could not keep up; a part was left out."),
      retrying: noted(() => "The source was lost; it is tried again."),
      reconnected: noted(() => "The source is back."),
      ended: over("ended"),
      failed: over("failed"),
    },
    ["ended", "failed"],
    complain,
  );
}

function note_of(text) {
  events.prepend(el("li", { class: "quiet" }, text));
  say(text);
}

/** End the moments that are open where they were seen last. */
function endAll() {
  for (const { event } of rows.values()) add(event, true);
}

function add(event, ended) {
  const key = event.moment_id;
  const known = rows.get(key);
  const times = ended ? `${clock(event.start_s)} – ${clock(event.end_s)}` : `since ${clock(event.start_s)}`;
  const node = el(
    "li",
    { class: ended ? null : "now" },
    el("span", { class: "times" }, times),
    el("span", {}, event.query),
    event.score !== undefined && event.score !== null && el("span", { class: "quiet" }, event.score.toFixed(2)),
  );
  if (known) known.node.replaceWith(node);
  else events.prepend(node);
  if (ended) rows.delete(key);
  else rows.set(key, { node, event });
  while (events.childElementCount > MOST_EVENTS) events.lastElementChild.remove();
}

function show() {
  fill(
    list,
    watches.map((watch) =>
      el(
        "li",
        { class: watch.id === chosen ? "open" : null },
        el(
          "button",
          {
            type: "button",
            class: "main",
            "aria-pressed": String(watch.id === chosen),
            on: {
              click: () => {
                choose(watch);
                show();
              },
            },
          },
          el("span", { class: "name" }, watch.source),
          el("span", { class: watch.error ? "wrong" : "quiet" }, about(watch)),
        ),
        iconButton("trash", `Stop watching ${watch.source}`, () => remove(watch)),
      ),
    ),
  );
}

/** Say how a watch is going, how many sentences it has, and what in them the model cannot know. */
function about(watch) {
  const parts = [watch.error ?? watch.state, counted(watch.queries.length, "sentence")];
  if (watch.unknown_words.length) parts.push(`unknown to the model: ${watch.unknown_words.join(", ")}`);
  return parts.join(" · ");
}

async function remove(watch) {
  try {
    await call(`watches/${encodeURIComponent(watch.id)}`, { method: "DELETE" });
    await load();
  } catch (error) {
    complain(error);
  }
}
