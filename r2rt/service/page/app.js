// Start of the page: its views, its one line of errors, the connection, and the token.

import { connection, signIn } from "./api.js";
import { byId, el, fill, iconButton } from "./dom.js";
import { startKeys } from "./keys.js";
import { focusLibrary, showLibrary } from "./library.js";
import { focusLive, leaveLive, showLive } from "./live.js";
import { changed, complain, on, state } from "./state.js";
import { startTheme } from "./theme.js";
import { loadVideos, startVideoList } from "./video_list.js";
import { focusQuery, showVideo } from "./video_view.js";

const notice = byId("notice");
let offline = false;
let begun = false;
let view = "video";

function showNotice(text) {
  fill(notice, el("p", {}, text), iconButton("no", "Close this message", () => (notice.hidden = true)));
  notice.hidden = false;
}

/** Show the view and the video that the address names, #/video/ID?t=START,END, and play the span. */
function route(plays = true) {
  const [path, parameters = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const next = ["video", "library", "live"].includes(name) ? name : "video";
  if (view === "live" && next !== "live") leaveLive();
  view = next;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  openVideos(false);
  if (view === "library") showLibrary();
  else if (view === "live") showLive();
  else if (state.videos) {
    const span_s = (new URLSearchParams(parameters).get("t") ?? "").split(",").map(Number);
    const known = decode(id) ?? state.video?.id ?? state.videos[0]?.id ?? null;
    showVideo(known, plays && span_s.length === 2 && span_s.every(Number.isFinite) ? span_s : null);
  }
  document.title = view === "video" && state.video ? `${state.video.name} · r2rt` : "r2rt";
}

function decode(text) {
  try {
    return text ? decodeURIComponent(text) : null;
  } catch {
    return text;
  }
}

/** On a narrow screen, show or hide the list of videos. */
function openVideos(open) {
  byId("videos").classList.toggle("shown", open);
  byId("show-videos").setAttribute("aria-expanded", String(open));
}

function askToken() {
  if (document.getElementById("token")) return;
  const field = el("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const wrong = el("p", { class: "wrong", role: "alert" });
  const dialog = el(
    "dialog",
    // Browsers close a dialog at the second Escape, whatever the page says; it is asked again then.
    { "aria-labelledby": "token-title", on: { cancel: (event) => event.preventDefault(), close: () => dialog.remove() } },
    el("h2", { id: "token-title" }, "This server needs a token"),
    el(
      "form",
      {
        on: {
          submit: async (event) => {
            event.preventDefault();
            try {
              await signIn(field.value.trim());
            } catch (error) {
              wrong.textContent = error.message;
              return;
            }
            dialog.close();
            dialog.remove();
            start();
          },
        },
      },
      el("label", { for: "token" }, "Token, as printed by r2rt tokens add"),
      field,
      wrong,
      el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, "Open")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

async function start() {
  try {
    await loadVideos();
  } catch (error) {
    if (error.status !== 401) complain(error); // for which the token is asked for
    return;
  }
  route(!begun); // once the server answers again, the player stays where it is
  begun = true;
  changed("connected");
}

on.error(showNotice);
connection.addEventListener("unauthorized", askToken);
connection.addEventListener("offline", () => {
  if (!offline) showNotice("The server does not answer. The page tries again by itself.");
  offline = true;
});
connection.addEventListener("online", () => {
  offline = false;
  notice.hidden = true;
  start();
});
byId("show-videos").addEventListener("click", () => openVideos(!byId("videos").classList.contains("shown")));
window.addEventListener("hashchange", () => route());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names a view, and no part of it
  byId("view").focus();
});
on("videos video", () => {
  if (view === "video" && state.video) document.title = `${state.video.name} · r2rt`;
});

startTheme();
startVideoList();
startKeys(() => ({ video: focusQuery, library: focusLibrary, live: focusLive })[view]());
start();
