// Machine: what its memory is used for, what was loaded when, and how much it does.

import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { call } from "../api.js";
import { Lanes, LineChart } from "../charts.js";
import { Badge, Empty, Notice, Skeleton, StackedBar, toastError } from "../components.js";
import { clock, count, cut, duration, mib, rate, rough } from "../format.js";
import { hueOf, isRunning } from "../model_row.js";
import { routeTo } from "../route.js";
import { now_s, useNow, useStore } from "../store.js";

/** The time that the timeline shows, in seconds. */
const SPAN_S = 3600;

/** How often the timeline moves, in seconds. */
const STEP_S = 10;

/** Pauses between two requests for the timeline: at least, after a change; and without one. */
const REFRESH_S = { least: 3, idle: 60 };

export default function Machine() {
  const known = useStore((state) => state.router !== null);
  if (!known) return html`<h1>Machine</h1><${Skeleton} label="Loading" />`;
  return html`<${Head} /><${Memory} /><${History} /><${Programs} />`;
}

function Head() {
  const router = useStore((state) => state.router);
  return html`<div class="section-head"><h1>Machine</h1>
      <p class="quiet">Router ${router.version}, up for <${Uptime} router=${router} /></p></div>
    ${router.device_faults.map((fault) => html`<${Notice} key=${fault} tone="bad">${fault}<//>`)}`;
}

function Memory() {
  const devices = useStore((state) => state.devices);
  const models = useStore((state) => state.models);
  const running = models.filter(isRunning);
  if (!devices.length) return html`<${Unmanaged} running=${running} />`;
  return html`<section class="stack" aria-label="Memory">
    ${devices.map((device) => html`<${Device} key=${device.name} device=${device}
      models=${running} />`)}</section>`;
}

function Uptime({ router }) {
  useNow(30);
  return rough(router.uptime_s + now_s() - router.received_s);
}

// --- Memory ----------------------------------------------------------------------------

/** One device: a bar of what holds its memory, and the same in words. */
function Device({ device, models }) {
  const unit = device.kind === "pool" ? (value) => count(value) : mib;
  const parts = models
    .filter(({ claims }) => claims?.[device.name] > 0)
    .map((row) => ({ key: row.id, label: row.id, value: row.claims[device.name],
      tone: hueOf(row.id), text: unit(row.claims[device.name]) }));
  const more = [
    { key: "\0others", label: "Other programs", value: device.others_mib, tone: "others",
      about: Object.entries(device.programs ?? {}).map(([name, held]) => `${name} ${unit(held)}`)
        .join(", ") },
    { key: "\0freeing", label: "Being freed", value: device.freeing_mib, tone: "others" },
    { key: "\0reserve", label: "Reserved", value: device.reserve_mib, tone: "reserve" },
    { key: "\0free", label: "Free", value: device.free_mib, tone: "free" },
  ].map((part) => ({ ...part, text: unit(part.value) }));
  const all = [...parts, ...more].filter(({ value }) => value > 0);
  // What is held by others counts only beyond the reserve, so the parts may exceed the whole.
  const total = Math.max(device.capacity_mib, all.reduce((sum, { value }) => sum + value, 0));
  return html`<article class="card device" aria-label=${device.name}>
    <div class="section-head">
      <h2>${device.name}</h2>
      <span class="quiet device-name">${device.description !== device.name && device.description}</span>
      <span class="end"><strong>${unit(device.free_mib)}</strong>
        <span class="quiet"> free of ${unit(device.capacity_mib)}</span></span>
    </div>
    <${StackedBar} label=${device.name} parts=${all} total=${total} />
    <ul class="legend">
      ${all.map(({ key, label, tone, text, about }) => html`<li key=${key}>
        <span class=${`dot ${tone}`}></span>
        <span class="legend-name" title=${about || label} dir="auto">${label}</span>
        <span class="quiet">${text}</span></li>`)}
    </ul>
  </article>`;
}

/** Without the policy of memory the router knows only what its backends hold. */
function Unmanaged({ running }) {
  const parts = running.filter(({ memory_mib: held }) => held > 0).map((row) => ({ key: row.id,
    label: row.id, value: row.memory_mib, tone: hueOf(row.id), text: mib(row.memory_mib) }));
  const total = parts.reduce((sum, { value }) => sum + value, 0);
  const why = html`With <code>policy = "memory"</code> in <code>[scheduler]</code> the router knows
    the devices of this machine, and keeps as many models loaded as fit.`;
  if (!parts.length) {
    return html`<${Empty} icon="machine" title="No model is loaded">${why}<//>`;
  }
  return html`<article class="card device" aria-label="Memory of backends">
    <div class="section-head"><h2>Backends</h2>
      <span class="end"><strong>${mib(total)}</strong><span class="quiet"> of host memory</span></span>
    </div>
    <${StackedBar} label="Memory of backends" parts=${parts} total=${total} />
    <ul class="legend">${parts.map(({ key, label, tone, text }) => html`<li key=${key}>
      <span class=${`dot ${tone}`}></span><span class="legend-name">${label}</span>
      <span class="quiet">${text}</span></li>`)}</ul>
    <p class="quiet">${why}</p>
  </article>`;
}

// --- The last hour ---------------------------------------------------------------------

/** Words for why a model was loaded. */
const CAUSES = {
  request: "for a request",
  keep_loaded: "because it is kept loaded",
  home: "because it is the home model",
  return: "because it had been replaced",
};

/** Return the timeline, loaded anew when models changed, and every minute. */
function useTimeline() {
  const [timeline, setTimeline] = useState(null);
  const [failed, setFailed] = useState(null);
  const phases = useStore((state) => state.models.map(({ phase }) => phase[0]).join(""));
  const live = useStore((state) => state.connection === "live");
  const loadedAt = useRef(0);
  const minute = Math.floor(useNow(REFRESH_S.idle) / REFRESH_S.idle);
  useEffect(() => {
    if (!live) return undefined;
    const end = new AbortController();
    const wait_s = Math.max(0, loadedAt.current + REFRESH_S.least - now_s());
    const timer = setTimeout(() => {
      loadedAt.current = now_s();
      call("/admin/timeline", { query: { since_s: SPAN_S }, signal: end.signal })
        .then((found) => {
          setTimeline(found);
          setFailed(null);
        })
        .catch((error) => (timeline ? toastError(error) : setFailed(error)));
    }, wait_s * 1000);
    return () => {
      clearTimeout(timer);
      end.abort();
    };
  }, [phases, minute, live]);
  return [timeline, failed];
}

function History() {
  const [timeline, failed] = useTimeline();
  // Up to the end of the step, so that what has just begun is seen.
  const now = Math.ceil(useNow(STEP_S) / STEP_S) * STEP_S;
  const lanes = useMemo(() => (timeline ? lanesOf(timeline.loads, now) : []), [timeline, now]);
  if (failed && failed.name !== "AbortError") {
    return html`<${Notice} tone="bad">${failed.message}<//>`;
  }
  return html`<section class="stack" aria-labelledby="history">
    <h2 id="history">The last hour</h2>
    ${!timeline ? html`<${Skeleton} lines=${2} label="Loading the timeline" />` : html`
      <div class="card">${lanes.length
        ? html`<${Lanes} label="Which model was loaded when" lanes=${lanes} from=${now - SPAN_S}
            to=${now} />`
        : html`<${Empty} icon="clock" title="No model was loaded">
            Send a request, or load one in <a href=${routeTo("models")}>Models</a>.<//>`}</div>
      <${Traffic} series=${timeline.series} now=${now} />`}
  </section>`;
}

function lanesOf(loads, now) {
  const lanes = new Map();
  for (const each of [...loads].sort((a, b) => a.began_at - b.began_at)) {
    const to = each.ended_at ?? now;
    if (to < now - SPAN_S) continue;
    if (!lanes.has(each.model)) {
      lanes.set(each.model, { key: each.model, name: each.model, tone: hueOf(each.model), spans: [] });
    }
    lanes.get(each.model).spans.push(spanOf(each, to));
  }
  return [...lanes.values()];
}

function spanOf(load, to) {
  const { model, began_at: from, ready_at: ready, ended_at: ended, devices } = load;
  const facts = [
    ["Loaded", [clock(from), CAUSES[load.cause]].filter(Boolean).join(", ")],
    ["Took", ready === null ? (ended === null ? "still loading" : "never ready")
      : duration(Math.max(0, ready - from))],
    ["Stayed", duration(Math.max(0, (ended ?? now_s()) - (ready ?? from)))],
    ["On", devices.join(", ")],
    ["Left", ended === null ? "still here"
      : [clock(ended), cut(load.words ?? "the router ended", 200)].join(", ")],
  ].filter(([, value]) => value);
  return {
    key: `${model} ${from}`,
    from,
    ready,
    to,
    open: ended === null,
    label: `${model}: ${facts.map((fact) => fact.join(" ")).join(", ")}`,
    about: html`<strong>${model}</strong><dl>${facts.map(([name, value]) => html`
      <div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`,
  };
}

/** Requests and tokens per minute; the present one is not over. */
function Traffic({ series, now }) {
  const points = (value) => series.map((row, n) => ({ at: row.at,
    value: value(row, n === series.length - 1 ? Math.max(10, now - row.at) : 60) }));
  return html`<div class="charts">
    <div class="card"><${LineChart} title="Requests per minute" tone="hue7" format=${count}
      points=${points(({ requests }) => requests)} /></div>
    <div class="card"><${LineChart} title="Tokens per second" tone="hue4" format=${rate}
      points=${points(({ completion_tokens: made }, lasted_s) => made / lasted_s)} /></div>
  </div>`;
}

function Programs() {
  const programs = useStore((state) => state.router.programs);
  if (!programs.length) return null;
  return html`<section class="stack" aria-labelledby="programs">
    <h2 id="programs">Programs</h2>
    <ul class="rows">${programs.map(({ program, version, warning, summary }) => html`<li key=${program}>
      <span class="name">${program}</span><span class="quiet">${version ?? summary}</span>
      ${warning && html`<${Badge} tone="bad" title=${warning}>warning<//>
        <span class="whole-line">${warning}</span>`}</li>`)}</ul>
  </section>`;
}
