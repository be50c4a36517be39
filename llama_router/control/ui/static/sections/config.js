// Configuration: the file in an editor that keeps its comments, and where each setting comes from.

import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { call } from "../api.js";
import { Badge, Button, Empty, Notice, Search, Segmented, Select, Skeleton, confirm, toast }
  from "../components.js";
import { clock, count, plural } from "../format.js";
import { routeTo } from "../route.js";
import { useStore } from "../store.js";

const TABS = [
  { value: "file", label: "File" },
  { value: "settings", label: "Settings in force" },
];

/** Pause after the last key before the text is checked, in milliseconds. */
const PAUSE_MS = 600;

/** Height of a line of the editor, as in the style sheet. */
const LINE_PX = 20;

export default function Configuration({ route }) {
  const tab = route.params.get("tab") === "settings" ? "settings" : "file";
  return html`<div class="section-head"><h1>Configuration</h1>
      <${Segmented} label="What to show" value=${tab} options=${TABS}
        onChange=${(value) => { location.hash = routeTo("config", route.argument, { tab: value }); }} />
    </div>
    ${tab === "file" ? html`<${File} line=${Number(route.params.get("line")) || null} />`
      : html`<${Settings} model=${route.argument} />`}`;
}

// --- The file --------------------------------------------------------------------------

/** The text that was being edited when the section was left. */
let draft = null;

function File({ line }) {
  const [file, setFile] = useState(null);
  const [text, setText] = useState("");
  const [verdict, setVerdict] = useState(null); // what a check of the text said
  const [trouble, setTrouble] = useState(null);
  const [conflict, setConflict] = useState(false);
  const reloaded = useStore((state) => state.router?.reload.at);
  const changed = file !== null && text !== file.text;

  const load = async (signal) => {
    try {
      const found = await call("/admin/config", { signal });
      setFile(found);
      setTrouble(null);
      return found;
    } catch (error) {
      if (error.name !== "AbortError") setTrouble(error.message);
      return null;
    }
  };
  useEffect(() => {
    const end = new AbortController();
    load(end.signal).then((found) => {
      if (!found) return;
      const keeps = draft !== null && draft.text !== draft.base;
      setText(keeps ? draft.text : found.text);
      if (keeps) setConflict(draft.base !== found.text);
    });
    return () => end.abort();
  }, []);
  useEffect(() => { if (file) draft = { text, base: file.text }; }, [text, file]);
  // Another program or tab has saved the file.
  useEffect(() => {
    if (!file) return;
    const before = file;
    load().then((found) => {
      if (!found || found.digest === before.digest) return;
      setText((current) => {
        if (current === before.text) return found.text;
        setConflict(current !== found.text);
        return current;
      });
    });
  }, [reloaded]);
  useEffect(() => {
    if (!changed) {
      setVerdict(null);
      return undefined;
    }
    const end = new AbortController();
    const timer = setTimeout(() => check(text, file.digest, end.signal).then(setVerdict, (error) => {
      if (error.name === "AbortError") return;
      if (error.code === "config_changed") setConflict(true);
      else setTrouble(error.message);
    }), PAUSE_MS);
    return () => {
      clearTimeout(timer);
      end.abort();
    };
  }, [text, file?.digest]);

  if (!file) {
    return trouble ? html`<${Notice} tone="bad">${trouble}<//>` : html`<${Skeleton} lines=${8} />`;
  }
  const problems = changed ? verdict?.problems ?? [] : file.problems;
  const warnings = changed ? verdict?.warnings ?? [] : file.warnings;
  const apply = async () => {
    try {
      const report = await call("/admin/config", { method: "PUT", body: { text, digest: file.digest } });
      toast(saidOf(report));
      const found = await load();
      if (found) setText(found.text);
      setConflict(false);
    } catch (error) {
      if (error.code === "config_changed") setConflict(true);
      else if (error.body?.problems) setVerdict(error.body);
      else throw error;
    }
  };
  const revert = async () => {
    const sure = await confirm({ title: "Discard your changes?", danger: true, action: "Discard",
      text: "The editor shows the file again as it is on the disk." });
    if (!sure) return;
    setText(file.text);
    setConflict(false);
  };
  return html`<p class="quiet"><code>${file.path}</code>${" "}${file.exists ? "" : " does not exist yet"}
      · ${file.status === "rejected" ? html`<${Badge} tone="bad">Rejected<//> the last good
        configuration is in force` : html`<${Badge} tone="good">In force<//>`}
      ${reloaded ? ` since ${clock(reloaded)}` : ""}</p>
    ${conflict && html`<${Notice} tone="busy" title="The file was changed by another program or tab."
      action=${html`<${Button} small onClick=${() => { setText(file.text); setConflict(false); }}>
        Take that one<//> <${Button} small onClick=${() => setConflict(false)}>Keep mine<//>`}>
      Your text here is still the one that you wrote.<//>`}
    ${trouble && html`<${Notice} tone="bad">${trouble}<//>`}
    <${Editor} text=${text} onInput=${setText} problems=${problems} warnings=${warnings} line=${line} />
    <${Problems} problems=${problems} warnings=${warnings} />
    <div class="toolbar">
      <${Button} kind="primary" disabled=${!changed || problems.length > 0 || conflict} onClick=${apply}>
        Save and apply<//>
      <${Button} disabled=${!changed} onClick=${revert}>Discard<//>
      <span class="quiet" role="status">${!changed ? "No changes" : verdict === null ? "Checking…"
        : problems.length ? `${plural(problems.length, "mistake")}: it cannot be applied`
        : `Valid. ${wouldDo(verdict)}`}</span>
    </div>
    <p class="quiet small-text">Secrets are shown as masks; a mask that you leave keeps its secret.
      Comments and order stay as you write them.</p>`;
}

function check(text, digest, signal) {
  return call("/admin/config/check", { body: { text, digest }, signal });
}

function wouldDo({ added, removed, restarted, needs_router_restart: later }) {
  const parts = [
    added.length && `adds ${added.join(", ")}`,
    removed.length && `removes ${removed.join(", ")}`,
    restarted.length && `restarts ${restarted.join(", ")}`,
    later.length && `needs a restart of the router for ${later.join(", ")}`,
  ].filter(Boolean);
  return parts.length ? `It ${parts.join("; ")}.` : "It restarts nothing.";
}

function saidOf(report) {
  return `The configuration is in force. ${wouldDo(report)
    .replace("It adds", "Added").replace("It removes", "Removed").replace("It restarts", "Restarted")}`;
}

/** A text field with numbers of lines, and marks at those with problems. */
function Editor({ text, onInput, problems, warnings, line }) {
  const field = useRef(null);
  const gutter = useRef(null);
  const lines = useMemo(() => text.split("\n").length, [text]);
  const marks = new Map([
    ...warnings.map((each) => [each.line, "warns"]),
    ...problems.map((each) => [each.line, "fails"]),
  ]);
  useEffect(() => {
    if (line === null) return;
    const before = text.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const end = text.indexOf("\n", before);
    field.current.focus();
    field.current.setSelectionRange(before, end < 0 ? text.length : end);
    field.current.scrollTop = Math.max(0, (line - 5) * LINE_PX);
  }, [line]);
  const scrolled = () => { gutter.current.scrollTop = field.current.scrollTop; };
  return html`<div class="editor">
    <ol class="gutter" ref=${gutter} aria-hidden="true">
      ${Array.from({ length: lines }, (_, n) => html`<li key=${n} class=${marks.get(n + 1) ?? ""}>${n + 1}</li>`)}
    </ol>
    <textarea ref=${field} class="code" value=${text} aria-label="Text of the configuration file"
      spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off"
      aria-invalid=${problems.length ? "true" : undefined}
      onInput=${(event) => onInput(event.target.value)} onScroll=${scrolled}></textarea>
  </div>`;
}

function Problems({ problems, warnings }) {
  if (!problems.length && !warnings.length) return null;
  const shown = [...problems.map((each) => ({ ...each, tone: "bad" })),
    ...warnings.map((each) => ({ ...each, tone: "busy" }))];
  return html`<ul class="rows" aria-label="Mistakes and warnings">
    ${shown.map(({ line, where, message, tone }, n) => html`<li key=${n}>
      <${Badge} tone=${tone}>${tone === "bad" ? "Mistake" : "Warning"}<//>
      ${line !== null && html`<a href=${routeTo("config", "", { tab: "file", line })}>Line ${line}</a>`}
      <span class="name">${where && html`<code>${where}</code> `}${message}</span></li>`)}
  </ul>`;
}

// --- Settings --------------------------------------------------------------------------

const SOURCES = {
  file: "this table",
  default_spawn: "[default_spawn]",
  router: "[router]",
  found: "found by a scan",
  learned: "learned from earlier loads",
  command_line: "command line",
  default: "default",
};

function Settings({ model }) {
  const models = useStore((state) => state.models);
  const reloaded = useStore((state) => state.router?.reload.at);
  const [origins, setOrigins] = useState(null);
  const [trouble, setTrouble] = useState(null);
  const [query, setQuery] = useState("");
  const [own, setOwn] = useState("all");
  useEffect(() => {
    const end = new AbortController();
    call("/admin/config/origins", { query: { model: model || null }, signal: end.signal })
      .then((found) => {
        setOrigins(found);
        setTrouble(null);
      }, (error) => { if (error.name !== "AbortError") setTrouble(error.message); });
    return () => end.abort();
  }, [model, reloaded]);
  const options = [{ value: "", label: "The router" },
    ...models.map(({ id }) => ({ value: id, label: id }))];
  const shown = (origins?.settings ?? []).filter(({ key, source }) => key.includes(query.trim())
    && (own === "all" || source !== "default"));
  return html`<div class="toolbar">
      <${Select} aria-label="Settings of" value=${model} options=${options}
        onChange=${(name) => { location.hash = routeTo("config", name, { tab: "settings" }); }} />
      <${Search} label="Search for a setting" value=${query} onInput=${setQuery} />
      <${Segmented} label="Which settings" value=${own} onChange=${setOwn} options=${[
        { value: "all", label: "All" }, { value: "own", label: "Not defaults" }]} />
    </div>
    ${trouble ? html`<${Notice} tone="bad">${trouble}<//>`
      : !origins ? html`<${Skeleton} lines=${6} />`
      : shown.length === 0 ? html`<${Empty} icon="config" title="No setting fits">
        ${own === "own" ? "Everything here has its default." : "No key has these letters."}<//>`
      : html`<div class="table-frame"><table aria-label="Settings">
        <thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col">From</th></tr></thead>
        <tbody>${shown.map(({ table, key, value, source, name, line }) => html`
          <tr key=${`${table}.${key}`}><th scope="row"><code>${table === "scheduler" ? `scheduler.${key}` : key}</code></th>
            <td><code class="value" title=${said(value)}>${said(value)}</code></td>
            <td class=${source === "default" ? "quiet" : ""}>${
              source === "template" ? `template ${name}` : SOURCES[source] ?? source}${
              line !== null ? html`, <a href=${routeTo("config", "", { tab: "file", line })}>line ${count(line)}</a>` : ""}</td>
          </tr>`)}</tbody></table></div>`}`;
}

function said(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value) && value.every((each) => typeof each === "string")) {
    return value.length ? value.map((word) => (/\s/.test(word) ? JSON.stringify(word) : word)).join(" ") : "[]";
  }
  return typeof value === "string" ? value : JSON.stringify(value);
}
