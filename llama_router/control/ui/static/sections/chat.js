// Chat UI: the page of llama.cpp, out of a running backend, in a frame; else models to start.

import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { address, call } from "../api.js";
import { Badge, Button, Empty, Notice, Progress, Search, Skeleton } from "../components.js";
import { Icon } from "../icons.js";
import { load } from "../model_actions.js";
import { hasFailed, loadText, matches, onlyOf, phaseOf } from "../model_row.js";
import { routeTo } from "../route.js";
import { useNow, useStore } from "../store.js";

/** How often the address of the page in the frame is looked at, in milliseconds. */
const LOOK_MS = 1000;

/** Most models that are offered at once; a search finds the others. */
const OFFERED = 50;

export default function Chat({ route }) {
  const ready = useStore((state) => state.models
    .filter(({ phase }) => phase === "ready").map(({ id }) => id).join("\n"));
  const [found, setFound] = useState(null);
  const [origin, setOrigin] = useState(null);
  const [failed, setFailed] = useState(null);
  const [shown, setShown] = useState(false);
  useEffect(() => {
    if (shown) return undefined; // it copes with a backend that leaves
    const end = new AbortController();
    call("/", { query: { chat: 1 }, headers: { accept: "application/json" }, signal: end.signal })
      .then(({ chat_ui: there, pages_origin: elsewhere }) => {
        setFound(there);
        setOrigin(elsewhere);
        setFailed(null);
        if (there && !elsewhere) setShown(true);
      }, (error) => error.name !== "AbortError" && setFailed(error));
    return () => end.abort();
  }, [ready, shown]);
  if (shown) return html`<${Frame} conversation=${route.argument} />`;
  return html`<h1>Chat UI of llama.cpp</h1>
    ${failed ? html`<${Notice} tone="bad">${failed.message}<//>`
      : found === null ? html`<${Skeleton} label="Looking for the chat UI" />`
      : found ? html`<${Elsewhere} origin=${origin} />`
      : html`<${Chooser} />`}`;
}

/** Where the page is, if pages of backends have an origin of their own: out of reach of this one. */
function Elsewhere({ origin }) {
  return html`<${Empty} icon="chat" title="The chat UI has a tab of its own" action=${html`
    <a class="button primary" href=${`${origin}/index.html`} target="_blank" rel="noopener">
      <${Icon} name="out" size=${16} /><span>Open the chat UI</span></a>`}>
    Pages of backends are at <span class="name">${origin}</span>, apart from this dashboard, as${" "}
    <code>router.pages_origin</code> says.<//>`;
}

/** The page itself. What conversation it shows is kept in the address, for a reload. */
function Frame({ conversation }) {
  const own = useRef(null);
  const source = useMemo(() => `${address("/index.html")}#/${
    conversation ? `chat/${encodeURIComponent(conversation)}` : ""}`, []);
  useEffect(() => {
    const timer = setInterval(() => {
      const hash = own.current?.contentWindow?.location.hash ?? "";
      const id = hash.match(/^#\/chat\/([^/?]+)/)?.[1] ?? "";
      const address_ = routeTo("chat", decodeURIComponent(id));
      if (location.hash.startsWith("#/chat") && location.hash !== address_) {
        history.replaceState(null, "", address_);
      }
    }, LOOK_MS);
    return () => clearInterval(timer);
  }, []);
  return html`<h1 class="off-screen">Chat UI of llama.cpp</h1>
    <iframe ref=${own} class="chat-frame" title="Chat UI of llama.cpp" src=${source}
      allow="microphone; clipboard-write"></iframe>`;
}

function Chooser() {
  const all = useStore((state) => state.models);
  const models = all.filter((row) => !onlyOf(row));
  const [search, setSearch] = useState("");
  const moving = models.some(({ phase }) => phase === "starting");
  useNow(moving ? 1 : 60);
  const running = models.filter(({ phase }) => phase === "ready").map(({ id }) => id);
  if (!models.length) {
    return html`<${Empty} icon="models" title=${all.length ? "No model chats" : "No models yet"} action=${html`
      <a class="button primary" href=${routeTo("hub")}>Get models</a>`}>
      The page comes out of a running model; there is none to start.<//>`;
  }
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const fitting = models.filter((row) => matches(row, words));
  return html`
    <p class="quiet">${running.length
      ? `Running without a page of its own: ${running.slice(0, 5).join(", ")}. `
      : "llama-server brings this page with it, and no model runs. "}
      Start a model, and the page opens here.</p>
    ${models.length > 8 && html`<div class="toolbar"><${Search} label="Search models" value=${search}
      onInput=${setSearch} /></div>`}
    <ul class="rows" aria-label="Models to start">
      ${fitting.slice(0, OFFERED).map((row) => html`<${Offer} key=${row.id} row=${row} />`)}
    </ul>
    ${fitting.length > OFFERED && html`<p class="quiet">${fitting.length - OFFERED} more: search
      for one.</p>`}`;
}

function Offer({ row }) {
  const { word, tone } = phaseOf(row);
  const starting = row.phase === "starting";
  return html`<li>
    <span class="name" dir="auto">${row.id}</span>
    <${Badge} tone=${tone} title=${row.last_error?.message}>${word}<//>
    ${starting && html`<span class="quiet">${loadText(row)}</span>`}
    <${Button} kind=${hasFailed(row) ? "plain" : "primary"} small icon="play"
      label=${`Start ${row.id}`} busy=${starting} disabled=${row.phase === "ready"}
      onClick=${() => load(row)}>Start<//>
    ${starting && html`<div class="whole-line"><${Progress} value=${row.load_progress}
      label=${`Load of ${row.id}`} /></div>`}
  </li>`;
}
