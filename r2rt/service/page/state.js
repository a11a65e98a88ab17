// What the page shows, and the one way in which its parts hear of changes.

export const state = {
  /** Videos of the server, newest first; null until they are known. */
  videos: null,
  /** Jobs that encode a video, by the video's id. */
  encoding: new Map(),
  /** The open video; null where none is open. */
  video: null,
  /** Lanes of the open video, in the order of their queries; see lanes.js. */
  lanes: [],
  /** The lane and the moment that keys act on; null for none. */
  lane: null,
  moment: null,
  /** Moments to take away; see picks.js. */
  picks: [],
};

/** Whether a video is being encoded or waits for it. */
export function isBusy(video) {
  return video.state === "encoding" || (video.state === "new" && video.job !== null);
}

const bus = new EventTarget();

/**
 * Say that a part of the state changed: videos, video, lanes, selection, moments, picks, time; or
 * `connected`: the server answers, at first or again, and what failed meanwhile may be asked anew.
 */
export function changed(what) {
  bus.dispatchEvent(new Event(what));
}

/** Call a listener when a part changes. */
export function on(what, listener) {
  for (const name of what.split(" ")) bus.addEventListener(name, listener);
}

/** Show one line about an error, until it is closed or another one comes. */
export function complain(error) {
  bus.dispatchEvent(new CustomEvent("error", { detail: error instanceof Error ? error.message : String(error) }));
}

on.error = (listener) => bus.addEventListener("error", (event) => listener(event.detail));

/** Kept values of this browser; a browser that keeps nothing is no error. */
export const kept = {
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(`r2rt.${name}`);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`r2rt.${name}`, JSON.stringify(value));
    } catch {
      // Private windows and full stores keep nothing.
    }
  },
};
