// The state of the router as the page knows it: one snapshot, then events.
//
// Everything that a section shows comes from `store.state`, which is replaced, never changed:
// comparing a part of it by identity says whether that part changed.

import { ApiError, SILENCE_MS, call, events, onSignInNeeded, request } from "./api.js";
import { useEffect, useRef, useState } from "./lib.js";

/** Ended requests that are kept, as many as the router keeps. */
const KEPT_REQUESTS = 1000;

/** Shortest and longest pause before the router is asked again, in milliseconds. */
const RETRY_MS = { first: 500, most: 5000 };

/** Silence after which a page that was hidden or asleep asks anew, in milliseconds. */
const STALE_MS = 20_000;

const EMPTY = {
  /** "opening", "live", "lost" (the router does not answer), "ending" (it stops), "sign-in". */
  connection: "opening",
  /** Whether the sign-in page may be left without a secret. */
  mayLeave: false,
  /** What went wrong, as a sentence; empty while all is well. */
  trouble: "",
  /** What the browser may do: {scope: "admin" | "models" | null, name, signed_in}. */
  session: { scope: null, name: null, signed_in: false },
  /** The snapshot without its lists: version, urls, config_path, reload, programs … */
  router: null,
  /** Rows of /admin/status, each with the time at which it came, `received_s` (see `now_s`). */
  models: [],
  devices: [],
  /** Rows of /admin/activity, the newest first. */
  requests: [],
  /** Whether `requests` has those from before the page was opened, too. */
  hasPast: false,
  /** Rows of /admin/downloads. */
  downloads: [],
};

/** Return the Unix time in seconds. It goes on while the machine sleeps, unlike other clocks. */
export function now_s() {
  return Date.now() / 1000;
}

class Store {
  state = EMPTY;

  #followers = new Set();
  #models = new Map();
  #requests = new Map();
  #downloads = new Map();
  #dirty = new Set();
  #frame = 0;
  #lastId = "";
  #epoch = "";
  #heard_ms = 0;
  #connection = null;
  #wake = () => {};
  #onRestart = () => {};
  #wantsPast = false;
  #statusWanted = false;

  /** Call *callback* after each change, at most once per frame; returns how to stop that. */
  subscribe(callback) {
    this.#followers.add(callback);
    return () => this.#followers.delete(callback);
  }

  /** Call *callback* when another router answers than before. */
  onRestart(callback) {
    this.#onRestart = callback;
  }

  /** Follow the router for as long as the page is open. */
  async run() {
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#checkAfterPause();
    });
    window.addEventListener("online", () => this.#checkAfterPause());
    onSignInNeeded(() => this.#checkSession());
    for (let pause_ms = RETRY_MS.first; ; ) {
      try {
        await this.#follow();
        continue;
      } catch (error) {
        if (error.name === "AbortError") continue; // a person or the browser woke us
        if (!(error instanceof ApiError)) throw error;
        if (this.state.connection === "sign-in") continue;
        if (error.status === 401) {
          await this.#checkSession();
          if (this.state.connection === "sign-in") continue;
        }
        if (this.state.connection === "live") pause_ms = RETRY_MS.first;
        const ending = this.state.connection === "ending";
        this.#set({ connection: ending ? "ending" : "lost", trouble: error.message });
      }
      await this.#pause(pause_ms);
      pause_ms = Math.min(pause_ms * 2, RETRY_MS.most);
    }
  }

  /** Ask the router again now. */
  retry() {
    this.#connection?.abort();
    this.#wake();
  }

  /**
   * Show the sign-in page; what was loaded before is dropped.
   *
   * @param {boolean} mayLeave The page works without a sign-in, too, with fewer rights.
   */
  signedOut({ mayLeave = false } = {}) {
    if (this.state.connection === "sign-in") return;
    this.#reset();
    this.#set({ ...EMPTY, connection: "sign-in", mayLeave });
    this.#connection?.abort();
  }

  /** Go on after a sign-in, or without one. */
  signedIn() {
    this.#set({ connection: "opening" });
    this.#wake();
  }

  /** Load the requests from before the page was opened, now and after each new connection. */
  async wantPast() {
    this.#wantsPast = true;
    if (!this.state.hasPast && this.state.connection === "live") await this.#loadPast();
  }

  /** Take one row of a model, as an answer of the router has it. */
  takeModel(row) {
    this.#putModel(row);
  }

  async #follow() {
    if (this.state.connection === "sign-in") return this.#pause(Infinity);
    this.#connection = new AbortController();
    const { signal } = this.#connection;
    const session = await call("/ui/session", { signal });
    if (session.scope === null) return this.signedOut();
    this.#set({ session });
    if (session.scope === "admin") return this.#followAdmin(signal);
    return this.#followModels(signal);
  }

  async #followAdmin(signal) {
    const headers = this.#lastId ? { "last-event-id": this.#lastId } : {};
    const response = await request("/admin/events", { query: { live: 1 }, headers, signal });
    this.#heard_ms = Date.now();
    this.#set({ connection: "live", trouble: "" });
    this.#loadDownloads(signal);
    if (this.#wantsPast) this.#loadPast(signal);
    for await (const event of events(response, SILENCE_MS)) {
      this.#heard_ms = Date.now();
      if (event.id) this.#lastId = event.id;
      this.#take(event.event, JSON.parse(event.data), event.id ?? "");
    }
    throw new ApiError("the router ended the connection", { code: "cut" });
  }

  /** Without the right to administer: the list of models, as every client gets it. */
  async #followModels(signal) {
    const response = await request("/models/sse", { signal });
    await this.#loadList(signal);
    this.#set({ connection: "live", trouble: "" });
    for await (const event of events(response, SILENCE_MS)) {
      this.#heard_ms = Date.now();
      const { model, data } = JSON.parse(event.data);
      const row = this.#models.get(model);
      if (row && data?.status) {
        this.#putModel({ ...row, ...fromStatus(data.status),
          load_progress: data.progress?.value ?? null });
      } else {
        await this.#loadList(signal);
      }
    }
    throw new ApiError("the router ended the connection", { code: "cut" });
  }

  async #loadList(signal) {
    const { data } = await call("/v1/models", { signal });
    this.#models.clear();
    for (const entry of data) this.#putModel(fromEntry(entry));
    this.#touch("models");
  }

  #take(kind, data, id) {
    switch (kind) {
      case "snapshot": return this.#takeSnapshot(data, id.split("-")[0]);
      case "update":
        for (const row of data.models) this.#putModel(row);
        for (const id of data.removed) this.#models.delete(id);
        if (data.devices) this.#set({ devices: data.devices });
        if (data.removed.length) this.#touch("models");
        return undefined;
      case "model": return this.#changeModel(data.id, { phase: data.phase });
      case "progress": return this.#changeModel(data.id, { load_progress: data.progress });
      case "sleep": return this.#changeModel(data.id, { sleeping: data.sleeping });
      case "removed":
        this.#models.delete(data.id);
        return this.#touch("models");
      case "request": return this.#putRequest(data);
      case "download": return this.#putDownload(data);
      case "config": return void this.#reloadStatus();
      case "router":
        return this.#set({ connection: "ending", trouble: "The router is stopping." });
      default: return undefined; // of a newer router
    }
  }

  #takeSnapshot(snapshot, epoch) {
    const restarted = this.#epoch !== "" && epoch !== "" && epoch !== this.#epoch;
    if (epoch) this.#epoch = epoch;
    const { models, devices, ...router } = snapshot;
    this.#models = new Map(models.map((row) => [row.id, received(row)]));
    this.#touch("models");
    if (restarted) {
      this.#requests.clear();
      this.#downloads.clear();
      this.#touch("requests");
      this.#touch("downloads");
      this.#set({ hasPast: false });
      this.#onRestart();
    }
    this.#set({ devices, router: { ...router, received_s: now_s() } });
  }

  #putModel(row) {
    this.#models.set(row.id, received(row));
    this.#touch("models");
  }

  #changeModel(id, changes) {
    const row = this.#models.get(id);
    // Not received anew: its ages still count from when it was. The row itself follows.
    if (row) this.#models.set(id, { ...row, ...changes });
    this.#touch("models");
  }

  #putRequest(row) {
    this.#requests.delete(row.id);
    this.#requests.set(row.id, received(row));
    if (this.#requests.size > KEPT_REQUESTS + 100) {
      for (const [id, { state }] of this.#requests) {
        if (this.#requests.size <= KEPT_REQUESTS) break;
        if (state === "done") this.#requests.delete(id);
      }
    }
    this.#touch("requests");
  }

  #putDownload(row) {
    this.#downloads.set(row.id, row);
    this.#touch("downloads");
  }

  async #loadPast(signal) {
    try {
      const { requests } = await call("/admin/activity", { signal });
      const live = this.#requests;
      this.#requests = new Map();
      for (const row of [...requests].sort((a, b) => a.began_at - b.began_at)) {
        // What an event said meanwhile is newer, unless the router says that it is over.
        const newer = row.state === "done" ? undefined : live.get(row.id);
        this.#requests.set(row.id, newer ?? received(row));
        live.delete(row.id);
      }
      for (const [id, row] of live) this.#requests.set(id, row);
      this.#touch("requests");
      this.#set({ hasPast: true });
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      // The next connection loads it.
    }
  }

  async #loadDownloads(signal) {
    try {
      const { downloads } = await call("/admin/downloads", { signal });
      this.#downloads = new Map(downloads.map((row) => [row.id, row]));
      this.#touch("downloads");
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
    }
  }

  /** After a reload of the configuration: models may have come and gone. */
  async #reloadStatus() {
    if (this.#statusWanted) return;
    this.#statusWanted = true;
    try {
      const signal = this.#connection?.signal;
      const snapshot = await call("/admin/status", { query: { configuration: 0 }, signal });
      this.#takeSnapshot(snapshot, "");
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
    } finally {
      this.#statusWanted = false;
    }
  }

  /** After a 401: show the sign-in page, unless only this one request needs more rights. */
  async #checkSession() {
    if (this.state.connection === "sign-in") return;
    try {
      const { scope } = await call("/ui/session");
      if (scope === null) this.signedOut();
      else if (scope !== this.state.session.scope) this.retry();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // the stream of events says what is wrong
    }
  }

  #checkAfterPause() {
    if (this.state.connection === "sign-in") return;
    if (Date.now() - this.#heard_ms > STALE_MS) this.retry();
  }

  #pause(ms) {
    return new Promise((done) => {
      const timer = ms === Infinity ? 0 : setTimeout(done, ms);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }

  #reset() {
    this.#models.clear();
    this.#requests.clear();
    this.#downloads.clear();
    this.#lastId = "";
    this.#dirty.clear();
  }

  #set(changes) {
    this.state = { ...this.state, ...changes };
    this.#schedule();
  }

  #touch(part) {
    this.#dirty.add(part);
    this.#schedule();
  }

  #schedule() {
    // A hidden page gets no frames, and so does no work.
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const changes = {};
      if (this.#dirty.has("models")) changes.models = [...this.#models.values()];
      if (this.#dirty.has("downloads")) changes.downloads = [...this.#downloads.values()];
      if (this.#dirty.has("requests")) changes.requests = [...this.#requests.values()].reverse();
      this.#dirty.clear();
      this.state = { ...this.state, ...changes };
      for (const follower of this.#followers) follower();
    });
  }
}

export const store = new Store();

/**
 * Return a part of the state, and render again when it changes.
 *
 * @param {(state) => *} select
 */
export function useStore(select) {
  const [, again] = useState(0);
  const latest = useRef(null);
  const selected = select(store.state);
  latest.current = { select, selected };
  useEffect(() => store.subscribe(() => {
    const { select: current, selected: before } = latest.current;
    if (!Object.is(current(store.state), before)) again((n) => n + 1);
  }), []);
  return selected;
}

/** Return the time on the clock of `now_s`, and render again every *period_s* while visible. */
export function useNow(period_s = 1) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") again((n) => n + 1);
    }, period_s * 1000);
    return () => clearInterval(timer);
  }, [period_s]);
  return now_s();
}

/** Return *row* with the present time; its ages count from there. */
function received(row) {
  return { ...row, received_s: now_s() };
}

const PHASES = { unloaded: "stopped", loading: "starting", loaded: "ready", sleeping: "ready",
  downloading: "stopped" };

function fromStatus(status) {
  return { phase: PHASES[status] ?? "stopped", sleeping: status === "sleeping" };
}

/** Return an entry of /v1/models in the form of a row of /admin/status, as far as it goes. */
function fromEntry(entry) {
  return {
    id: entry.id,
    aliases: entry.aliases ?? [],
    ...fromStatus(entry.status.value),
    capabilities: entry.capabilities ?? [],
    n_ctx: entry.context_length ?? entry.meta?.n_ctx ?? null,
    crashed: entry.status.failed === true,
    claims: {},
    serving: [],
    waiting: [],
    in_flight: 0,
    queued: 0,
  };
}
