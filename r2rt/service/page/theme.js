// Dark, light, or as the system is.

import { byId, fill, icon } from "./dom.js";
import { kept } from "./state.js";

const ORDER = ["auto", "light", "dark"];
const ICONS = { auto: "auto", light: "sun", dark: "moon" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

export function startTheme() {
  const button = byId("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = `Colours: ${NAMES[theme]}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    fill(button, icon(ICONS[theme]));
    window.dispatchEvent(new Event("resize")); // canvases take their colours anew
  };
  let theme = ORDER.includes(kept.get("theme", "auto")) ? kept.get("theme", "auto") : "auto";
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    kept.set("theme", theme);
    show(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(theme));
  show(theme);
}
