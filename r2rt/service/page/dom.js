// Elements are made here and nowhere else: text is always a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. Properties: `class`, `on` ({event: listener}), `data` ({name: value}); a boolean
 * sets or leaves out the attribute; anything else is an attribute. Children: nodes, texts, null.
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Replace the children of a node; nulls are left out. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter(Boolean));
  return node;
}

/**
 * Give a list one row for each key, in their order: `rows` maps keys to {node, …}, and `make` makes
 * the row of a new one. A row stays while its key does, and with it focus and clicks under way.
 */
export function syncRows(list, rows, keys, make) {
  for (const [key, { node }] of rows) {
    if (keys.includes(key)) continue;
    node.remove();
    rows.delete(key);
  }
  keys.forEach((key, index) => {
    if (!rows.has(key)) rows.set(key, make(key));
    const { node } = rows.get(key);
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
}

const PATHS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  yes: "M4.5 12.5l5 5 10-11",
  no: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 8V4h4M16 4h4v4M20 16v4h-4M8 20H4v-4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M7 17l-2 2",
  moon: "M20 14A8.5 8.5 0 0 1 10 4a8.5 8.5 0 1 0 10 10z",
  auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  back: "M11 6l-6 6 6 6M19 6l-6 6 6 6",
  forward: "M13 6l6 6-6 6M5 6l6 6-6 6",
  frame_back: "M15 6l-7 6 7 6M5 6v12",
  frame_forward: "M9 6l7 6-7 6M19 6v12",
  pin: "M6 4h12v16l-6-4.5L6 20z",
  sound: "M4 10v4h3l4 4V6L7 10zM15 9a4 4 0 0 1 0 6M17.5 6.5a8 8 0 0 1 0 11",
  mute: "M4 10v4h3l4 4V6L7 10zM15 9.5l5 5M20 9.5l-5 5",
};
const FILLED = new Set(["play", "pause"]);

/** A drawing of 24 by 24 units, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", FILLED.has(name) ? "drawing filled" : "drawing");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon; its label is read out and shown as its title. */
export function iconButton(name, label, onClick, properties = {}) {
  return el(
    "button",
    { type: "button", class: "icon", "aria-label": label, title: label, on: { click: onClick }, ...properties },
    icon(name),
  );
}

/** Say something to screen readers. */
export function say(text) {
  byId("said").textContent = text;
}

/** Seconds as 0:22.9, or 1:02:03.5 from an hour on. */
export function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const ticks = Math.max(0, Math.round(seconds * unit));
  const whole = Math.floor(ticks / unit);
  const parts = [Math.floor(whole / 60) % 60, whole % 60];
  const hours = Math.floor(whole / 3600);
  const texts = hours ? [hours, ...parts.map((part) => String(part).padStart(2, "0"))] : [parts[0], String(parts[1]).padStart(2, "0")];
  const fraction = digits ? `.${String(ticks % unit).padStart(digits, "0")}` : "";
  return texts.join(":") + fraction;
}

/** A time left, as a person would say it. */
export function left(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s left`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min left`;
  return `${(seconds / 3600).toFixed(1)} h left`;
}

/** A count with its noun: 1 moment, 2 moments. */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
