// Get models: GGUF repositories of the hub, what fits this machine, and downloads.

import { html, useEffect, useState } from "../lib.js";
import { ApiError, call, request, sentence } from "../api.js";
import { Badge, Button, Dialog, Empty, Field, Notice, Progress, Search, Select, Skeleton, confirm,
  toast } from "../components.js";
import { bytes, date, duration, mib, percent, plural } from "../format.js";
import { routeTo } from "../route.js";
import { useStore } from "../store.js";

/** Pause after the last key before the hub is asked, in milliseconds. */
const PAUSE_MS = 350;

const SORTS = [
  { value: "trendingScore", label: "Trending" },
  { value: "downloads", label: "Most downloaded" },
  { value: "likes", label: "Most liked" },
  { value: "lastModified", label: "Latest" },
];

const FITS = {
  gpu: ["Fits a GPU", "good"],
  gpus: ["Fits the GPUs together", "good"],
  gpu_and_host: ["Partly on the GPU", "busy"],
  host: ["Fits the memory", "good"],
  none: ["Too large", "bad"],
};

export default function Hub({ route }) {
  return html`<div class="section-head"><h1>Get models</h1><${ByName} /></div>
    <${Downloads} />
    <${Find} query=${route.params.get("q") ?? ""} sort=${route.params.get("sort") ?? "downloads"} />
    ${route.argument && html`<${Repository} id=${route.argument}
      onClose=${() => { location.hash = routeTo("hub", "", Object.fromEntries(route.params)); }} />`}`;
}

async function fetchModel(reference) {
  const { requested } = await call("/admin/models/download", { body: { model: reference } });
  toast(`The download of ${requested} has begun.`);
}

/** A field for a name that is known already. */
function ByName() {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState("");
  const [error, setError] = useState("");
  const begin = async () => {
    try {
      await fetchModel(name.trim());
      setOpen(false);
      setName("");
      setError("");
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure.message);
    }
  };
  return html`<${Button} icon="hub" onClick=${() => setOpen(true)}>By name<//>
    ${open && html`<${Dialog} title="Download by name" onClose=${() => setOpen(false)} footer=${html`
      <${Button} onClick=${() => setOpen(false)}>Cancel<//>
      <${Button} kind="primary" disabled=${!name.trim()} onClick=${begin}>Download<//>`}>
      <${Field} label="Name" error=${error} hint="user/repo, or user/repo:QUANT">
        ${(rest) => html`<input value=${name} spellcheck="false" autocapitalize="off"
          onInput=${(event) => setName(event.target.value)}
          onKeyDown=${(event) => { if (event.key === "Enter" && name.trim()) begin(); }} ...${rest} />`}<//>
    <//>`}`;
}

// --- Downloads -------------------------------------------------------------------------

function Downloads() {
  const rows = useStore((state) => state.downloads);
  if (!rows.length) return null;
  const live = (row) => row.state === "running" || row.state === "queued";
  const shown = [...rows].reverse().sort((a, b) => live(b) - live(a)).slice(0, 8);
  return html`<section class="stack" aria-label="Downloads"><h2>Downloads</h2>
    <ul class="rows">${shown.map((row) => html`<${Download} key=${row.id} row=${row} />`)}</ul></section>`;
}

function Download({ row }) {
  const { state } = row;
  const cancel = () => request(`/admin/downloads/${row.id}`, { method: "DELETE" });
  return html`<li class="download">
    <span class="name" dir="auto">${row.model ?? row.requested}</span>
    <span class="quiet">${saidOf(row)}</span>
    ${state === "running" || state === "queued"
      ? html`<${Button} small icon="close" onClick=${cancel}>Cancel<//>`
      : state === "done" ? html`<${Badge} tone="good">Here<//>
        ${row.model && html`<a class="button small plain" href=${routeTo("playground", row.model)}>Try it</a>`}`
      : html`<${Button} small icon="refresh" onClick=${() => fetchModel(row.requested)}>Resume<//>`}
    ${state === "running" && html`<${Progress} label=${`Download of ${row.requested}`}
      value=${row.total_bytes ? row.done_bytes / row.total_bytes : null} />`}
    ${row.error && html`<p class="bad-text whole-line">${sentence(row.error.message)}</p>`}
  </li>`;
}

function saidOf(row) {
  switch (row.state) {
    case "queued": return "Waits for its turn";
    case "running": {
      if (row.note) return row.note;
      if (!row.total_bytes) return "Asks the hub";
      return [`${percent(row.done_bytes / row.total_bytes)} of ${bytes(row.total_bytes)}`,
        row.bytes_per_s && `${bytes(row.bytes_per_s)}/s`,
        row.left_s !== null && `${duration(row.left_s)} left`].filter(Boolean).join(" · ");
    }
    case "done": return bytes(row.total_bytes);
    case "cancelled": return `Cancelled at ${bytes(row.done_bytes)}; what is here is kept`;
    default: return "Failed";
  }
}

// --- Search ----------------------------------------------------------------------------

function Find({ query, sort }) {
  const [text, setText] = useState(query);
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    const end = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const answer = await call("/admin/hub/search",
          { query: { q: text.trim(), sort }, signal: end.signal });
        setFound(answer);
        setError(null);
      } catch (failure) {
        if (failure.name === "AbortError") return;
        if (!(failure instanceof ApiError)) throw failure;
        setError(failure.message);
      }
    }, found === null ? 0 : PAUSE_MS);
    history.replaceState(null, "", routeTo("hub", "", { q: text, sort }));
    return () => {
      clearTimeout(timer);
      end.abort();
    };
  }, [text, sort, asked]);
  return html`<section class="stack" aria-label="Models of the hub">
    <div class="toolbar"><${Search} label="Search the hub for GGUF models" value=${text} onInput=${setText} />
      <${Select} aria-label="Order" value=${sort} options=${SORTS}
        onChange=${(value) => { location.hash = routeTo("hub", "", { q: text, sort: value }); }} /></div>
    ${error ? html`<${Notice} tone="bad" title="The hub cannot be searched."
        action=${html`<${Button} small onClick=${() => setAsked(asked + 1)}>Try again<//>`}>${error}<//>`
      : found === null ? html`<${Skeleton} lines=${5} label="Asking the hub" />`
      : found.repositories.length === 0 ? html`<${Empty} icon="search" title="Nothing found">
        No repository with GGUF files has these words.<//>`
      : html`<ul class="rows" aria-label="Repositories">${found.repositories.map((repo) => html`
        <li key=${repo.id}><a class="name" href=${routeTo("hub", repo.id, { q: text, sort })}
            dir="auto">${repo.id}</a>
          ${repo.gated && html`<${Badge} tone="busy" title="Its owner lets people in first">Gated<//>`}
          ${repo.is_here && html`<${Badge} tone="good" title="Something of it is in the cache">Here<//>`}
          <span class="quiet">${[
            repo.downloads !== null && plural(repo.downloads, "download"),
            repo.likes !== null && plural(repo.likes, "like"),
            repo.modified_at && date(Date.parse(repo.modified_at) / 1000),
          ].filter(Boolean).join(" · ")}</span></li>`)}</ul>`}
  </section>`;
}

/** One repository: its quantizations, their sizes, and where they fit. */
function Repository({ id, onClose }) {
  const [repo, setRepo] = useState(null);
  const [error, setError] = useState(null);
  const fetched = useStore((state) => state.downloads.filter(({ state: each }) => each === "done").length);
  const served = useStore((state) => state.models.length); // one less after a deletion
  useEffect(() => {
    const end = new AbortController();
    call("/admin/hub/repo", { query: { id }, signal: end.signal }).then(setRepo, (failure) => {
      if (failure.name !== "AbortError") setError(failure);
    });
    return () => end.abort();
  }, [id, fetched, served]);
  return html`<${Dialog} wide title=${id} onClose=${onClose}>
    ${error ? html`<${Notice} tone="bad">${error.message}<//>`
      : !repo ? html`<${Skeleton} lines=${4} label="Asking the hub" />`
      : html`${repo.gated && html`<${Notice} tone="busy" title="This repository is gated.">
          Accept its conditions on its page at the hub, and give the router your token.<//>`}
        ${repo.models.length === 0 ? html`<${Empty} icon="hub" title="Nothing to run">${repo.note}<//>`
          : html`<ul class="rows" aria-label="Quantizations">${repo.models.map((model) => html`
            <${Model} key=${model.reference} model=${model} free=${repo.free_bytes} />`)}</ul>`}
        <p class="quiet">${bytes(repo.free_bytes)} are free on the disk of
          ${" "}<code>${repo.cache}</code>. Whether a model fits is estimated for 8,192 tokens of context,
          with nothing else loaded.</p>`}
  <//>`;
}

function Model({ model, free }) {
  const { label, reference, fit } = model;
  const running = useStore((state) => state.downloads.find((row) =>
    row.requested === reference && (row.state === "running" || row.state === "queued")));
  const [word, tone] = FITS[fit.where] ?? [fit.where, "quiet"];
  const sizeBytes = model.size_bytes + model.mmproj_bytes;
  const full = !model.is_here && sizeBytes - model.here_bytes > free;
  const remove = async () => {
    const sure = await confirm({ title: `Delete ${reference}?`, danger: true, action: "Delete",
      text: `It frees ${bytes(sizeBytes)}. Requests that it serves are finished first.` });
    if (!sure) return;
    const { freed_bytes: freed } = await call("/admin/models",
      { method: "DELETE", query: { model: model.model ?? reference } });
    toast(`${reference} is deleted; ${bytes(freed)} are free again.`);
  };
  return html`<li><span class="name">${label}
      <span class="quiet">${[
        model.is_default && "the default",
        model.files.length > 1 && plural(model.files.length, "file"),
        model.mmproj && "sees pictures",
      ].filter(Boolean).map((each) => ` · ${each}`).join("")}</span></span>
    <${Badge} tone=${tone} title=${`Needs ${mib(fit.need_mib)}${
      fit.devices.length ? ` on ${fit.devices.join(", ")}` : ""}`}>${word}<//>
    <span class="quiet">${bytes(sizeBytes)}</span>
    ${running ? html`<span class="quiet">${running.total_bytes
        ? percent(running.done_bytes / running.total_bytes) : "Begins"}</span>`
      : model.is_here ? html`<${Badge} tone="good">Here<//>
        ${model.model && html`<a class="button small plain" href=${routeTo("playground", model.model)}>Try it</a>`}
        <${Button} small kind="danger" icon="trash" label=${`Delete ${reference}`} onClick=${remove} />`
      : html`<${Button} small icon="hub" disabled=${full} title=${full ? "The disk has no room for it" : undefined}
        label=${`Download ${reference}`} onClick=${() => fetchModel(reference)}>${
          model.here_bytes ? "Go on" : "Download"}<//>`}
  </li>`;
}
