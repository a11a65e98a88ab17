// Uploads by the tus protocol, version 1.0: in parts, going on where they stopped.

import { address, ApiError } from "./api.js";
import { kept } from "./state.js";

const PART = 4 * 1024 * 1024;
const WAITS_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000];

/** One file on its way. `onChange` is called as it goes on; `done` is the video's id. */
export class Upload {
  constructor(file, onChange) {
    this.file = file;
    this.sent = 0;
    this.state = "uploading"; // or: paused, waiting, done, failed
    this.error = null;
    this.remaining_s = null;
    this._changed = onChange;
    this._key = `upload:${file.name}:${file.size}:${file.lastModified}`;
    this._request = null;
    this._run = 0;
  }

  get progress() {
    return this.file.size ? this.sent / this.file.size : 0;
  }

  /** Send the file; returns the id of the video, or null where it was paused or removed. */
  async run() {
    const run = (this._run += 1); // an earlier one that waits gives up
    this._set("uploading", null);
    for (let failures = 0; ; ) {
      const before = this.sent;
      try {
        const video = await this._send();
        if (video === null) return null;
        kept.set(this._key, null);
        this._set("done", null);
        return video;
      } catch (error) {
        if (this.state === "paused") return null;
        if (this.sent > before) failures = 0;
        const again = error.status === 0 || error.status === 409 || error.status === 423 || error.status >= 500;
        if (!again || failures >= WAITS_MS.length) {
          this._set("failed", error.message);
          return null;
        }
        this._set("waiting", error.message);
        await new Promise((resolve) => setTimeout(resolve, WAITS_MS[failures]));
        failures += 1;
        if (this.state === "paused" || run !== this._run) return null;
        this._set("uploading", null);
      }
    }
  }

  /** Stop; `run` goes on from there, also after the page was closed. */
  pause() {
    this._set("paused", null);
    this._request?.abort();
  }

  /** Stop, and have the server forget what it holds. */
  async remove() {
    this.pause();
    const location = kept.get(this._key, null);
    kept.set(this._key, null);
    if (location) await this._ask("DELETE", location).catch(() => {});
  }

  async _send() {
    let location = kept.get(this._key, null);
    let video = null;
    if (location) {
      try {
        const { offset, found } = await this._ask("HEAD", location);
        this.sent = offset;
        video = found;
      } catch (error) {
        if (error.status !== 404 && error.status !== 410 && error.status !== 403) throw error;
        location = null;
      }
    }
    if (!location) {
      ({ location } = await this._ask("POST", address("uploads"), {
        "Upload-Length": this.file.size,
        "Upload-Metadata": `filename ${base64(this.file.name)}`,
      }));
      kept.set(this._key, location);
      this.sent = 0;
    }
    const began = { at: performance.now(), sent: this.sent };
    while (this.sent < this.file.size) {
      const from = this.sent;
      const answer = await this._ask(
        "PATCH",
        location,
        { "Upload-Offset": from, "Content-Type": "application/offset+octet-stream" },
        this.file.slice(from, from + PART),
        (loaded) => {
          this.sent = from + loaded;
          const rate = (this.sent - began.sent) / (performance.now() - began.at);
          this.remaining_s = rate > 0 ? (this.file.size - this.sent) / rate / 1000 : null;
          this._changed();
        },
      );
      this.sent = answer.offset;
      video = answer.found;
      this._changed();
    }
    if (!video) throw new ApiError(500, `The server did not name the video of ${this.file.name}.`);
    return video;
  }

  // fetch does not report what was sent; XMLHttpRequest does.
  _ask(method, url, headers = {}, body = null, onSent = null) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this._request = request;
      request.open(method, new URL(url, document.baseURI));
      request.setRequestHeader("Tus-Resumable", "1.0.0");
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, String(value));
      if (onSent) request.upload.addEventListener("progress", (event) => onSent(event.loaded));
      request.addEventListener("load", () => {
        if (request.status >= 300) {
          reject(new ApiError(request.status, problemText(request)));
          return;
        }
        resolve({
          offset: Number(request.getResponseHeader("Upload-Offset") ?? 0),
          location: request.getResponseHeader("Location"),
          found: request.getResponseHeader("R2rt-Video"),
        });
      });
      const lost = () => reject(new ApiError(0, "The connection was lost; the upload goes on by itself."));
      request.addEventListener("error", lost);
      request.addEventListener("abort", lost);
      request.send(body);
    });
  }

  _set(state, error) {
    this.state = state;
    this.error = error;
    this._changed();
  }
}

function problemText(request) {
  try {
    const problem = JSON.parse(request.responseText);
    return problem.detail || problem.title;
  } catch {
    return `The server answered ${request.status} ${request.statusText}.`;
  }
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
