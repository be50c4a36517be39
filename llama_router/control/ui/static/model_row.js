// What the rows of models mean: words for phases, figures, and what can be done. No page here.

import { bytes, duration, mib, percent, rate, rough, tokens } from "./format.js";
import { now_s } from "./store.js";

/** Word and tone of each phase. */
const PHASES = {
  stopped: ["Not loaded", "quiet"],
  starting: ["Loading", "busy"],
  ready: ["Ready", "good"],
  draining: ["Finishing", "busy"],
  stopping: ["Unloading", "busy"],
  backoff: ["Restarting", "bad"],
  failed: ["Failed", "bad"],
};

/** Phases with a process. */
const RUNNING = new Set(["starting", "ready", "draining", "stopping"]);

/** The filters of the list, each with the rows that it leaves. */
export const FILTERS = [
  { value: "all", label: "All", has: () => true },
  { value: "running", label: "Running", has: ({ phase }) => RUNNING.has(phase) },
  { value: "waiting", label: "Waiting", has: (row) => row.queued > 0 },
  { value: "failed", label: "Failed", has: (row) => hasFailed(row) },
];

/** Return {word, tone} of what a model does. */
export function phaseOf(row) {
  if (row.phase === "ready" && row.sleeping) return { word: "Asleep", tone: "quiet" };
  if (row.phase === "ready" && row.in_flight > 0) return { word: "Working", tone: "good" };
  if (row.phase === "stopped" && row.queued > 0) return { word: "Waiting", tone: "busy" };
  if (row.phase === "stopped" && row.crashed) return { word: "Failed", tone: "bad" };
  const [word, tone] = PHASES[row.phase] ?? [row.phase, "quiet"];
  return { word, tone };
}

/** Return "embedding" or "rerank" for a model that does that and does not chat; else undefined. */
export function onlyOf({ capabilities = [] }) {
  return capabilities.includes("completion") ? undefined
    : ["embedding", "rerank"].find((each) => capabilities.includes(each));
}

export function isRunning(row) {
  return RUNNING.has(row.phase);
}

export function hasFailed(row) {
  return row.phase === "failed" || row.phase === "backoff"
    || (row.crashed === true && row.phase === "stopped");
}

/** Return what is known of the file and the settings: ["Q4_K_M", "4.7 GB", "32k context"]. */
export function factsOf(row) {
  const context = contextOf(row);
  return [
    row.quantization,
    row.size_bytes ? bytes(row.size_bytes) : null,
    context ? `${tokens(context)} context` : null,
    row.max_in_flight > 1 ? `${row.max_in_flight} at once` : null,
  ].filter(Boolean);
}

/** Words for what a model can do beside chat, and what that means. */
const ABILITIES = {
  tools: ["Tools", "Its chat template lets it call tools"],
  vision: ["Sees", "It takes images"],
  audio: ["Hears", "It takes audio"],
  thinking: ["Thinks", "It can think before it answers"],
  insert: ["Fills in", "It completes code in the middle"],
  embedding: ["Embeddings", "It turns texts into vectors, and does not chat"],
  rerank: ["Reranks", "It orders documents by how well they fit a question, and does not chat"],
  image: ["Draws", "It makes images"],
};

/** Return what a model can do as [{key, word, about}]; chat alone goes without saying. */
export function abilitiesOf(row) {
  return (row.capabilities ?? []).filter((each) => each !== "completion").map((key) => {
    const [word, about] = ABILITIES[key] ?? [key, ""];
    return { key, word, about };
  });
}

/** Return the context that is served, in tokens; null if it is not known. */
export function contextOf(row) {
  return row.fit?.n_ctx ?? row.n_ctx ?? null;
}

/** Return [{device, mib}] of a loaded model, and of another one what it would take. */
export function memoryOf(row) {
  const claims = Object.entries(row.claims ?? {}).filter(([, amount]) => amount > 0);
  if (claims.length) return claims.map(([device, amount]) => ({ device, mib: amount }));
  if (row.memory_mib) return [{ device: "host", mib: row.memory_mib }];
  const { host_mib: host = 0, gpu_mib: gpu = 0, fixed_mib: fixed = {} } = row.footprint ?? {};
  return [["GPU", gpu], ["host", host], ...Object.entries(fixed)]
    .filter(([, amount]) => amount > 0)
    .map(([device, amount]) => ({ device, mib: amount }));
}

/** Return the sum of `memoryOf` in MiB; null if nothing is known. */
export function memorySum(row) {
  const parts = memoryOf(row);
  return parts.length ? parts.reduce((sum, part) => sum + part.mib, 0) : null;
}

/** Return the memory in words: "cuda0 9.0 GiB + host 410 MiB". */
export function memoryText(row) {
  return memoryOf(row).map(({ device, mib: amount }) => `${device} ${mib(amount)}`).join(" + ");
}

/** Words for how the memory of a model is known. */
const SOURCES = {
  configured: "from the configuration",
  measured: "measured",
  reported: "reported by llama-server",
  estimated: "estimated",
  unknown: "a guess",
};

/** Return how the memory of a model is known, in words; empty if nothing is. */
export function sourceOf(row) {
  if (Object.keys(row.claims ?? {}).length === 0 && row.memory_mib) return "measured";
  return SOURCES[row.footprint?.source] ?? "";
}

/** Return the Unix time of the last use in seconds; null if it is not known. */
export function lastUsed(row) {
  if (row.in_flight > 0) return now_s();
  if (row.last_used_at) return row.last_used_at;
  return row.idle_for_s === null || row.idle_for_s === undefined
    ? null : row.received_s - row.idle_for_s;
}

/** Return "now", "4 min ago" or "–". */
export function lastUsedText(row) {
  const at_s = lastUsed(row);
  if (at_s === null) return "–";
  const ago = rough(Math.max(0, now_s() - at_s));
  return ago === "now" ? "now" : `${ago} ago`;
}

/** Return {text, about, past}: the rate of tokens now, else that of the last answer. */
export function rateOf(row) {
  if (row.tokens_per_s) return { text: rate(row.tokens_per_s), about: "now", past: false };
  if (!row.last_tokens_per_s) return { text: "–", about: undefined, past: true };
  return { text: rate(row.last_tokens_per_s), about: "of the last answer", past: true };
}

/** Return how long an idle model stays, in words; empty if it stays for good, or is busy. */
export function ttlText(row) {
  if (row.ttl_left_s === null || row.ttl_left_s === undefined) return "";
  return `Unloads in ${rough(Math.max(1, row.ttl_left_s - (now_s() - row.received_s)))}`;
}

/** Return the seconds left of a load; null if they are not known. */
export function leftOf(row) {
  if (row.phase !== "starting" || row.load_left_s === null || row.load_left_s === undefined) {
    return null;
  }
  return Math.max(0, row.load_left_s - (now_s() - row.received_s));
}

/** Return how far a load is, in words: "42 %, 12 s left". */
export function loadText(row) {
  const left = leftOf(row);
  const parts = [];
  if (row.load_progress !== null && row.load_progress !== undefined) {
    parts.push(percent(row.load_progress));
  }
  if (left !== null && left >= 1) parts.push(`about ${rough(left)} left`);
  return parts.join(", ");
}

/** Return why a model is not ready, as a sentence; empty if there is nothing to say. */
export function reasonOf(row) {
  if (row.phase === "backoff" && row.retry_in_s !== null) {
    const left = Math.max(0, row.retry_in_s - (now_s() - row.received_s));
    return `It failed, and is tried again in ${duration(Math.ceil(left))}.`;
  }
  if (row.queued > 0 && row.waits_for) return row.waits_for;
  return "";
}

/** Return what a model has less of because something else holds memory; empty if nothing. */
export function squeezeOf(row) {
  if (!row.fit?.squeezed || !isRunning(row)) return "";
  const { n_ctx: context, n_ctx_full: full, n_gpu_layers: layers, n_layers: all } = row.fit;
  return `Squeezed: ${[
    context < full ? `${tokens(context)} of ${tokens(full)} context` : "",
    layers !== null && all ? `${layers} of ${all} layers on GPUs` : "",
  ].filter(Boolean).join(", ")}`;
}

/** Return whether *row* fits all words of *search*, in any order. */
export function matches(row, words) {
  if (!words.length) return true;
  const text = [row.id, ...(row.aliases ?? []), row.quantization ?? "", row.group ?? "",
    ...(row.capabilities ?? []), ...abilitiesOf(row).map(({ word }) => word)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

const hues = new Map();

/** Return the colour class of a model: the same for as long as the page is open. */
export function hueOf(id) {
  if (!hues.has(id)) hues.set(id, `hue${(hues.size % 8) + 1}`);
  return hues.get(id);
}
