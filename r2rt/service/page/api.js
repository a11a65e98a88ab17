// The HTTP API: one function that calls it, its errors as one line, its event streams, and its jobs.

const AGAIN_MS = 2000;
const BASE = new URL("api/v1/", document.baseURI);

/** What the page hears of the connection: `offline`, `online`, `unauthorized`. */
export const connection = new EventTarget();

/** An error with one line for a person; `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(status, message, problem = {}) {
    super(message);
    this.status = status;
    this.problem = problem;
  }

  /** Whether the service did not answer: nothing came, or a proxy answered in its place. */
  get away() {
    return this.status === 0 || ([502, 503, 504].includes(this.status) && !this.problem.code);
  }
}

/** The address of a path of the API, with its parameters. */
export function address(path, parameters = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url.href;
}

/**
 * The address of a part of a video: its file, a frame, a strip, a clip. The browser keeps these for
 * a while, so the version is in it, which is another one once the file is replaced.
 */
export function partAddress({ id, version }, part, parameters = {}) {
  return address(`videos/${encodeURIComponent(id)}/${part}`, { ...parameters, v: version });
}

/** The address of the frame on display at a time of a video, as a JPEG. */
export function frameAddress(video, time_s, height) {
  return partAddress(video, "frame", { time_s: Math.max(0, time_s).toFixed(6), height });
}

/** Send a request and return the response, or throw an `ApiError`. */
export async function send(path, { method = "GET", json, body, headers = {}, signal, keepalive } = {}) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method,
      signal,
      keepalive,
      credentials: "same-origin",
      headers: json === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lost();
    throw new ApiError(0, "The server does not answer. The page tries again by itself.");
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

/** Call the API and return the JSON of its answer; null for an empty one. */
export async function call(path, options) {
  const response = await send(path, options);
  if (response.status === 204) return null;
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

async function problemOf(response) {
  if (response.status === 401) connection.dispatchEvent(new Event("unauthorized"));
  let problem = {};
  try {
    problem = (await response.json()) ?? {};
  } catch {
    // Not JSON, such as an answer of a proxy: the status alone is known.
  }
  const detail = typeof problem.detail === "string" ? problem.detail : problem.title;
  const error = new ApiError(response.status, detail || `The server answered ${response.status} ${response.statusText}.`, problem);
  if (error.away) lost();
  return error;
}

let waiting = 0;

/** Say that the server does not answer, and look for it until it does. */
export function lost() {
  connection.dispatchEvent(new Event("offline"));
  if (!waiting) waiting = setTimeout(look, AGAIN_MS);
}

async function look() {
  waiting = 0;
  try {
    const response = await fetch(new URL("../../healthz", BASE), { cache: "no-store" });
    if (!response.ok) throw new Error(response.statusText); // of a proxy, for one
    connection.dispatchEvent(new Event("online"));
  } catch {
    waiting = setTimeout(look, AGAIN_MS);
  }
}

window.addEventListener("offline", lost);

/** Exchange a token for a cookie, which players and images send too. */
export function signIn(token) {
  return send("session", { method: "POST", json: { token } });
}

const isRefusal = (error) => error.status >= 400 && error.status < 500 && error.status !== 429;

/**
 * Listen to a stream of events; returns a function that stops it. A stream that is lost is connected
 * again, and one that ends with one of `last` is closed. `refused` is called with the error once the
 * server refuses it.
 */
export function listen(path, listeners, last = [], refused = () => {}) {
  let source = null;
  let stopped = false;
  let seen = 0; // the number of the last event; a new source is sent all that are kept
  const stop = () => {
    stopped = true;
    source.close();
  };
  const connect = () => {
    source = new EventSource(new URL(path, BASE));
    for (const [name, listener] of Object.entries(listeners)) {
      source.addEventListener(name, (event) => {
        if (event.data === undefined) return; // an error of the connection
        const number = Number(event.lastEventId);
        // The end counts always: of a watch that ended with an earlier process it has a low number.
        if (last.includes(name)) stop();
        else if (number && number <= seen) return;
        seen = number;
        listener(JSON.parse(event.data));
      });
    }
    // The browser connects again by itself, but not after an error of HTTP, such as a proxy's.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED && !stopped) setTimeout(again, AGAIN_MS);
    });
  };
  const again = async () => {
    if (stopped) return;
    try {
      await (await send(path)).body.cancel(); // a source does not say why it is refused
    } catch (error) {
      if (isRefusal(error)) refused(error);
      else setTimeout(again, AGAIN_MS);
      return;
    }
    if (!stopped) connect();
  };
  connect();
  return stop;
}

// Jobs that are followed, by their ids. One of them has a stream and the others are asked for every
// so often: browsers open only six connections to a server, for all that the page does.
const jobs = new Map();
const ENDS = ["done", "failed", "cancelled"];
let streamed = null; // the one that has the stream

/**
 * Follow a job; returns a function that stops it. `progress` is called with the job as it changes,
 * `ended` with the job once it is finished, `refused` with the error once the server refuses to tell.
 */
export function watchJob(id, follower) {
  let job = jobs.get(id);
  if (!job) {
    job = { id, seen: null, followers: new Set(), stop: null };
    jobs.set(id, job);
    connect(job);
  } else if (job.seen) follower.progress(job.seen);
  job.followers.add(follower);
  return () => {
    job.followers.delete(follower);
    if (!job.followers.size) forget(job);
  };
}

function connect(job) {
  job.stop?.();
  const path = `jobs/${encodeURIComponent(job.id)}`;
  const told = (seen) => {
    job.seen = seen;
    const ended = ENDS.includes(seen.state);
    if (ended) forget(job);
    for (const follower of job.followers) (ended ? follower.ended : follower.progress)(seen);
  };
  const refused = (error) => {
    forget(job);
    for (const follower of job.followers) follower.refused(error);
  };
  if (streamed) {
    job.stop = poll(path, told, refused);
    return;
  }
  streamed = job;
  const listeners = Object.fromEntries(["progress", ...ENDS].map((name) => [name, told]));
  job.stop = listen(`${path}/events`, listeners, ENDS, refused);
}

function forget(job) {
  job.stop();
  if (jobs.get(job.id) === job) jobs.delete(job.id);
  if (streamed !== job) return;
  streamed = null;
  const [next] = jobs.values();
  if (next) connect(next);
}

/** Ask for something every so often; returns a function that stops it. */
function poll(path, listener, refused) {
  let stopped = false;
  let waiting = 0;
  const ask = async () => {
    let answer = null;
    try {
      answer = await call(path);
    } catch (error) {
      if (!stopped && isRefusal(error)) refused(error);
    }
    if (answer && !stopped) listener(answer);
    if (!stopped) waiting = setTimeout(ask, AGAIN_MS);
  };
  ask();
  return () => {
    stopped = true;
    clearTimeout(waiting);
  };
}

/** Follow a job to its end: `onProgress` is called with it as it changes. */
export function follow(id, onProgress = () => {}) {
  return new Promise((resolve, reject) => {
    const ended = (job) => {
      if (job.state === "done") resolve(job);
      else if (job.state === "failed") reject(new ApiError(500, errorOf(job) || "The job failed."));
      else reject(new ApiError(499, "The job was cancelled."));
    };
    watchJob(id, { progress: onProgress, ended, refused: reject });
  });
}

function errorOf(job) {
  return typeof job.error === "string" ? job.error : job.error?.detail;
}
