// The dialog with the settings of one model. It changes router.toml, and the router applies that.

import { html, useEffect, useState } from "../lib.js";
import { ApiError, call } from "../api.js";
import { Button, Check, Dialog, Field, Notice, Skeleton, toast } from "../components.js";
import { cut } from "../format.js";
import { change } from "../model_actions.js";

/** What the router shows in place of a secret. */
const MASK = "********";

/** Settings that are words of the command line: field, the spellings of the option. */
const OPTIONS = {
  context: ["--ctx-size", "-c"],
  layers: ["--n-gpu-layers", "-ngl", "--gpu-layers"],
  parallel: ["--parallel", "-np"],
};

/**
 * Return {values, rest}: the values of `OPTIONS` in *words*, and all other words.
 * A value may stand behind its option or behind "=".
 */
export function splitArguments(words) {
  const values = {};
  const rest = [];
  for (let at = 0; at < words.length; at += 1) {
    const [option, inline] = words[at].split(/=(.*)/s);
    const name = Object.keys(OPTIONS).find((each) => OPTIONS[each].includes(option));
    if (name && inline !== undefined) {
      values[name] = inline;
    } else if (name && at + 1 < words.length) {
      at += 1;
      values[name] = words[at];
    } else {
      rest.push(words[at]);
    }
  }
  return { values, rest };
}

/** Return the words of a command line, as a shell would split it. */
export function splitWords(text) {
  const words = [];
  let word = null;
  let quote = "";
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (quote) {
      if (character === quote) quote = "";
      else if (character === "\\" && quote === '"' && '"\\'.includes(text[at + 1] ?? "")) {
        at += 1;
        word += text[at] ?? "";
      } else word += character;
    } else if (character === "'" || character === '"') {
      quote = character;
      word ??= "";
    } else if (character === "\\" && at + 1 < text.length) {
      at += 1;
      word = (word ?? "") + text[at];
    } else if (/\s/.test(character)) {
      if (word !== null) words.push(word);
      word = null;
    } else {
      word = (word ?? "") + character;
    }
  }
  if (quote) throw new ApiError(`a quotation mark (${quote}) is not closed`);
  if (word !== null) words.push(word);
  return words;
}

/** Return *words* as a text that `splitWords` takes apart again. */
export function joinWords(words) {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word
    : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

function valuesOf({ written, effective }) {
  const { values, rest } = splitArguments(written.args ?? []);
  return {
    context: values.context ?? "",
    layers: values.layers ?? "",
    parallel: values.parallel ?? "",
    rest: joinWords(rest),
    group: written.group ?? "",
    ttl: written.ttl_s === undefined ? "" : String(written.ttl_s),
    keep: effective.keep_loaded === true,
  };
}

/** Return {set, unset} that turn the settings *before* into *after*; empty where nothing differs. */
export function changesOf(before, after) {
  const set = {};
  const unset = [];
  const put = (key, value) => (value === "" ? unset.push(key) : (set[key] = value));
  if (after.group !== before.group) put("group", after.group.trim());
  if (after.ttl !== before.ttl) put("ttl_s", after.ttl === "" ? "" : durationOf(after.ttl));
  if (after.keep !== before.keep) put("keep_loaded", after.keep || "");
  if (["context", "layers", "parallel", "rest"].some((key) => after[key] !== before[key])) {
    const words = Object.keys(OPTIONS)
      .flatMap((name) => (after[name] === "" ? [] : [OPTIONS[name][0], after[name].trim()]));
    words.push(...splitWords(after.rest));
    if (words.length) set.args = words;
    else unset.push("args");
  }
  return { set, unset };
}

/** Return a time as the configuration takes it, as a number or a text with units; null if it is none. */
function durationOf(text) {
  const said = text.trim();
  if (said !== "" && Number(said) >= 0) return Number(said);
  return /^(?=\d)(\d+(\.\d+)?\s?(d|h|m|s|ms)\s?)+$/.test(said) ? said : null;
}

function mistakesOf(values) {
  const mistakes = {};
  const whole = (key, least, name) => {
    if (values[key] !== "" && !(/^\d+$/.test(values[key].trim()) && Number(values[key]) >= least)) {
      mistakes[key] = `${name} is a whole number from ${least} on.`;
    }
  };
  whole("context", 0, "The context");
  if (!["", "auto", "all"].includes(values.layers.trim())) whole("layers", 0, "The number of layers");
  whole("parallel", 1, "The number of slots");
  if (values.ttl !== "" && durationOf(values.ttl) === null) {
    mistakes.ttl = "The time is a number of seconds from 0 on, or one with units, like 5m or 1h30m.";
  }
  try {
    splitWords(values.rest);
  } catch (error) {
    mistakes.rest = error.message;
  }
  return mistakes;
}

export function SettingsDialog({ row, onClose }) {
  const [settings, setSettings] = useState(null);
  const [values, setValues] = useState(null);
  const [trouble, setTrouble] = useState(null);
  const [busy, setBusy] = useState(false);
  const read = async () => {
    const found = await call("/admin/settings", { query: { model: row.id } });
    setSettings(found);
    setValues(valuesOf(found));
    setTrouble(null);
  };
  useEffect(() => void read().catch(setTrouble), []);

  const set = (key) => (event) => setValues({ ...values,
    [key]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const mistakes = values ? mistakesOf(values) : {};
  const hidden = (settings?.written.args ?? []).some((word) => word.includes(MASK));
  const save = async (event) => {
    event.preventDefault();
    if (Object.keys(mistakes).length) return;
    const changes = changesOf(valuesOf(settings), values);
    if (!Object.keys(changes.set).length && !changes.unset.length) return onClose();
    setBusy(true);
    try {
      const report = await change(row.id, { ...changes, digest: settings.digest });
      toast(report.restarted.includes(row.id)
        ? `Saved. ${cut(row.id, 80)} is started again with it.` : "Saved, and in force.");
      onClose();
    } catch (error) {
      setTrouble(error);
      setBusy(false);
    }
    return undefined;
  };
  const field = (key, label, hint, more = {}) => html`<${Field} label=${label} hint=${hint}
    error=${mistakes[key]}>${(props) => html`<input type="text" inputmode=${more.text ? "text" : "numeric"}
      autocomplete="off" spellcheck="false" value=${values[key]} onInput=${set(key)}
      placeholder=${more.placeholder} disabled=${more.disabled} ...${props} />`}<//>`;
  const changedElsewhere = trouble?.code === "config_changed";
  return html`<${Dialog} wide title=${`Settings of ${cut(row.id, 80)}`} onClose=${onClose} footer=${html`
    <${Button} onClick=${onClose}>Cancel<//>
    <${Button} kind="primary" type="submit" form="model-settings" busy=${busy}
      disabled=${!values || Object.keys(mistakes).length > 0}>Save<//>`}>
    ${changedElsewhere && html`<${Notice} tone="bad" title="The file was changed meanwhile."
      action=${html`<${Button} small onClick=${read}>Show its settings<//>`}>
      Another tab, a program or an editor wrote it. Nothing was saved.<//>`}
    ${trouble && !changedElsewhere && html`<${Notice} tone="bad"
      title=${settings ? "Nothing was saved." : ""}>${trouble.message}<//>`}
    ${!values && !trouble && html`<${Skeleton} lines=${4} label="Loading settings" />`}
    ${values && html`<form id="model-settings" class="form-grid" onSubmit=${save} novalidate>
      ${field("context", "Context, in tokens", "Empty: what fits. 0: what the model was trained with.",
        { placeholder: "what fits", disabled: hidden })}
      ${field("layers", "Layers on GPUs", "Empty: as many as fit.",
        { placeholder: "what fits", disabled: hidden, text: true })}
      ${field("parallel", "Requests at the same time", "Slots of the backend; they share the context.",
        { placeholder: "what the backend chooses", disabled: hidden })}
      ${field("ttl", "Unload after, in seconds", "Without requests. 0: never. Empty: as for all models.",
        { placeholder: String(settings.effective.ttl_s) })}
      ${field("group", "Group", "Models of one group run side by side.",
        { placeholder: "a group of its own", text: true })}
      <div class="field"><span class="field-label">Memory</span>
        <${Check} label="Keep it loaded, also after a restart" checked=${values.keep}
          onChange=${(keep) => setValues({ ...values, keep })} /></div>
      <div class="whole"><${Field} label="More arguments" error=${mistakes.rest}
        hint=${hidden ? "They contain a secret, which is not shown; change them in router.toml."
          : "As on a command line; they are put after those of the command."}>
        ${(props) => html`<textarea rows="3" spellcheck="false" class="code" value=${values.rest}
          onInput=${set("rest")} disabled=${hidden} ...${props}></textarea>`}<//></div>
    </form>`}
  <//>`;
}
