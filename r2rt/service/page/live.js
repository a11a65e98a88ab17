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
const log = el("div", { class: "log", role: "log", "aria-labelledby": "events-title", tabindex: "0" }, events);
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
const rows = new Map(); // the row of each event that has not ended, by its query and start

/** Show the watches, and the events of the newest. */
export async function showLive() {
  if (!byId("view").contains(content)) fill(byId("view"), content);
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
  chosen = null;
}

export function focusLive() {
  source.focus();
}

async function load() {
  const answer = await call("watches");
  watches = Array.isArray(answer) ? answer : answer.watches;
  note.textContent = watches.length ? "" : "Nothing is watched. Give a stream and a sentence.";
  note.hidden = watches.length > 0;
  if (!watches.some((watch) => watch.id === chosen)) choose(watches[0] ?? null);
  show();
}

async function start(event) {
  event.preventDefault();
  const sentences = queries.value.split("\n").map((text) => text.trim()).filter(Boolean);
  try {
    const watch = await call("watches", { method: "POST", json: { source: source.value.trim(), queries: sentences } });
    source.value = queries.value = "";
    await load();
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
  fill(events);
  title.textContent = watch ? `Events of ${watch.source}` : "Events";
  log.parentElement.hidden = !watch;
  if (!watch) return;
  const noted = (text) => (event) => note_of(text(event));
  const over = (state_) => (event) => {
    Object.assign(watch, { state: state_, error: event.error ?? null });
    show();
  };
  stop = listen(
    `watches/${encodeURIComponent(watch.id)}/events`,
    {
      opened: (event) => add(event, false),
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
  if (known) known.replaceWith(node);
  else {
    events.prepend(node);
    say(`${event.query} at ${clock(event.start_s)}`);
  }
  if (ended) rows.delete(key);
  else rows.set(key, node);
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
          el("span", { class: watch.error ? "wrong" : "quiet" }, [watch.error ?? watch.state, counted(watch.queries.length, "sentence")].filter(Boolean).join(" · ")),
        ),
        iconButton("trash", `Stop watching ${watch.source}`, () => remove(watch)),
      ),
    ),
  );
}

async function remove(watch) {
  try {
    await call(`watches/${encodeURIComponent(watch.id)}`, { method: "DELETE" });
    await load();
  } catch (error) {
    complain(error);
  }
}
