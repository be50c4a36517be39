// Charts: lines over time, and bars of what was loaded when. Drawn as SVG and boxes, no library.

import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./lib.js";
import { clock } from "./format.js";

/** Return [ref, width]: the width of an element in pixels, also when it changes. */
function useWidth() {
  const own = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const measure = () => setWidth(own.current.clientWidth);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(own.current);
    return () => observer.disconnect();
  }, []);
  return [own, width];
}

/** Return a round number that is at least *value*: 1, 2, 2.5 or 5 times a power of ten. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((each) => each * power >= value * 0.999);
  return step * power;
}

/**
 * A line over time, filled below; pointing at it or the arrow keys say the value at a time.
 *
 * @param {object} props
 * @param {string} props.title
 * @param {{at: number, value: number}[]} props.points *at* in Unix seconds, in order.
 * @param {(value) => string} props.format
 * @param {string} props.tone Class of the colour.
 */
export function LineChart({ title, points, format, tone = "hue1", height = 120 }) {
  const [own, width] = useWidth();
  const [at, setAt] = useState(null);
  const id = useId();
  const top = roundUp(Math.max(0, ...points.map(({ value }) => value)));
  const [first, last] = [points[0]?.at ?? 0, points.at(-1)?.at ?? 1];
  const x = (time) => ((time - first) / Math.max(1, last - first)) * width;
  const y = (value) => height - (value / top) * (height - 8);
  const line = points.map((point, n) => `${n ? "L" : "M"}${x(point.at).toFixed(1)} ${
    y(point.value).toFixed(1)}`).join("");
  const chosen = at === null ? null : points[Math.min(at, points.length - 1)];
  const now = points.at(-1);
  const point = (event) => {
    const box = own.current.getBoundingClientRect();
    const fraction = (event.clientX - box.left) / Math.max(1, box.width);
    setAt(Math.max(0, Math.min(points.length - 1, Math.round(fraction * (points.length - 1)))));
  };
  const step = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    setAt(Math.max(0, Math.min(points.length - 1, (at ?? points.length - 1) + move)));
  };
  return html`<figure class="chart">
    <figcaption id=${id}><span>${title}</span>
      <strong aria-live="polite">${chosen ? format(chosen.value) : now ? format(now.value) : "–"}</strong>
      <span class="quiet small-text">${chosen ? clock(chosen.at) : "now"}</span></figcaption>
    <div ref=${own} class="chart-area" role="img" tabindex="0" aria-labelledby=${id} onPointerMove=${point}
      onPointerLeave=${() => setAt(null)} onBlur=${() => setAt(null)} onKeyDown=${step}>
      ${width > 0 && points.length > 1 && html`<svg width=${width} height=${height} class=${tone}
        aria-hidden="true">
        <path class="grid-line" d=${`M0 ${y(top)}H${width}M0 ${y(top / 2)}H${width}`} />
        <path class="area" d=${`${line}L${width} ${height}L0 ${height}Z`} />
        <path class="line" d=${line} />
        ${chosen && html`<path class="cursor" d=${`M${x(chosen.at)} 0V${height}`} />
          <circle cx=${x(chosen.at)} cy=${y(chosen.value)} r="4" />`}
      </svg>`}
      <span class="chart-top">${format(top)}</span>
    </div>
  </figure>`;
}

/**
 * Lanes of spans over time, one lane per name. Arrow keys go from span to span.
 *
 * @param {object} props
 * @param {{key, name, tone, spans: {key, from, ready, to, open, label, about}[]}[]} props.lanes
 *   Times in Unix seconds. *ready* is where the first part, the load, ends; null if never.
 *   *about* is shown for the span that is pointed at or has the focus.
 * @param {number} props.from Left end.
 * @param {number} props.to Right end.
 */
export function Lanes({ label, lanes, from, to }) {
  const own = useRef(null);
  const [shown, setShown] = useState(null);
  const all = lanes.flatMap(({ spans }) => spans);
  const current = all.find(({ key }) => key === shown?.key) ?? null;
  const place = (time) => Math.max(0, Math.min(1, (time - from) / (to - from)));
  const ticks = Array.from({ length: 5 }, (_, n) => from + ((to - from) * n) / 4);
  const show = (span) => (event) => {
    const frame = own.current.getBoundingClientRect();
    const box = event.currentTarget.getBoundingClientRect();
    setShown({ key: span.key, x: box.left + Math.min(box.width, 400) / 2 - frame.left,
      y: box.bottom - frame.top });
  };
  const hide = () => setShown(null);
  const step = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const buttons = [...own.current.querySelectorAll(".span")];
    const at = buttons.indexOf(document.activeElement);
    buttons[Math.max(0, Math.min(buttons.length - 1, at + move))]?.focus();
  };
  useEffect(() => {
    if (!shown) return undefined;
    const escape = (event) => event.key === "Escape" && hide();
    window.addEventListener("keydown", escape);
    return () => window.removeEventListener("keydown", escape);
  }, [shown]);
  const width = own.current?.clientWidth ?? 600;
  return html`<div ref=${own} class="lanes" role="group" aria-label=${label} onKeyDown=${step}>
    ${lanes.map(({ key, name, tone, spans }) => html`<div key=${key} class="lane">
      <div class="lane-name" title=${name} dir="auto">${name}</div>
      <div class="lane-track">
        ${spans.map((span) => {
          const [left, right] = [place(span.from), place(span.to)];
          const ready = span.ready === null ? right : place(span.ready);
          return html`<button key=${span.key} type="button" aria-label=${span.label}
            tabindex=${span === (current ?? all[0]) ? 0 : -1}
            class=${`span ${tone} ${span.open ? "open" : ""}`}
            style=${{ left: `${left * 100}%`, width: `${Math.max(0, right - left) * 100}%` }}
            onPointerEnter=${show(span)} onPointerLeave=${hide} onFocus=${show(span)} onBlur=${hide}>
            ${ready > left && html`<span class="span-load"
              style=${{ width: `${((ready - left) / Math.max(1e-9, right - left)) * 100}%` }}></span>`}
          </button>`;
        })}
      </div>
    </div>`)}
    <div class="lane axis" aria-hidden="true"><div></div><div class="lane-track">
      ${ticks.map((time, n) => html`<span key=${n} class=${n === 4 ? "end" : n === 0 ? "begin" : ""}
        style=${{ left: `${n * 25}%` }}>${n === 4 ? "now" : clock(time).slice(0, 5)}</span>`)}
    </div></div>
    ${current && html`<div class="tip" role="tooltip" style=${{
      left: `${Math.max(0, Math.min(shown.x - 120, width - 260))}px`, top: `${shown.y + 6}px` }}>
      ${current.about}</div>`}
  </div>`;
}
