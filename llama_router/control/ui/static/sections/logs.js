// Logs: the output of a model's backends, and the router's own log, as they come.

import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { ApiError, address, encodeName, pieces, request, sentence } from "../api.js";
import { parts, plain } from "../ansi.js";
import { Badge, Button, Check, CopyButton, Dialog, Empty, Search, Select, Skeleton, useWindow }
  from "../components.js";
import { count, cut, plural } from "../format.js";
import { routeTo, useChoice } from "../route.js";
import { useStore } from "../store.js";

/** Lines that are kept. */
const KEPT = 10_000;

/** Lines of the past that are asked for. */
const TAIL = 2000;

/** Characters of a line that are shown in the list; the whole line opens in a dialog. */
const SHOWN_CHARACTERS = 2000;

/** Height of a line, as in the style sheet. */
const LINE_PX = 20;

const RETRY_MS = 1500;

/** The choice of the router's own log; no model can have this name. */
const ROUTER = "";

const LEVELS = ["debug", "info", "warning", "error"];

/** Words by which the usual programs mark a line as an error or a warning. */
const ERROR = /^[\d.]+ E |\b(?:ERROR|CRITICAL|FATAL)\b|^(?:\([^)]*\) )?(?:error:|Traceback )/;
const WARNING = /^[\d.]+ W |\bWARN(?:ING)?\b|^warning:/;

export default function Logs({ route }) {
  const models = useStore((state) => state.models);
  const names = useMemo(() => models.map(({ id }) => id).sort((a, b) => a.localeCompare(b)), [models]);
  const source = route.argument || ROUTER;
  const [level, setLevel] = useChoice("logs.level", "info");
  const [query, setQuery] = useState("");
  const [wrap, setWrap] = useChoice("logs.wrap", false);
  const options = [{ value: ROUTER, label: "The router" },
    ...names.map((name) => ({ value: name, label: name })),
    ...(source === ROUTER || names.includes(source) ? [] : [{ value: source, label: source }])];
  return html`<div class="section-head"><h1>Logs</h1></div>
    <div class="toolbar">
      <${Select} aria-label="Log of" value=${source} options=${options} class="log-source"
        onChange=${(name) => { location.hash = routeTo("logs", name); }} />
      <${Select} aria-label="Lowest level" value=${level} onChange=${setLevel}
        options=${LEVELS.map((each) => ({ value: each, label: `${sentence(each).slice(0, -1)} and above` }))} />
      <${Search} label="Search in the lines" value=${query} onInput=${setQuery} />
      <${Check} label="Wrap lines" checked=${wrap} onChange=${setWrap} />
    </div>
    <${Tail} key=${source} source=${source} level=${level} query=${query} wrap=${wrap} />`;
}

/** The lines of one log. */
function Tail({ source, level, query, wrap }) {
  const log = useLog(source);
  const [paused, setPaused] = useState(false);
  const [open, setOpen] = useState(null);
  const held = useRef(null);
  if (!paused) held.current = null;
  else held.current ??= log.lines;
  const lines = held.current ?? log.lines;
  const shown = useMemo(() => matching(lines, level, query), [lines, level, query]);
  const missed = paused ? log.total - (lines.at(-1)?.number ?? log.total) : 0;
  return html`<div class="toolbar">
      <${Button} small icon=${paused ? "play" : "pause"} onClick=${() => setPaused(!paused)}>
        ${paused ? "Go on" : "Pause"}<//>
      ${paused && missed > 0 && html`<span class="quiet">${plural(missed, "new line")}</span>`}
      ${!paused && log.state === "live" && html`<${Badge} tone="good">Live<//>`}
      ${log.state === "lost" && html`<${Badge} tone="bad" title=${log.trouble}>No connection<//>`}
      <span class="quiet end" role="status">${query || level !== "debug"
        ? `${count(shown.length)} of ${plural(lines.length, "line")}` : plural(lines.length, "line")}</span>
      <a class="button plain small" download=${`${fileName(source)}.log`}
        href=${address(pathOf(source), { tail: KEPT, format: "text" })}>Download</a>
    </div>
    ${log.state === "opening" ? html`<${Skeleton} lines=${6} label="Loading the log" />`
      : lines.length === 0 ? html`<${Empty} icon="logs" title="No output yet">
        ${log.state === "lost" ? log.trouble : source === ROUTER
          ? "The router has logged nothing since its start."
          : "The model has not run since this log was begun. Its lines appear here as it prints them."}<//>`
      : shown.length === 0 ? html`<${Empty} icon="search" title="No line fits">
        None of ${plural(lines.length, "line")} has the level and the words.<//>`
      : html`<${Lines} lines=${shown} wrap=${wrap} follow=${!paused} query=${query}
        onOpen=${setOpen} />`}
    ${open && html`<${Dialog} wide title=${`Line of ${open.time}`} onClose=${() => setOpen(null)}
      footer=${html`<${CopyButton} text=${open.text}>Copy the line<//>`}>
      <pre class="log whole-log-line" tabindex="0">${cut(plain(open.text), 200_000)}</pre><//>`}`;
}

/** The list itself: without wrapping only the lines in view are in the page. */
function Lines({ lines, wrap, follow, query, onOpen }) {
  const frame = useRef(null);
  const atEnd = useRef(true);
  const { first, last } = useWindow(frame, lines.length, LINE_PX);
  useEffect(() => {
    if (follow && atEnd.current) frame.current.scrollTop = frame.current.scrollHeight;
  }, [lines, follow, wrap]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = frame.current;
    atEnd.current = scrollTop + clientHeight > scrollHeight - 2 * LINE_PX;
  };
  // Wrapped lines have different heights, so all that are shown are in the page: not too many.
  const range = wrap ? { from: Math.max(0, lines.length - 1000), to: lines.length }
    : { from: first, to: last };
  return html`<div class=${`log lines ${wrap ? "wrap" : ""}`} ref=${frame} tabindex="0" role="log"
    aria-live="off" aria-label="Lines" onScroll=${scrolled}>
    ${!wrap && html`<div style=${{ height: `${range.from * LINE_PX}px` }}></div>`}
    ${lines.slice(range.from, range.to).map((line) => html`<div key=${line.number}
      class=${`line ${line.level} ${line.byRouter ? "by-router" : ""}`}>
      <time>${line.time}</time>
      <span class="line-text">${coloured(line, query)}</span>
      ${line.text.length > SHOWN_CHARACTERS && html`<button type="button" class="link"
        onClick=${() => onOpen(line)}>${count(line.text.length)} characters</button>`}
    </div>`)}
    ${!wrap && html`<div style=${{ height: `${(lines.length - range.to) * LINE_PX}px` }}></div>`}
  </div>`;
}

function coloured(line, query) {
  const text = line.text.slice(0, SHOWN_CHARACTERS);
  if (query) return marked(plain(text), query);
  return parts(text).map(({ text: part, className }, n) => (className
    ? html`<span key=${n} class=${className}>${part}</span>` : part));
}

function marked(text, query) {
  const at = text.toLowerCase().indexOf(query.toLowerCase());
  if (at < 0) return text;
  const end = at + query.length;
  return html`${text.slice(0, at)}<mark>${text.slice(at, end)}</mark>${text.slice(end)}`;
}

function matching(lines, level, query) {
  const least = LEVELS.indexOf(level);
  const words = query.toLowerCase();
  if (least <= 0 && !words) return lines;
  return lines.filter((line) => LEVELS.indexOf(line.level) >= least
    && (!words || plain(line.text).toLowerCase().includes(words)));
}

function pathOf(source) {
  return source === ROUTER ? "/admin/router-log" : `/admin/logs/${encodeName(source)}`;
}

function fileName(source) {
  return source === ROUTER ? "llama-router" : source.replace(/[^\w.-]+/g, "_");
}

/**
 * Follow a log; return {lines, total, state, trouble}: the last `KEPT` lines, and the number of all
 * lines that were seen. *state* is "opening", "live" or "lost"; it connects again by itself.
 */
function useLog(source) {
  const [log, setLog] = useState({ lines: [], total: 0, state: "opening", trouble: "" });
  useEffect(() => {
    const end = new AbortController();
    const kept = new Kept((changes) => setLog((before) => ({ ...before, ...changes })));
    follow(source, kept, end.signal);
    return () => {
      end.abort();
      kept.close();
    };
  }, [source]);
  return log;
}

async function follow(source, kept, signal) {
  while (!signal.aborted) {
    try {
      const response = await request(pathOf(source), {
        query: { follow: 1, tail: TAIL, format: "json" }, signal });
      kept.connected();
      let rest = "";
      for await (const piece of pieces(response)) {
        const texts = (rest + piece).split("\n");
        rest = texts.pop();
        kept.add(texts.filter(Boolean).map((text) => JSON.parse(text)));
      }
      kept.lost("The router ended the log.");
    } catch (error) {
      if (error.name === "AbortError") return;
      kept.lost(error instanceof ApiError ? error.message : sentence(error.message));
      if (error.status === 404) return;
    }
    await new Promise((done) => { setTimeout(done, RETRY_MS); });
  }
}

/** The lines so far. Announces changes once per frame, however many lines arrive. */
class Kept {
  #lines = [];
  #total = 0;
  #frame = 0;
  #announce;
  #overlap = null;

  constructor(announce) {
    this.#announce = announce;
  }

  /** Begin a connection: its past lines may be those that are here already. */
  connected() {
    this.#overlap = this.#lines.at(-1)?.key ?? null;
    this.#announce({ state: "live", trouble: "" });
  }

  lost(trouble) {
    this.#announce({ state: "lost", trouble });
  }

  close() {
    cancelAnimationFrame(this.#frame);
  }

  add(records) {
    let fresh = records;
    if (this.#overlap !== null) {
      const known = records.findLastIndex((record) => keyOf(record) === this.#overlap);
      fresh = records.slice(known + 1);
      this.#overlap = null;
    }
    for (const record of fresh) {
      this.#total += 1;
      this.#lines.push(lineOf(record, this.#total));
    }
    if (this.#lines.length > KEPT * 1.2) this.#lines.splice(0, this.#lines.length - KEPT);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#announce({ lines: this.#lines.slice(-KEPT), total: this.#total });
    });
  }
}

function keyOf(record) {
  return `${record.ts} ${record.line ?? record.event}`;
}

/** Return a record of either log as a line. */
function lineOf(record, number) {
  const time = new Date(record.ts).toLocaleTimeString(undefined, { hour12: false });
  const shared = { number, key: keyOf(record), time };
  if (record.line !== undefined) {
    const level = ERROR.test(record.line) ? "error" : WARNING.test(record.line) ? "warning" : "info";
    return { ...shared, text: record.line, level, byRouter: record.by === "router" };
  }
  const { ts: _ts, level, event, ...fields } = record;
  const said = Object.entries(fields).filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return { ...shared, text: [event, ...said].join("  "), level, byRouter: false };
}
