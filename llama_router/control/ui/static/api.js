// Requests to the router. Each failure is an ApiError whose message is a sentence for a person.

/** The path of the router; a proxy may show it below another one than "/". */
export const BASE = new URL("..", import.meta.url).pathname;

/** Silence after which an event stream counts as broken, in milliseconds: two missed keepalives. */
export const SILENCE_MS = 40_000;

/** Codes of answers that mean: sign in first, or again. */
const SIGN_IN_CODES = new Set(["invalid_admin_token", "invalid_api_key", "session_expired"]);

let signInNeeded = () => {};

/** Call *callback* each time that the router wants a sign-in that the browser does not have. */
export function onSignInNeeded(callback) {
  signInNeeded = callback;
}

/** A request that failed. `code` is the router's, or "unreachable", "cut", "unreadable". */
export class ApiError extends Error {
  constructor(message, { code = "error", status = 0, body = null } = {}) {
    super(sentence(message));
    this.name = "ApiError";
    this.code = code;
    this.status = status;
    this.body = body;
  }
}

/** Return *text* with a capital and a full stop. */
export function sentence(text) {
  const trimmed = String(text).trim();
  const begun = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

/**
 * Return the address of the router's *path* ("/admin/status") with the parameters *query*; those
 * that are null or undefined are left out.
 */
export function address(path, query = {}) {
  const own = BASE + path.replace(/^\//, "");
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text ? `${own}?${text}` : own;
}

/** Return the path part for *name*: slashes stay, as the router takes them. */
export function encodeName(name) {
  return encodeURIComponent(name).replaceAll("%2F", "/");
}

/**
 * Return the Response to a request, once its head is here and its status says success.
 *
 * @param {string} path A path of the router, from its "/" on.
 * @param {object} options
 * @param {string} options.method
 * @param {object} options.query Parameters of the address.
 * @param {*} options.body Sent as JSON; undefined for none.
 * @param {object} options.headers
 * @param {AbortSignal} options.signal An aborted request throws an AbortError.
 * @throws {ApiError}
 */
export async function request(path, { method, query, body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path, query), {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw await failure(response);
}

/** Return the decoded JSON of the answer; takes the options of `request`. */
export async function call(path, options = {}) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) {
      throw new ApiError("the answer of the router cannot be read: reload this page",
        { code: "unreadable" });
    }
    throw new ApiError("the connection broke off before the answer was here; try again",
      { code: "cut" });
  }
}

/**
 * Yield the pieces of text of a response as they arrive.
 *
 * @param {Response} response
 * @param {number} silenceMs Longest wait for the next piece; then the response counts as cut.
 * @throws {ApiError} "cut" if the connection broke off or was silent.
 */
export async function* pieces(response, silenceMs = Infinity) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await within(silenceMs, reader.read());
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("the connection to the router broke off", { code: "cut" });
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Yield the server-sent events of a response: {id, event, data} with *data* as text. */
export async function* events(response, silenceMs = Infinity) {
  const parser = new EventParser();
  for await (const piece of pieces(response, silenceMs)) yield* parser.feed(piece);
}

/** Parses server-sent events piece by piece. Only whole events count. */
export class EventParser {
  #rest = "";
  #event = { id: null, event: "message", data: [] };

  /** Return the events that *text* completes; a comment counts as one without data. */
  feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    const found = [];
    for (const each of lines) {
      const line = each.endsWith("\r") ? each.slice(0, -1) : each;
      if (line === "") {
        const { id, event, data } = this.#event;
        if (data.length) found.push({ id, event, data: data.join("\n") });
        this.#event = { id: null, event: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") this.#event.data.push(value);
      else if (field === "event") this.#event.event = value;
      else if (field === "id") this.#event.id = value;
    }
    return found;
  }
}

async function within(ms, promise) {
  if (ms === Infinity) return promise;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(
      new ApiError("the router has been silent for too long", { code: "cut" })), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function unreachable() {
  return new ApiError(
    "the router does not answer: it may be stopped or restarting. Nothing is known of what "
    + "became of this request", { code: "unreachable" });
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error;
  // Ollama's form of an error is the sentence alone.
  const said = typeof error === "string" ? error : error?.message ?? problemsOf(body);
  const code = error?.code ?? (body?.problems ? "problems" : `status_${response.status}`);
  if (response.status === 401 || SIGN_IN_CODES.has(code)) signInNeeded();
  if (code === "invalid_admin_token" && !response.url.endsWith("/ui/session")) {
    return new ApiError("this needs the admin token: sign out, and sign in with it",
      { code, status: response.status, body });
  }
  return new ApiError(said ?? `the router answered with status ${response.status}`,
    { code, status: response.status, body });
}

function problemsOf(body) {
  if (!Array.isArray(body?.problems) || !body.problems.length) return undefined;
  return body.problems
    .map(({ line, where, message }) => `${line ? `line ${line}: ` : ""}${where}: ${message}`)
    .join("; ");
}
