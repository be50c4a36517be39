// Activity: requests, live and past.

import { html, useEffect, useMemo, useState } from "../lib.js";
import { address, call } from "../api.js";
import { Badge, Button, CopyButton, Dialog, Empty, Notice, Search, Segmented, Skeleton, Table, toast,
  toastError } from "../components.js";
import { clock, count, cut, date, duration, plural, rate, bytes } from "../format.js";
import { now_s, store, useNow, useStore } from "../store.js";
import { useChoice } from "../route.js";

/** Words and tones of requests that are not over, and of those that are. */
const STATES = {
  queued: ["Waiting", "busy"],
  loading: ["Loading", "busy"],
  running: ["Running", "good"],
};
const OUTCOMES = {
  ok: ["Done", "quiet"],
  cut: ["Cut", "bad"],
  client_gone: ["Client left", "quiet"],
  refused: ["Refused", "bad"],
};

const FILTERS = [
  { value: "all", label: "All", has: () => true },
  { value: "live", label: "Live", has: (row) => row.state !== "done" },
  { value: "ok", label: "Done", has: (row) => row.outcome === "ok" },
  { value: "bad", label: "Failed", has: isBad },
];

function isBad(row) {
  return row.outcome === "cut" || row.outcome === "refused" || row.status >= 400;
}

function stateOf(row) {
  const [word, tone] = (row.state === "done" ? OUTCOMES[row.outcome] : STATES[row.state])
    ?? [row.outcome ?? row.state, "quiet"];
  return row.outcome === "ok" && row.status >= 400
    ? { word: `Status ${row.status}`, tone: "bad" } : { word, tone };
}

/** Return how long a request takes or took, in seconds. */
function tookOf(row) {
  return row.state === "done" ? row.duration_s : row.duration_s + now_s() - row.received_s;
}

const COLUMNS = [
  { key: "began_at", head: "Began", align: "at-m", value: (row) => row.began_at, cell: (row) => html`
    <span title=${date(row.began_at)}>${clock(row.began_at)}</span>` },
  { key: "state", head: "State", value: (row) => stateOf(row).word, cell: (row) => {
    const { word, tone } = stateOf(row);
    return html`<${Badge} tone=${tone} title=${row.code}>${word}<//>`;
  } },
  { key: "model", head: "Model", value: (row) => row.model, cell: (row) => html`
    <span class="name one-line medium" title=${row.model} dir="auto">${row.model ?? "–"}</span>` },
  { key: "client", head: "Client", align: "at-m", value: (row) => row.client, cell: (row) => html`
    <span class="one-line short" title=${row.client} dir="auto">${row.client}</span>` },
  { key: "queue_s", head: "Queue", align: "right at-l", value: (row) => row.queue_s,
    cell: (row) => duration(row.queue_s) },
  { key: "load_s", head: "Load", align: "right at-l", value: (row) => row.load_s,
    cell: (row) => (row.load_s ? duration(row.load_s) : "–") },
  { key: "ttft_s", head: html`<abbr title="Time to the first token">TTFT</abbr>`, align: "right at-l",
    value: (row) => row.ttft_s, cell: (row) => duration(row.ttft_s) },
  { key: "took", head: "Took", align: "right", value: tookOf, cell: (row) => duration(tookOf(row)) },
  { key: "prompt", head: html`<abbr title="Tokens of the prompt">In</abbr>`, align: "right at-l",
    value: (row) => row.prompt_tokens, cell: (row) => count(row.prompt_tokens) },
  { key: "completion", head: html`<abbr title="Tokens of the answer">Out</abbr>`,
    align: "right at-m", value: (row) => row.completion_tokens,
    cell: (row) => count(row.completion_tokens) },
  { key: "rate", head: "Tokens/s", align: "right at-m", value: (row) => row.tokens_per_s,
    cell: (row) => rate(row.tokens_per_s) },
  { key: "path", head: "Path", align: "at-xl", value: (row) => row.path, cell: (row) => html`
    <code class="one-line short" title=${`${row.method} ${row.path}`}>${row.path}</code>` },
  { key: "actions", head: "", align: "stays-right", cell: (row, { open }) => html`
    <span class="row-actions">
      ${row.cancel_id !== null && html`<${Button} small kind="quiet" icon="stop"
        label=${`Cancel request ${row.id} to ${row.model}`} onClick=${() => cancel(row)} />`}
      <${Button} small kind="quiet" icon="right" label=${`Details of request ${row.id}`}
        onClick=${() => open(row)} />
    </span>` },
];

async function cancel(row) {
  await call("/admin/requests/cancel", { body: { id: row.cancel_id } });
  toast(`Request ${row.id} is cancelled.`);
}

export default function Activity({ route }) {
  const live = useStore((state) => state.requests);
  const hasPast = useStore((state) => state.hasPast);
  const connected = useStore((state) => state.connection === "live");
  const [paused, setPaused] = useState(null);
  const [filter, setFilter] = useState("all");
  const [search, setSearch] = useState(route.argument);
  const [sort, setSort] = useChoice("activity.sort", { key: "began_at", descending: true });
  const [openId, setOpenId] = useState(null);
  useEffect(() => void (connected && store.wantPast().catch(toastError)), [connected]);

  const requests = paused ?? live;
  const busy = requests.some(({ state }) => state !== "done");
  const now = Math.floor(useNow(busy ? 1 : 60));
  const counts = useMemo(() => Object.fromEntries(
    FILTERS.map(({ value, has }) => [value, requests.filter(has).length])), [requests]);
  const shown = useMemo(() => {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const { has } = FILTERS.find(({ value }) => value === filter);
    return requests.filter((row) => has(row) && fits(row, words));
  }, [requests, search, filter]);
  const context = useMemo(() => ({ open: (row) => setOpenId(row.id), now: busy ? now : 0 }),
    [busy ? now : 0]);
  const opened = openId !== null && requests.find(({ id }) => id === openId);
  const missed = paused ? live.length - paused.length : 0;

  return html`
    <div class="section-head"><h1>Activity</h1>
      <${Button} icon=${paused ? "play" : "pause"} aria-pressed=${paused ? "true" : "false"}
        onClick=${() => setPaused(paused ? null : live)}>
        ${paused ? `Go on${missed > 0 ? `, ${count(missed)} new` : ""}` : "Hold"}<//>
    </div>
    ${requests.length > 0 && html`<div class="toolbar">
      <${Search} label="Search requests" placeholder="Model, client, path, id" value=${search}
        onInput=${setSearch} />
      <${Segmented} label="Show" value=${filter} onChange=${setFilter}
        options=${FILTERS.map(({ value, label }) => ({ value,
          label: html`${label}<small>${count(counts[value])}</small>` }))} />
    </div>`}
    ${requests.length === 0
      ? (hasPast || !connected ? html`<${Empty} icon="activity" title="No requests yet">
          Requests to models appear here as they come, with their wait, their load and their
          tokens.<//>` : html`<${Skeleton} label="Loading requests" />`)
      : shown.length === 0 ? html`<${Empty} icon="search" title="No request fits" action=${html`
          <${Button} onClick=${() => { setSearch(""); setFilter("all"); }}>Show all<//>`}>
          None of the ${plural(requests.length, "request")} fits the search and the filter.<//>`
      : html`<${Table} label="Requests" columns=${COLUMNS} rows=${shown} rowKey=${({ id }) => id}
          sort=${sort} onSort=${setSort} onOpen=${context.open} context=${context} />`}
    ${opened && html`<${Details} row=${opened} onClose=${() => setOpenId(null)} />`}`;
}

function fits(row, words) {
  if (!words.length) return true;
  const text = [row.model, row.client, row.key, row.path, row.request_id, row.code, row.id]
    .join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

// --- One request -----------------------------------------------------------------------

function Details({ row, onClose }) {
  const [capture, setCapture] = useState(null);
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    if (!row.captured) return;
    call(`/admin/activity/${row.id}/capture`).then(setCapture, setFailed);
  }, [row.id, row.captured]);
  const { word, tone } = stateOf(row);
  const facts = [
    ["Model", row.model],
    ["Client", row.key ? `key ${row.key}` : row.client],
    ["Request", `${row.method} ${row.path}`],
    ["Began", date(row.began_at)],
    ["Waited", duration(row.queue_s)],
    ["Load", row.load_s ? duration(row.load_s) : null],
    ["First token after", row.ttft_s === null ? null : duration(row.ttft_s)],
    ["Took", duration(tookOf(row))],
    ["Tokens", row.prompt_tokens === null && row.completion_tokens === null ? null
      : `${count(row.prompt_tokens)} in, ${count(row.completion_tokens)} out`],
    ["Tokens per second", row.tokens_per_s === null ? null : rate(row.tokens_per_s)],
    ["Sent", bytes(row.sent_bytes)],
    ["Status", [row.status, row.code].filter(Boolean).join(" ") || null],
    ["Id", row.request_id],
  ].filter(([, value]) => value);
  return html`<${Dialog} wide title=${`Request ${row.id}`} onClose=${onClose} footer=${html`
    ${row.cancel_id !== null && html`<${Button} kind="danger" icon="stop"
      onClick=${() => cancel(row)}>Cancel it<//>`}
    <${CopyButton} text=${() => curlOf(row, capture)}>Copy as curl<//>`}>
    <p><${Badge} tone=${tone}>${word}<//></p>
    <dl class="facts-list">${facts.map(([name, value]) => html`
      <div key=${name}><dt>${name}</dt><dd>${cut(value, 500)}</dd></div>`)}</dl>
    ${failed && html`<${Notice} tone="bad">${failed.message}<//>`}
    ${capture && html`<${Body} title="What was asked" message=${capture.request} />
      <${Body} title="What was answered" message=${capture.response} />`}
    ${!row.captured && html`<p class="quiet">Bodies are not kept, unless <code>router.capture_mib</code>
      ${" "}says how much memory they may take.</p>`}
  <//>`;
}

/** Longest part of a body that is shown, in characters; the rest can be copied. */
const SHOWN = 20_000;

function Body({ title, message }) {
  const { body: text, base64, is_whole: isWhole } = message;
  if (base64) return html`<p class="quiet">${title}: bytes that are no text.</p>`;
  if (text === null) return html`<p class="quiet">${title}: not kept, it passed as it came.</p>`;
  return html`<section class="stack tight"><div class="section-head"><h3>${title}</h3>
      <${CopyButton} small text=${text} label=${`Copy: ${title}`}>Copy<//></div>
    <pre class="log" tabindex="0" aria-label=${title}>${cut(pretty(text), SHOWN)}</pre>
    ${!isWhole && html`<p class="quiet">A part of it only.</p>`}</section>`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // an event stream, or a part of a body
  }
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return a command that sends the request again; without its body it reads one from a file. */
export function curlOf(row, capture) {
  const parts = [`curl -N ${quoted(new URL(address(row.path), location.href).href)}`];
  if (row.method !== "GET" && row.method !== "POST") parts.push(`-X ${row.method}`);
  if (row.key) parts.push("-H \"Authorization: Bearer $API_KEY\"");
  if (row.method === "POST") {
    parts.push("-H 'Content-Type: application/json'");
    const body = capture?.request.is_whole ? capture.request.body : null;
    parts.push(body ? `-d ${quoted(body)}` : "-d @body.json");
  }
  return parts.join(" \\\n  ");
}
