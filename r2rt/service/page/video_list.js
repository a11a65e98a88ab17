// The videos of the server: add one, see it encode, open it.

import { call, frameAddress, watchJob } from "./api.js";
import { byId, clock, el, fill, iconButton, left, say, syncRows } from "./dom.js";
import { changed, complain, isBusy, on, state } from "./state.js";
import { Upload } from "./uploads.js";

const MEDIA = "video/*,.mkv,.mts,.m2ts,.ts,.mxf,.avi,.mov,.mp4,.webm,.flv,.wmv,.mpg,.vob,.y4m,.gif";

const uploads = [];
const uploadRows = new Map(); // by the upload
const videoRows = new Map(); // by the video's id
let asked = 0; // how often the list was asked for,
let taken = 0; // and which of these answers is shown
let watched = null; // the video whose job is listened to, and how to stop

const chooser = el("input", { type: "file", multiple: true, accept: MEDIA, class: "hidden", tabindex: "-1", "aria-label": "Choose videos", on: { change: chosen } });
const where = el("input", { type: "text", id: "where", placeholder: "/videos/talk.mp4", autocomplete: "off", spellcheck: "false", required: true });
const list = el("ul", { class: "videos" });
const sending = el("ul", { class: "uploads" });
const note = el("p", { class: "quiet", role: "status" });

export function startVideoList() {
  fill(
    byId("videos"),
    el("h2", {}, "Videos"),
    el(
      "div",
      { class: "add" },
      el("button", { type: "button", class: "primary", on: { click: () => chooser.click() } }, "Add videos…"),
      chooser,
      el("p", { class: "quiet" }, "or drop them anywhere"),
      el(
        "form",
        { on: { submit: addByName } },
        el("label", { for: "where" }, "Path on the server, or a URL"),
        el("div", { class: "line" }, where, el("button", { type: "submit" }, "Add")),
      ),
    ),
    sending,
    note,
    list,
  );
  startDrop();
  on("videos video", show);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) loadVideos().catch(complain);
  });
  show();
}

/** Read the list of videos from the server. */
export async function loadVideos() {
  const turn = (asked += 1);
  const answer = await call("videos");
  if (turn < taken) return; // a later one was faster
  taken = turn;
  state.videos = Array.isArray(answer) ? answer : answer.videos;
  if (state.video) {
    const fresh = state.videos.find((video) => video.id === state.video.id);
    if (fresh) Object.assign(state.video, fresh);
  }
  changed("videos");
  watchEncoding();
}

async function addByName(event) {
  event.preventDefault();
  const text = where.value.trim();
  try {
    const video = await call("videos", { method: "POST", json: /^[a-z]+:\/\//i.test(text) ? { url: text } : { path: text } });
    where.value = "";
    await added(video.id);
  } catch (error) {
    complain(error);
  }
}

async function added(id) {
  await loadVideos();
  location.hash = `#/video/${encodeURIComponent(id)}`;
}

function chosen() {
  send([...chooser.files]);
  chooser.value = "";
}

/** Send files to the server, one after the other. */
export async function send(files) {
  for (const file of files) uploads.push(new Upload(file, showUploads));
  showUploads();
  // Looked for anew each time: one that waits may be removed, paused, or sent after other files.
  const next = () => uploads.find((waiting) => !waiting.begun && waiting.state === "uploading");
  for (let upload = next(); upload; upload = next()) await go(upload);
}

async function go(upload) {
  upload.begun = true;
  const id = await upload.run();
  if (id === null) return;
  forget(upload);
  say(`${upload.file.name} was uploaded`);
  await added(id).catch(complain);
}

function startDrop() {
  const layer = byId("drop");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragenter", (event) => {
    if (hasFiles(event)) layer.hidden = false;
  });
  window.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  layer.addEventListener("dragleave", () => {
    layer.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    layer.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    send([...event.dataTransfer.files]).catch(complain);
  });
}

// One job at a time: that of the open video, or of the first in the list that has one.
function watchEncoding() {
  const busy = (state.videos ?? []).filter((video) => video.job && isBusy(video));
  const next = busy.find((video) => video.id === state.video?.id) ?? busy[0];
  if (watched?.job === next?.job) return;
  watched?.stop();
  watched = null;
  if (!next) return;
  const ended = () => {
    watched = null;
    state.encoding.delete(next.id);
    loadVideos().catch(complain);
  };
  const progress = (job) => {
    state.encoding.set(next.id, job);
    changed("videos");
  };
  watched = { job: next.job, stop: watchJob(next.job, { progress, ended, refused: ended }) };
}

function show() {
  const videos = state.videos ?? [];
  syncRows(list, videoRows, videos.map((video) => video.id), (id) => videoRow(videos.find((video) => video.id === id)));
  for (const video of videos) updateVideo(videoRows.get(video.id), video);
  showNote();
}

function showUploads() {
  syncRows(sending, uploadRows, uploads, uploadRow);
  for (const upload of uploads) updateUpload(uploadRows.get(upload), upload);
  showNote();
}

function showNote() {
  if (state.videos === null) note.textContent = "Loading…";
  else note.textContent = state.videos.length || uploads.length ? "" : "No videos yet.";
  note.hidden = !note.textContent;
}

const stopped = (upload) => upload.state === "paused" || upload.state === "failed";

function uploadRow(upload) {
  const progress = el("progress", { max: 1, "aria-label": `Upload of ${upload.file.name}` });
  const facts = el("span", { class: "quiet" });
  const toggle = el("button", { type: "button", class: "small", on: { click: () => (stopped(upload) ? go(upload) : upload.pause()) } });
  const removed = async () => {
    await upload.remove();
    forget(upload);
  };
  const node = el(
    "li",
    {},
    el("span", { class: "name" }, upload.file.name),
    progress,
    facts,
    el("span", { class: "buttons" }, toggle, el("button", { type: "button", class: "small", on: { click: removed } }, "Remove")),
  );
  return { node, progress, facts, toggle };
}

function updateUpload(row, upload) {
  const percent = Math.round(100 * upload.progress);
  row.node.classList.toggle("wrong", upload.state === "failed");
  row.progress.value = upload.progress;
  row.facts.textContent = {
    uploading: `${percent} % sent${upload.remaining_s ? `, ${left(upload.remaining_s)}` : ""}`,
    waiting: upload.error,
    paused: `paused at ${percent} %`,
    failed: upload.error,
    done: "sent",
  }[upload.state];
  row.toggle.textContent = stopped(upload) ? "Go on" : "Pause";
}

function forget(upload) {
  const at = uploads.indexOf(upload);
  if (at >= 0) uploads.splice(at, 1);
  showUploads();
}

function videoRow(video) {
  const poster = el("img", { alt: "", width: 80, height: 45, loading: "lazy" });
  const facts = el("span");
  const progress = el("progress", { max: 1, "aria-label": `Encoding of ${video.name}` });
  const link = el(
    "a",
    { href: `#/video/${encodeURIComponent(video.id)}` },
    poster,
    el("span", { class: "lines" }, el("span", { class: "name" }, video.name), facts),
  );
  const trash = iconButton("trash", `Remove ${video.name} from the list`, () => remove(video));
  return { node: el("li", {}, link, progress, trash), link, poster, facts, progress };
}

function updateVideo(row, video) {
  const open = state.video?.id === video.id;
  const job = state.encoding.get(video.id);
  const busy = isBusy(video);
  const facts = [video.duration_s === null ? "not fetched yet" : clock(video.duration_s, 0)];
  if (video.state === "failed") facts.push("failed");
  else if (busy) facts.push(job ? [`${Math.round(100 * (job.progress ?? 0))} %`, left(job.remaining_s)].filter(Boolean).join(", ") : "waits");
  else if (video.state === "new") facts.push("not encoded");
  row.node.classList.toggle("open", open);
  if (open) row.link.setAttribute("aria-current", "page");
  else row.link.removeAttribute("aria-current");
  row.facts.textContent = facts.join(" · ");
  row.facts.className = video.state === "failed" ? "wrong" : "quiet";
  row.progress.hidden = !busy;
  row.progress.value = job?.progress ?? 0;
  if (!video.duration_s) return; // one that is not fetched yet has no frames
  const poster = frameAddress(video, video.duration_s / 3, 90);
  if (row.poster.src !== poster) row.poster.src = poster;
}

async function remove(video) {
  const sure = await confirmed(
    `Remove ${video.name} from the list?`,
    "Its annotations are removed with it, and its file if that was uploaded or fetched. A file of your own stays where it is. What was encoded stays in the cache until others need the room.",
    "Remove",
  );
  if (!sure) return;
  try {
    await call(`videos/${encodeURIComponent(video.id)}`, { method: "DELETE" });
    await loadVideos(); // so that the address does not lead to the removed one again
    if (state.video?.id !== video.id) return;
    state.video = null;
    history.replaceState(null, "", "#/video");
    window.dispatchEvent(new Event("hashchange")); // which is not sent where the address was that already
  } catch (error) {
    complain(error);
  }
}

function confirmed(question, detail, yes) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog",
      { "aria-labelledby": "question", on: { close: () => (dialog.remove(), resolve(dialog.returnValue === "yes")) } },
      el("h2", { id: "question" }, question),
      el("p", {}, detail),
      el(
        "form",
        { method: "dialog", class: "buttons" },
        el("button", { value: "no" }, "Cancel"),
        el("button", { value: "yes", class: "primary" }, yes),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
