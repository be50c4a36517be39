// What can be done with a model, and the dialogs and buttons for it.

import { html } from "./lib.js";
import { ApiError, call, sentence } from "./api.js";
import { Button, CopyButton, Dialog, confirm, toast } from "./components.js";
import { cut, duration, plural } from "./format.js";
import { hasFailed, isRunning } from "./model_row.js";
import { routeTo } from "./route.js";
import { store } from "./store.js";

/** Load a model; resolves when it is ready. */
export async function load(row) {
  if (store.state.session.scope === "models") {
    await call("/models/load", { body: { model: row.id } });
    return;
  }
  try {
    store.takeModel(await call("/admin/models/load", { body: { model: row.id } }));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    // It was unloaded before it was ready: that is no failure of the load.
    if (error.code === "model_not_loaded") return;
    // The row of the model has the whole story.
    throw new ApiError(error.message.split("; ")[0], error);
  }
}

/** Unload a model; resolves when its memory is free. Asks first if that would cut requests. */
export async function unload(row, { force = false } = {}) {
  if (store.state.session.scope === "models") {
    await call("/models/unload", { body: { model: row.id } });
    return;
  }
  if (force && row.in_flight > 0 && !await confirm({
    title: `Unload ${cut(row.id, 80)} now?`,
    text: `${plural(row.in_flight, "request")} will be cut; the clients get an error.`,
    action: "Unload now",
    danger: true,
  })) return;
  store.takeModel(await call("/admin/models/unload", { body: { model: row.id, force } }));
}

/** Keep a model loaded, or no longer; this changes router.toml. */
export async function pin(row, keep) {
  await change(row.id, { set: keep ? { keep_loaded: true } : {}, unset: keep ? [] : ["keep_loaded"] });
  toast(keep ? `${cut(row.id, 80)} is loaded now and stays loaded.`
    : `${cut(row.id, 80)} may be unloaded again.`);
}

/** Change settings of a model in router.toml; see POST /admin/settings. */
export async function change(model, { set = {}, unset = [], digest = null }) {
  return call("/admin/settings", { body: { model, set, unset, digest } });
}

/** What is most likely wanted next: {key, word, icon, label, kind, act}. */
function nextStep(row) {
  const name = row.id;
  if (row.phase === "starting" || (row.phase === "stopped" && row.queued > 0)) {
    return { key: "cancel", word: "Cancel", icon: "close", label: `Cancel the load of ${name}`,
      act: () => unload(row, { force: true }) };
  }
  if (row.phase === "draining") {
    return { key: "now", word: "Unload now", icon: "stop", label: `Unload now: ${name}`,
      act: () => unload(row, { force: true }) };
  }
  if (row.phase === "stopping") {
    return { key: "stopping", word: "Unload", icon: "stop", label: `Unload ${name}`, disabled: true };
  }
  if (isRunning(row)) {
    return { key: "unload", word: "Unload", icon: "stop", label: `Unload ${name}`,
      act: () => unload(row) };
  }
  if (hasFailed(row)) {
    return { key: "load", word: "Try again", icon: "play", label: `Try again: ${name}`,
      act: () => load(row) };
  }
  return { key: "load", word: "Load", icon: "play", label: `Load ${name}`, kind: "primary",
    act: () => load(row) };
}

/** The button for what is most likely wanted next. @param {{bare: boolean}} props Without words. */
export function MainAction({ row, bare }) {
  const { key, word, icon, label, kind, disabled, act } = nextStep(row);
  return html`<${Button} key=${key} small icon=${icon} label=${label} onClick=${act}
    kind=${bare ? "quiet" : kind ?? "plain"} disabled=${disabled}>${bare ? null : word}<//>`;
}

/** Why the last start of a model failed, with the last lines of its output. */
export function FailureDialog({ row, onClose }) {
  const { message, cause, log_tail: lines, ago_s: ago, code } = row.last_error;
  const shown = lines.map((line) => cut(line, 500)).join("\n");
  return html`<${Dialog} wide title=${`Why ${cut(row.id, 80)} failed`} onClose=${onClose} footer=${html`
    <${CopyButton} text=${() => [message, ...lines].join("\n")}>Copy<//>
    <a class="button plain" href=${routeTo("logs", row.id)} onClick=${onClose}>Whole log</a>
    <${Button} kind="primary" icon="play" onClick=${() => {
      onClose();
      return load(row);
    }}>Try again<//>`}>
    <p class="said">${sentence(cut(message, 4000))}</p>
    <p class="quiet small-text">${[ago !== null && (ago < 5 ? "just now" : `${duration(ago)} ago`), cause, code,
      row.failures > 1 && `${row.failures} failures in a row`].filter(Boolean).join(" · ")}</p>
    ${shown ? html`<h3>Its last words</h3>
      <pre class="log" tabindex="0" aria-label="Last lines of output">${shown}</pre>`
      : html`<p class="quiet">It printed nothing.</p>`}
  <//>`;
}
