// Models: what each one does, and what can be done with it.

import { Component, html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState }
  from "../lib.js";
import { address, sentence } from "../api.js";
import { Badge, Button, CopyButton, Empty, Notice, Progress, Search, Segmented, Select, Skeleton, Table,
  useWindow } from "../components.js";
import { bytes, count, mib, plural, tokens } from "../format.js";
import { Icon } from "../icons.js";
import { FailureDialog, MainAction, pin } from "../model_actions.js";
import { FILTERS, abilitiesOf, contextOf, factsOf, hasFailed, hueOf, isRunning, lastUsed,
  lastUsedText, loadText, matches, memoryOf, memorySum, memoryText, onlyOf, phaseOf, rateOf, reasonOf,
  sourceOf, squeezeOf, ttlText } from "../model_row.js";
import { routeTo, useChoice } from "../route.js";
import { SettingsDialog } from "./model_settings.js";
import { useNow, useStore } from "../store.js";

/** Least width of a card and its height, and the space around it, in pixels. */
const CARD = { width: 320, height: 236, gap: 16 };

const ORDERS = [
  { value: "file", label: "As configured" },
  { value: "name", label: "By name" },
  { value: "used", label: "Last used first" },
  { value: "memory", label: "Largest first" },
];

export default function Models({ route }) {
  const models = useStore((state) => state.models);
  const known = useStore((state) => state.router !== null || state.session.scope === "models");
  const admin = useStore((state) => state.session.scope !== "models");
  const reload = useStore((state) => state.router?.reload);
  const [view, setView] = useChoice("models.view", "cards");
  const [order, setOrder] = useChoice("models.order", "file");
  const [filter, setFilter] = useState("all");
  const [search, setSearch] = useState(route.argument);
  const [open, setOpen] = useState(null);
  useEffect(() => setSearch(route.argument), [route.argument]);

  const counts = useMemo(() => Object.fromEntries(
    FILTERS.map(({ value, has }) => [value, models.filter(has).length])), [models]);
  const shown = useMemo(() => {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const { has } = FILTERS.find(({ value }) => value === filter);
    return inOrder(models.filter((row) => has(row) && matches(row, words)), order);
  }, [models, search, filter, order]);
  const moving = models.some(({ phase }) => phase === "starting" || phase === "backoff");
  useNow(moving ? 1 : 10);
  const show = useCallback((what, id) => setOpen({ what, id }), []);
  const close = useCallback(() => setOpen(null), []);
  const opened = open && models.find(({ id }) => id === open.id);

  if (!known) return html`<h1>Models</h1><${Skeleton} label="Loading models" lines=${4} />`;
  return html`
    <div class="section-head">
      <h1>Models</h1>
      ${models.length > 0 && html`<${Address} />`}
      ${models.length > 0 && html`<${Segmented} label="View" value=${view} onChange=${setView} options=${[
        { value: "cards", label: "Cards", icon: "cards" },
        { value: "table", label: "Table", icon: "table" }]} />`}
    </div>
    ${reload?.status === "rejected" && html`<${Notice} tone="bad" title="router.toml has mistakes."
      action=${html`<a class="button plain small" href=${routeTo("config")}>Show them</a>`}>
      The settings from before are still in force.<//>`}
    ${models.length > 0 && html`<div class="toolbar">
      <${Search} label="Search models" value=${search} onInput=${setSearch} />
      <${Segmented} label="Show" value=${filter} onChange=${setFilter}
        options=${FILTERS.filter(({ value }) => value === "all" || counts[value] || value === filter)
          .map(({ value, label }) => ({ value,
            label: html`${label}<small>${count(counts[value])}</small>` }))} />
      ${view === "cards" && html`<${Select} aria-label="Order" value=${order} onChange=${setOrder}
        options=${ORDERS} />`}
    </div>`}
    ${models.length === 0 ? html`<${NoModels} />`
      : shown.length === 0 ? html`<${Empty} icon="search" title="No model fits" action=${html`
          <${Button} onClick=${() => { setSearch(""); setFilter("all"); }}>Show all<//>`}>
          None of the ${plural(models.length, "model")} fits the search and the filter.<//>`
      : view === "cards" ? html`<${Cards} rows=${shown} show=${show} admin=${admin} />`
      : html`<${ModelTable} rows=${shown} show=${show} admin=${admin} />`}
    ${opened && open.what === "failure" && opened.last_error
      && html`<${FailureDialog} row=${opened} onClose=${close} />`}
    ${opened && open.what === "settings"
      && html`<${SettingsDialog} row=${opened} onClose=${close} />`}`;
}

function inOrder(rows, order) {
  if (order === "name") {
    return rows.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  }
  if (order === "used") return rows.sort((a, b) => (lastUsed(b) ?? 0) - (lastUsed(a) ?? 0));
  if (order === "memory") return rows.sort((a, b) => (memorySum(b) ?? 0) - (memorySum(a) ?? 0));
  return rows;
}

/** What a program is to be told, so that it uses the models. */
function Address() {
  const base = new URL(address("/v1"), location.href).href;
  return html`<p class="api-address quiet"><span>API for programs</span> <code>${base}</code>
    <${CopyButton} small kind="quiet" label="Copy the address of the API" text=${base}>${null}<//></p>`;
}

function NoModels() {
  return html`<${Empty} icon="models" title="No models yet" action=${html`
    <a class="button primary" href=${routeTo("hub")}><${Icon} name="hub" /><span>Get models</span></a>`}>
    <p>GGUF files in the caches of llama.cpp and Hugging Face are found by themselves. Fetch one from
      the hub, or add a <code>[models.NAME]</code> table to <code>router.toml</code>.</p>
  <//>`;
}

// --- Cards -----------------------------------------------------------------------------

/** Cards of one size in as many columns as fit; only those in view are in the page. */
function Cards({ rows, show, admin }) {
  const frame = useRef(null);
  const [columns, setColumns] = useState(1);
  useLayoutEffect(() => {
    const measure = () => setColumns(Math.max(1,
      Math.floor((frame.current.clientWidth + CARD.gap) / (CARD.width + CARD.gap))));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);
  const lines = Math.ceil(rows.length / columns);
  const lineHeight = CARD.height + CARD.gap;
  const { first, last } = useWindow(frame, lines, lineHeight);
  const now = Math.floor(Date.now() / 1000);
  return html`<div ref=${frame} style=${{ height: `${lines * lineHeight - CARD.gap}px` }}>
    <ul class="cards" aria-label="Models" style=${{
      gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))`,
      transform: `translateY(${first * lineHeight}px)` }}>
      ${rows.slice(first * columns, last * columns).map((row, at) => html`<${Card} key=${row.id}
        row=${row} now=${now} show=${show} admin=${admin}
        place=${first * columns + at + 1} total=${rows.length} />`)}
    </ul>
  </div>`;
}

class Card extends Component {
  shouldComponentUpdate(next) {
    const { row, now, place, total, admin } = this.props;
    return next.row !== row || next.now !== now || next.place !== place || next.total !== total
      || next.admin !== admin;
  }

  render({ row, show, admin, place, total }) {
    const { word, tone } = phaseOf(row);
    const facts = factsOf(row);
    return html`<li class=${`card model ${isRunning(row) ? "running" : ""}`} aria-posinset=${place}
      aria-setsize=${total} aria-label=${row.id}>
      <div class="model-head">
        <h2 class="name" title=${row.id} dir="auto">${row.id}</h2>
        <${Badge} tone=${tone}>${word}<//>
      </div>
      <p class="quiet facts" title=${facts.join(" · ")}>${facts.join(" · ") || "\u00a0"}</p>
      <${Memory} row=${row} />
      <${Abilities} row=${row} />
      <div class="model-middle"><${Middle} row=${row} show=${show} /></div>
      <${Actions} row=${row} show=${show} admin=${admin} />
    </li>`;
  }
}

function Memory({ row }) {
  const parts = memoryOf(row);
  if (!parts.length) return html`<p class="quiet facts">${"\u00a0"}</p>`;
  const running = isRunning(row);
  const source = sourceOf(row);
  return html`<p class="facts memory" title=${[memoryText(row), source].filter(Boolean).join(", ")}>
    <span class=${`dot ${running ? hueOf(row.id) : ""}`}></span>
    ${running ? "" : "takes "}${memoryText(row)}
    ${source && html`<span class="quiet"> ${source}</span>`}</p>`;
}

/** What a model can do, and its other names. */
function Abilities({ row }) {
  const others = row.aliases?.length ? `also ${row.aliases.join(", ")}` : "";
  return html`<div class="abilities">
    ${abilitiesOf(row).map(({ key, word, about }) => html`<span key=${key} class="ability"
      title=${about}>${word}</span>`)}
    ${others && html`<span class="quiet facts" title=${others} dir="auto">${others}</span>`}</div>`;
}

/** The part of a card that depends on what the model does. */
function Middle({ row, show }) {
  if (row.phase === "starting") {
    return html`<p class="clamp">${row.waits_for ?? "Loading"}</p>
      <${Progress} value=${row.load_progress} label=${`Load of ${row.id}`} />
      <p class="quiet small-text">${loadText(row) || "\u00a0"}</p>`;
  }
  if (hasFailed(row)) {
    return html`<p class="clamp bad-text">${sentence(row.last_error?.message ?? "Its last start failed")}</p>
      <p class="small-text">${reasonOf(row)} ${row.last_error && html`<button type="button"
        class="link" onClick=${() => show("failure", row.id)}>Why it failed</button>`}</p>`;
  }
  const reason = reasonOf(row);
  if (!isRunning(row) && reason) return html`<p class="clamp">${reason}</p>`;
  const note = reason || squeezeOf(row) || ttlText(row);
  return html`<dl class="figures">
      ${isRunning(row) && html`<div><dt>Running</dt><dd>${row.in_flight}</dd></div>
        <div><dt>Waiting</dt><dd>${row.queued}</dd></div>
        <${Rate} row=${row} />`}
      <div><dt>Last used</dt><dd>${lastUsed(row) === null ? "Not yet" : lastUsedText(row)}</dd></div>
    </dl>
    ${note && html`<p class="quiet small-text facts" title=${note}>${note}</p>`}`;
}

function Rate({ row }) {
  const { text, about, past } = rateOf(row);
  return html`<div title=${about}><dt>Tokens/s</dt><dd class=${past ? "quiet" : ""}>${text}</dd></div>`;
}

/** Leads to the place to try a model: each kind has its own. */
function TryLink({ row }) {
  const only = onlyOf(row);
  const word = only ? "Try" : "Chat";
  return html`<a class="button plain small" aria-label=${`${word}: ${row.id}`}
    href=${routeTo("playground", row.id, { tab: TABS[only] ?? null })}>
    <${Icon} name=${only ? "playground" : "chat"} size=${16} /><span>${word}</span></a>`;
}

/** The tabs of the playground for models that do one thing only. */
const TABS = { embedding: "embeddings", rerank: "rerank" };

function Actions({ row, show, admin, bare }) {
  return html`<div class="model-actions">
    <${MainAction} row=${row} bare=${bare} />
    ${!bare && !hasFailed(row) && html`<${TryLink} row=${row} />`}
    <span class="end">
      ${admin && row.keep_loaded !== undefined && html`<span class=${bare ? "at-m" : ""}>
        <${Button} kind="quiet" small icon="pin"
        aria-pressed=${row.keep_loaded ? "true" : "false"}
        label=${row.keep_loaded ? `Let ${row.id} be unloaded` : `Keep ${row.id} loaded`}
        onClick=${() => pin(row, !row.keep_loaded)} /></span>`}
      ${admin && html`<a class=${`button quiet small icon-only ${bare ? "at-m" : ""}`}
        href=${routeTo("logs", row.id)} aria-label=${`Logs of ${row.id}`} title="Logs"><${Icon} name="logs" size=${16} /></a>`}
      ${admin && html`<${Button} kind="quiet" small icon="gear" label=${`Settings of ${row.id}`}
        onClick=${() => show("settings", row.id)} />`}
    </span>
  </div>`;
}

// --- Table -----------------------------------------------------------------------------

const COLUMNS = [
  { key: "id", head: "Model", align: "stays-left", value: (row) => row.id,
    cell: (row) => html`<span class="name one-line" title=${row.id} dir="auto">${row.id}</span>` },
  { key: "phase", head: "State", value: (row) => phaseOf(row).word, cell: (row, { show }) => {
    const { word, tone } = phaseOf(row);
    const said = row.phase === "starting" ? loadText(row) : reasonOf(row);
    return html`<${Badge} tone=${tone} title=${said || row.last_error?.message}>${word}<//>
      ${row.phase === "starting" && html` <span class="quiet">${loadText(row)}</span>`}
      ${hasFailed(row) && row.last_error && html` <button type="button" class="link"
        onClick=${() => show("failure", row.id)}>Why</button>`}`;
  } },
  { key: "quantization", head: "Quantisation", align: "at-l", value: (row) => row.quantization,
    cell: (row) => row.quantization ?? "–" },
  { key: "size", head: "Size", align: "right at-m", value: (row) => row.size_bytes,
    cell: (row) => bytes(row.size_bytes) },
  { key: "context", head: "Context", align: "right at-l", value: contextOf,
    cell: (row) => tokens(contextOf(row)) },
  { key: "memory", head: "Memory", align: "right at-m", value: memorySum, cell: (row) => html`
    <span title=${[memoryText(row), sourceOf(row)].filter(Boolean).join(", ")}
      class=${isRunning(row) ? "" : "quiet"}>${mib(memorySum(row))}</span>` },
  { key: "requests", head: "Requests", align: "right at-m", value: (row) => row.in_flight + row.queued,
    cell: (row) => html`<span title=${row.waits_for}>${[row.in_flight || "",
      row.queued ? `${row.queued} waiting` : ""].filter(Boolean).join(" + ") || "–"}</span>` },
  { key: "rate", head: "Tokens/s", align: "right at-m", value: (row) => row.tokens_per_s ?? row.last_tokens_per_s,
    cell: (row) => {
      const { text, about, past } = rateOf(row);
      return html`<span class=${past ? "quiet" : ""} title=${about}>${text}</span>`;
    } },
  { key: "used", head: "Last used", align: "right at-l", value: lastUsed,
    cell: (row) => html`<span title=${ttlText(row)}>${lastUsedText(row)}</span>` },
  { key: "actions", head: "", align: "stays-right", cell: (row, { show, admin }) => html`
    <${Actions} row=${row} show=${show} admin=${admin} bare />` },
];

function ModelTable({ rows, show, admin }) {
  const [sort, setSort] = useChoice("models.sort", null);
  const now = Math.floor(Date.now() / 1000);
  const context = useMemo(() => ({ show, admin, now }), [show, admin, now]);
  return html`<${Table} label="Models" columns=${COLUMNS} rows=${rows} rowKey=${({ id }) => id}
    sort=${sort} onSort=${setSort} context=${context} />`;
}
