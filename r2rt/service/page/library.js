// Search of everything that the server holds: cards that play.

import { call, frameAddress, partAddress } from "./api.js";
import { byId, clock, counted, el, fill, icon, iconButton, say } from "./dom.js";
import { pick } from "./picks.js";
import { complain, state } from "./state.js";
import { loadVideos } from "./video_list.js";

const field = el("input", { type: "search", id: "library-query", placeholder: "a red car at night", autocomplete: "off", enterkeyhint: "search", maxlength: 500 });
const note = el("p", { class: "quiet", role: "status" });
const cards = el("ul", { class: "cards" });
const content = el(
  "div",
  { class: "library-view" },
  el("h1", {}, "Library"),
  el(
    "form",
    { class: "ask", role: "search", on: { submit: search } },
    el("label", { for: "library-query" }, "Find in all videos"),
    field,
    el("button", { type: "submit", class: "primary" }, "Search"),
  ),
  note,
  cards,
);

let asked = 0;

/** Show the search of the library. */
export function showLibrary() {
  if (!byId("view").contains(content)) fill(byId("view"), content);
  if (!cards.childElementCount && !note.textContent) note.textContent = "Type a sentence: the best moments of all videos are shown.";
}

export function focusLibrary() {
  field.focus();
  field.select();
}

async function search(event) {
  event.preventDefault();
  const query = field.value.trim();
  if (!query) return;
  const turn = (asked += 1);
  note.textContent = "Searching…";
  note.classList.remove("wrong");
  try {
    const answer = await call(`search?${new URLSearchParams({ q: query, top: 60 })}`);
    if (turn !== asked) return;
    await loadVideos().catch(complain); // what was found is in the list since then, and can be opened
    if (turn !== asked) return;
    const results = answer.results ?? [];
    fill(cards, results.map((result) => card(result, query)));
    note.textContent = results.length ? `${counted(results.length, "moment")} for “${query}”` : `Nothing was found for “${query}”.`;
    say(note.textContent);
  } catch (error) {
    if (turn !== asked) return;
    fill(cards);
    note.textContent = error.message;
    note.classList.add("wrong");
  }
}

function card(result, query) {
  const { start_s, end_s, score } = result;
  const name = result.name ?? result.path ?? result.video;
  const listed = state.videos?.find((video) => video.id === result.video) ?? { id: result.video };
  const clip = partAddress(listed, "clip", { start_s, end_s });
  const image = el("img", {
    alt: "",
    loading: "lazy",
    src: frameAddress(listed, (start_s + end_s) / 2, 180),
  });
  const frame = el("div", { class: "frame" });
  const button = el(
    "button",
    {
      type: "button",
      class: "play",
      "aria-label": `Play ${name} from ${clock(start_s)} to ${clock(end_s)}`,
      on: {
        click: () => {
          const video = el("video", { controls: true, playsinline: true, "aria-label": `${name}, ${clock(start_s)} to ${clock(end_s)}` });
          video.src = clip;
          fill(frame, video);
          video.focus();
          video.play().catch(() => {});
          video.addEventListener("error", () => fill(frame, image, el("p", { class: "wrong" }, "This moment could not be played.")));
        },
      },
    },
    image,
    icon("play"),
  );
  fill(frame, button);
  return el(
    "li",
    {},
    frame,
    el(
      "div",
      { class: "caption" },
      el("a", { href: `#/video/${encodeURIComponent(result.video)}?t=${start_s},${end_s}` }, name),
      el("span", { class: "times" }, `${clock(start_s)} – ${clock(end_s)} · ${score.toFixed(2)}`),
      iconButton("pin", `Pick ${name} at ${clock(start_s)}`, () => pick({ video: result.video, name, query, start_s, end_s, score })),
    ),
  );
}
