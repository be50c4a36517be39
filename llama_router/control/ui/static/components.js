// The parts that sections are built of. Each is usable by keyboard and says what it is.

import { Component, html, useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState }
  from "./lib.js";
import { ApiError, sentence } from "./api.js";
import { Icon } from "./icons.js";

// --- Buttons ---------------------------------------------------------------------------

/**
 * A button. If *onClick* returns a promise, it is busy until that is settled, and a failure is
 * said in a toast.
 *
 * @param {object} props
 * @param {"plain" | "primary" | "danger" | "quiet"} props.kind
 * @param {string} props.icon Name of an icon.
 * @param {string} props.label What it does, for readers of the screen, if its text says less.
 */
export function Button({ kind = "plain", icon, label, busy, disabled, onClick, children, small,
  type = "button", ...rest }) {
  const [running, setRunning] = useState(false);
  const mounted = useRef(true);
  useEffect(() => () => { mounted.current = false; }, []);
  const act = (event) => {
    const result = onClick?.(event);
    if (!(result instanceof Promise)) return;
    setRunning(true);
    result.catch(toastError).finally(() => mounted.current && setRunning(false));
  };
  const working = busy || running;
  const iconOnly = icon && !children;
  return html`<button type=${type} class=${`button ${kind} ${small ? "small" : ""}
    ${iconOnly ? "icon-only" : ""}`} aria-label=${label} title=${iconOnly ? label : undefined}
    aria-busy=${working ? "true" : undefined} disabled=${disabled || working} onClick=${act}
    ...${rest}>
    ${working ? html`<span class="spinner" aria-hidden="true"></span>`
      : icon && html`<${Icon} name=${icon} size=${small ? 16 : 18} />`}
    ${children && html`<span>${children}</span>`}
  </button>`;
}

/** A button that copies the text that *text* returns. */
export function CopyButton({ text, label, children = "Copy", ...rest }) {
  const copy = async () => {
    await copyText(typeof text === "function" ? await text() : text);
    toast("Copied.");
  };
  return html`<${Button} icon="copy" label=${label} onClick=${copy} ...${rest}>${children}<//>`;
}

/** Put *text* on the clipboard, also on a page without TLS, where browsers have no clipboard. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "off-screen";
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new ApiError("the browser does not let this page copy; select the text");
}

// --- Small things ----------------------------------------------------------------------

/** A word in a coloured frame. @param {{tone: "good"|"busy"|"bad"|"quiet"|"accent"}} props */
export function Badge({ tone = "quiet", children, title }) {
  return html`<span class=${`badge ${tone}`} title=${title}>${children}</span>`;
}

/** What a section shows while there is nothing to show, and what to do about it. */
export function Empty({ icon, title, children, action }) {
  return html`<div class="empty">
    ${icon && html`<${Icon} name=${icon} size=${32} />`}
    <h2>${title}</h2>
    <div class="quiet">${children}</div>
    ${action}
  </div>`;
}

/** Grey lines in the place of what is being loaded. */
export function Skeleton({ lines = 3, label = "Loading" }) {
  return html`<div class="skeleton" role="status" aria-label=${label}>
    ${Array.from({ length: lines }, (_, n) => html`<div key=${n} class="skeleton-line"></div>`)}
  </div>`;
}

/** A notice that stays. @param {{tone: "info"|"bad"|"busy"}} props */
export function Notice({ tone = "info", title, children, action }) {
  return html`<div class=${`notice ${tone}`} role=${tone === "bad" ? "alert" : "status"}>
    ${tone === "bad" && html`<${Icon} name="warning" />`}
    <div class="notice-text">${title && html`<strong>${title} </strong>`}${children}</div>
    ${action}
  </div>`;
}

/** A label, its field, what it means, and what is wrong with it. Its child gets the id. */
export function Field({ label, hint, error, children }) {
  const id = useId();
  const about = hint || error ? `${id}-about` : undefined;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children({ id, "aria-describedby": about, "aria-invalid": error ? "true" : undefined })}
    ${(hint || error) && html`<p id=${about} class=${error ? "field-error" : "field-hint"}>
      ${error || hint}</p>`}
  </div>`;
}

/** A search field. */
export function Search({ value, onInput, label, placeholder = label }) {
  return html`<div class="search">
    <${Icon} name="search" size=${16} />
    <input type="search" value=${value} aria-label=${label} placeholder=${placeholder}
      spellcheck="false" autocomplete="off" onInput=${(event) => onInput(event.target.value)} />
  </div>`;
}

/** A choice between few things. @param {{options: {value, label, icon}[]}} props */
export function Segmented({ label, value, options, onChange }) {
  const name = useId();
  return html`<fieldset class="segmented"><legend class="off-screen">${label}</legend>
    ${options.map((option) => html`<label key=${option.value} title=${option.icon && option.label}>
      <input type="radio" name=${name} checked=${option.value === value}
        onChange=${() => onChange(option.value)} />
      <span>${option.icon ? html`<${Icon} name=${option.icon} size=${16} />
        <span class="off-screen">${option.label}</span>` : option.label}</span>
    </label>`)}
  </fieldset>`;
}

/** A choice of one of many. @param {{options: ({value, label} | string)[]}} props */
export function Select({ value, options, onChange, ...rest }) {
  return html`<select value=${value} onChange=${(event) => onChange(event.target.value)} ...${rest}>
    ${options.map((option) => {
      const { value: own, label } = typeof option === "string"
        ? { value: option, label: option } : option;
      return html`<option key=${own} value=${own} selected=${own === value}>${label}</option>`;
    })}
  </select>`;
}

/** A checkbox with its label. */
export function Check({ label, checked, onChange, ...rest }) {
  return html`<label class="check"><input type="checkbox" checked=${checked}
    onChange=${(event) => onChange(event.target.checked)} ...${rest} /><span>${label}</span></label>`;
}

// --- Bars ------------------------------------------------------------------------------

/** How far something is; without *value* (0 to 1) it only shows that it goes on. */
export function Progress({ value, label }) {
  const known = value !== null && value !== undefined;
  const text = known ? `${Math.floor(value * 100)} %` : "under way";
  return html`<div class=${`progress ${known ? "" : "unknown"}`} role="progressbar"
    aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${known ? Math.floor(value * 100) : undefined} aria-valuetext=${text}>
    <div style=${{ transform: `scaleX(${known ? Math.min(1, value) : 1})` }}></div>
  </div>`;
}

/**
 * A bar that shows what a whole is made of.
 *
 * @param {object} props
 * @param {{key, label, value, tone, text}[]} props.parts *tone* is a class of the style sheet.
 * @param {number} props.total
 */
export function StackedBar({ parts, total, label }) {
  const shown = parts.filter(({ value }) => value > 0);
  const said = shown.map(({ label: name, text }) => `${name} ${text}`).join(", ");
  return html`<div class="stacked" role="img" aria-label=${`${label}: ${said}`}>
    ${shown.map(({ key, label: name, value, tone, text }) => html`
      <div key=${key} class=${`part ${tone}`} title=${`${name}: ${text}`}
        style=${{ flexGrow: String(value / total) }}></div>`)}
  </div>`;
}

// --- Dialogs ---------------------------------------------------------------------------

/** A dialog above the page; Escape and the cross close it, and focus goes back where it was. */
export function Dialog({ title, onClose, children, footer, wide }) {
  const own = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    const dialog = own.current;
    dialog.showModal();
    return () => {
      dialog.close();
      (before?.isConnected ? before : document.getElementById("main"))?.focus();
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${own} class=${wide ? "wide" : ""} aria-labelledby=${id} onCancel=${cancel}
    onClick=${(event) => event.target === own.current && onClose()}>
    <div class="dialog-box">
      <header><h2 id=${id}>${title}</h2>
        <${Button} kind="quiet" icon="close" label="Close" onClick=${onClose} /></header>
      <div class="dialog-body">${children}</div>
      ${footer && html`<footer>${footer}</footer>`}
    </div>
  </dialog>`;
}

let ask = null;

/** Ask a question; resolve to whether the answer is *action*. */
export function confirm({ title, text, action, danger = false }) {
  return new Promise((done) => ask({ title, text, action, danger, done }));
}

/** Shows what `confirm` asks; once, in the frame of the page. */
export function Confirmations() {
  const [question, setQuestion] = useState(null);
  useEffect(() => { ask = setQuestion; }, []);
  if (!question) return null;
  const end = (result) => {
    setQuestion(null);
    question.done(result);
  };
  return html`<${Dialog} title=${question.title} onClose=${() => end(false)} footer=${html`
    <${Button} onClick=${() => end(false)}>Cancel<//>
    <${Button} kind=${question.danger ? "danger" : "primary"} onClick=${() => end(true)}>
      ${question.action}<//>`}>
    <p>${question.text}</p>
  <//>`;
}

// --- Toasts ----------------------------------------------------------------------------

/** How long a toast stays, in milliseconds. */
const TOAST_MS = { info: 5000, bad: 20_000 };

let toasts = [];
let showToasts = () => {};
let toastNumber = 0;

/** Say something in the corner. @param {{tone: "info" | "bad"}} options */
export function toast(text, { tone = "info" } = {}) {
  const said = { key: (toastNumber += 1), text, tone };
  // The same failure again is no news.
  toasts = [...toasts.filter((other) => other.text !== text), said].slice(-4);
  showToasts(toasts);
  setTimeout(() => dropToast(said.key), TOAST_MS[tone]);
}

/** Say what went wrong; for `catch`. A request that the page itself gave up is not worth it. */
export function toastError(error) {
  if (error?.name === "AbortError") return;
  toast(error instanceof ApiError ? error.message : sentence(error?.message ?? error),
    { tone: "bad" });
  if (!(error instanceof ApiError)) setTimeout(() => { throw error; }); // a bug: to the console
}

function dropToast(key) {
  toasts = toasts.filter((other) => other.key !== key);
  showToasts(toasts);
}

/** Shows the toasts; once, in the frame of the page. */
export function Toasts() {
  const [shown, setShown] = useState(toasts);
  useEffect(() => { showToasts = setShown; }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(({ key, text, tone }) => html`<div key=${key} class=${`toast ${tone}`}>
      ${tone === "bad" && html`<${Icon} name="warning" />`}
      <p title=${text}>${text}</p>
      <${Button} kind="quiet" small icon="close" label="Dismiss" onClick=${() => dropToast(key)} />
    </div>`)}
  </div>`;
}

// --- Lists and tables ------------------------------------------------------------------

/** Rows outside of the window that are there, too, so that fast scrolling shows no gap. */
const OVERSCAN = 8;

/**
 * Return the range of rows in view of a scrolled list: {first, last}, with rows of equal height.
 *
 * @param {{current: Element}} frame The list; it scrolls by itself or with the page.
 */
export function useWindow(frame, total, rowHeight) {
  const [range, setRange] = useState({ first: 0, last: Math.min(total, 40) });
  const measure = useCallback(() => {
    const element = frame.current;
    if (!element) return;
    const box = element.getBoundingClientRect();
    const scrolls = element.scrollHeight > element.clientHeight + 1
      && getComputedStyle(element).overflowY !== "visible";
    const top = scrolls ? element.scrollTop : -box.top;
    const height = scrolls ? element.clientHeight : window.innerHeight;
    const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
    const last = Math.min(total, Math.ceil((top + height) / rowHeight) + OVERSCAN);
    setRange((old) => (old.first === first && old.last === last ? old : { first, last }));
  }, [total, rowHeight]);
  useLayoutEffect(measure);
  useEffect(() => {
    let frameNumber = 0;
    const later = () => {
      frameNumber ||= requestAnimationFrame(() => {
        frameNumber = 0;
        measure();
      });
    };
    window.addEventListener("scroll", later, { passive: true, capture: true });
    window.addEventListener("resize", later);
    return () => {
      cancelAnimationFrame(frameNumber);
      window.removeEventListener("scroll", later, { capture: true });
      window.removeEventListener("resize", later);
    };
  }, [measure]);
  const first = Math.min(range.first, Math.max(0, total - 1));
  return { first, last: Math.max(first, Math.min(range.last, total)) };
}

/** A row that is rendered again only if its data changed. */
class Row extends Component {
  shouldComponentUpdate(next) {
    return next.row !== this.props.row || next.columns !== this.props.columns
      || next.index !== this.props.index || next.context !== this.props.context;
  }

  render({ row, columns, index, context, onOpen }) {
    return html`<tr aria-rowindex=${index + 2} class=${onOpen ? "opens" : ""}
      onClick=${onOpen && ((event) => opensRow(event) && onOpen(row))}>
      ${columns.map(({ key, cell, align, head }) => html`
        <td key=${key} class=${align} data-label=${head}>${cell(row, context)}</td>`)}
    </tr>`;
  }
}

function opensRow(event) {
  // The path from before the click: what was clicked may have been replaced by now.
  const used = event.composedPath().some((each) => each.matches?.("a, button, input, select"));
  return !used && !String(getSelection());
}

/**
 * A table of which only the rows in view are in the page.
 *
 * @param {object} props
 * @param {{key, head, cell: (row, context) => *, value: (row) => *, align, width}[]} props.columns
 *   Columns with *value* can be sorted. Keep the array: a new one renders every row again.
 * @param {object[]} props.rows
 * @param {(row) => string} props.rowKey
 * @param {{key, descending}} props.sort The sorted column; null for the order of *rows*.
 * @param {(sort) => void} props.onSort
 * @param {(row) => void} props.onOpen A click on a row; there must be a button for it, too.
 * @param {*} props.context Passed on to the cells; rows are rendered again when it changes.
 */
export function Table({ columns, rows, rowKey, label, sort, onSort, rowHeight = 44, onOpen, context }) {
  const body = useRef(null);
  const sorted = useMemo(() => sortedBy(rows, columns, sort), [rows, columns, sort]);
  const { first, last } = useWindow(body, sorted.length, rowHeight);
  const order = (key) => (sort?.key !== key ? "none"
    : sort.descending ? "descending" : "ascending");
  const turn = (key) => onSort({ key, descending: sort?.key === key ? !sort.descending : true });
  return html`<div class="table-frame">
    <table aria-label=${label} aria-rowcount=${sorted.length + 1}>
      <thead><tr aria-rowindex="1">
        ${columns.map(({ key, head, value, align, width }) => html`
          <th key=${key} scope="col" class=${align} style=${width && { width }}
            aria-sort=${value && onSort ? order(key) : undefined}>
            ${value && onSort ? html`<button type="button" onClick=${() => turn(key)}>${head}
              ${sort?.key === key && html`<${Icon} name=${sort.descending ? "down" : "up"}
                size=${14} />`}</button>` : head || html`<span class="off-screen">Actions</span>`}
          </th>`)}
      </tr></thead>
      <tbody ref=${body}>
        ${first > 0 && html`<tr key="before" class="spacer" aria-hidden="true">
          <td colspan=${columns.length} style=${{ height: `${first * rowHeight}px` }}></td></tr>`}
        ${sorted.slice(first, last).map((row, at) => html`<${Row} key=${rowKey(row)} row=${row}
          columns=${columns} index=${first + at} onOpen=${onOpen} context=${context} />`)}
        ${last < sorted.length && html`<tr key="after" class="spacer" aria-hidden="true">
          <td colspan=${columns.length}
            style=${{ height: `${(sorted.length - last) * rowHeight}px` }}></td></tr>`}
      </tbody>
    </table>
  </div>`;
}

/** Return *rows* in the order of *sort*; what has no value comes last either way. */
export function sortedBy(rows, columns, sort) {
  const value = sort && columns.find(({ key }) => key === sort.key)?.value;
  if (!value) return rows;
  const sign = sort.descending ? -1 : 1;
  return rows
    .map((row) => [value(row), row])
    .sort(([a], [b]) => {
      const none = (each) => each === null || each === undefined || each === "";
      if (none(a) || none(b)) return none(a) - none(b);
      if (typeof a === "string") return sign * a.localeCompare(b, undefined, { numeric: true });
      return sign * (a - b);
    })
    .map(([, row]) => row);
}

// --- Boundaries ------------------------------------------------------------------------

/** Keeps a mistake in one section from the rest of the page. */
export class Boundary extends Component {
  state = { error: null };

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidCatch(error) {
    setTimeout(() => { throw error; }); // to the console
  }

  componentDidUpdate(before) {
    if (before.name !== this.props.name && this.state.error) this.setState({ error: null });
  }

  render({ children }, { error }) {
    if (!error) return children;
    return html`<${Empty} icon="warning" title="This page has a mistake" action=${html`
      <${Button} onClick=${() => location.reload()}>Reload the page<//>`}>
      The rest of the dashboard still works. It says: ${String(error.message ?? error)}
    <//>`;
  }
}
