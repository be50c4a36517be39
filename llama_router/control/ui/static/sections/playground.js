// Playground: chat with a model, and try its embeddings and its ranking.

import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { ApiError, call, events, request, sentence } from "../api.js";
import { Button, CopyButton, Empty, Field, Notice, Progress, Segmented, Select, Skeleton, toastError }
  from "../components.js";
import { duration, plural, rate } from "../format.js";
import { Icon } from "../icons.js";
import { Markdown } from "../markdown.js";
import { loadText } from "../model_row.js";
import { routeTo, useChoice } from "../route.js";
import { useNow, useStore } from "../store.js";

const TABS = [
  { value: "chat", label: "Chat" },
  { value: "embeddings", label: "Embeddings" },
  { value: "rerank", label: "Rerank" },
];

/** What a model must be able to do for a tab; models that tell nothing are offered everywhere. */
const NEEDED = { chat: "completion", embeddings: "embedding", rerank: "rerank" };

/** Largest picture that is sent, in bytes. */
const MAX_IMAGE_BYTES = 20_000_000;

const PARAMETERS = [
  { key: "temperature", label: "Temperature", min: 0, max: 5, step: 0.1 },
  { key: "top_p", label: "Top p", min: 0, max: 1, step: 0.05 },
  { key: "max_tokens", label: "Most tokens", min: 1, max: 1_000_000, step: 1 },
  { key: "seed", label: "Seed", min: 0, max: 4_294_967_295, step: 1 },
];

/** The conversation; it stays while another section is open, and is gone with the page. */
let conversation = [];

export default function Playground({ route }) {
  const tab = TABS.some(({ value }) => value === route.params.get("tab"))
    ? route.params.get("tab") : "chat";
  const entries = useEntries();
  const [kept, setKept] = useChoice("playground.model", "");
  if (entries === null) return html`<h1>Playground</h1><${Skeleton} />`;
  const able = entries.filter((entry) => !entry.capabilities?.length
    || entry.capabilities.includes(NEEDED[tab]));
  const names = (able.length ? able : entries).map(({ id }) => id);
  const wanted = route.argument || kept;
  const sure = able.find((entry) => entry.capabilities?.length);
  const model = names.includes(wanted) ? wanted : sure?.id ?? names[0];
  const choose = (name) => {
    setKept(name);
    location.hash = routeTo("playground", name, { tab });
  };
  return html`<div class="section-head"><h1>Playground</h1>
      <${Segmented} label="What to try" value=${tab} options=${TABS}
        onChange=${(value) => { location.hash = routeTo("playground", model ?? "", { tab: value }); }} />
    </div>
    ${!model ? html`<${Empty} icon="playground" title="No models">
        <a href=${routeTo("hub")}>Get one from the hub</a>, or put GGUF files into a folder of
        <code>models_dirs</code>.<//>`
      : html`<div class="toolbar">
        <${Select} aria-label="Model" value=${model} options=${names} onChange=${choose} />
        <${ModelState} model=${model} />
        <a class="quiet-link end" href=${routeTo("chat")}><${Icon} name="out" size=${16} />
          <span>Chat UI of llama.cpp</span></a>
      </div>
      ${tab === "chat" ? html`<${Chat} model=${model}
          sees=${sees(entries.find(({ id }) => id === model))} />`
        : tab === "embeddings" ? html`<${Embeddings} model=${model} />`
        : html`<${Rerank} model=${model} />`}`}`;
}

/** The models as clients see them: with their abilities. Null until they are here. */
function useEntries() {
  const [entries, setEntries] = useState(null);
  const known = useStore((state) => state.models.length);
  // Those of the rows are known before the first load; a person with an API key has none.
  const abilities = useStore((state) => JSON.stringify(Object.fromEntries(
    state.models.map(({ id, capabilities }) => [id, capabilities ?? []]))));
  useEffect(() => {
    const end = new AbortController();
    call("/v1/models", { signal: end.signal })
      .then(({ data }) => setEntries(data))
      .catch((error) => {
        if (error.name === "AbortError") return;
        setEntries([]);
        toastError(error);
      });
    return () => end.abort();
  }, [known]);
  return useMemo(() => {
    const known = JSON.parse(abilities);
    return entries && entries.map((entry) => ({ ...entry,
      capabilities: known[entry.id]?.length ? known[entry.id] : entry.capabilities }));
  }, [entries, abilities]);
}

function sees({ capabilities, architecture } = {}) {
  return capabilities?.includes("vision") || architecture?.input_modalities?.includes("image");
}

/** Whether the model is loaded, and what it waits for. */
function ModelState({ model }) {
  const row = useStore((state) => state.models.find(({ id }) => id === model));
  useNow(row?.phase === "starting" ? 1 : 60);
  if (!row) return null;
  if (row.phase === "starting") {
    return html`<div class="load-state"><span class="quiet">${
      ["Loading", loadText(row)].filter(Boolean).join(", ")}</span>
      <${Progress} label=${`Load of ${model}`} value=${row.load_progress} /></div>`;
  }
  if (row.waits_for) return html`<span class="quiet">${sentence(row.waits_for)}</span>`;
  return html`<span class="quiet">${row.phase === "ready" ? "Loaded"
    : "Not loaded: the first request loads it"}</span>`;
}

// --- Chat ------------------------------------------------------------------------------

function Chat({ model, sees }) {
  const [turns, setTurns] = useState(conversation);
  const [text, setText] = useState("");
  const [image, setImage] = useState(null);
  const [system, setSystem] = useChoice("playground.system", "");
  const [values, setValues] = useChoice("playground.parameters", {});
  const [settings, setSettings] = useState(false);
  const running = useRef(null);
  const field = useRef(null);
  const end = useRef(null);
  useEffect(() => { conversation = turns; }, [turns]);
  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => { end.current?.scrollIntoView({ block: "nearest" }); }, [turns]);
  const busy = turns.at(-1)?.running === true;

  const run = async (before) => {
    const answer = { role: "assistant", model, text: "", thinking: "", running: true };
    const show = (changes) => {
      Object.assign(answer, changes);
      setTurns([...before, { ...answer }]);
    };
    show({});
    running.current = new AbortController();
    const later = atMostOncePerFrame(() => show({}));
    try {
      await stream({ model, messages: messagesOf(system, before), ...chosen(values) },
        running.current.signal, (changes) => {
          Object.assign(answer, changes(answer));
          later();
        });
      show({ running: false });
    } catch (error) {
      const stopped = error.name === "AbortError";
      show({ running: false, stopped, error: stopped ? null : messageOf(error) });
    }
    later.cancel();
    field.current?.focus();
  };
  const send = () => {
    if (busy || (!text.trim() && !image)) return;
    const before = [...turns, { role: "user", text, image }];
    setText("");
    setImage(null);
    run(before);
  };
  const again = () => run(turns.slice(0, -1));
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  return html`<div class="chat">
    <div class="turns" aria-label="Conversation" role="log" aria-live="off">
      ${turns.length === 0 && html`<${Empty} icon="chat" title="Say something">
        The conversation stays in this page. Enter sends, Shift and Enter begin a new line.<//>`}
      ${turns.map((turn, n) => html`<${Turn} key=${n} turn=${turn} />`)}
      ${turns.length > 0 && !busy && html`<div class="toolbar">
        ${turns.at(-1).role === "assistant" && html`<${Button} small icon="refresh"
          onClick=${() => { again(); }}>Answer again<//>`}
        <${Button} small icon="trash" onClick=${() => setTurns([])}>Clear<//></div>`}
      <div ref=${end}></div>
    </div>
    <form class="composer card" onSubmit=${(event) => { event.preventDefault(); send(); }}>
      ${settings && html`<${Parameters} values=${values} onChange=${setValues}
        system=${system} onSystem=${setSystem} />`}
      ${image && html`<div class="picked"><img src=${image} alt="The picture to send" />
        <${Button} small kind="quiet" icon="close" label="Remove the picture"
          onClick=${() => setImage(null)} /></div>`}
      <textarea ref=${field} rows="3" value=${text} aria-label="Message" placeholder="Message"
        onInput=${(event) => setText(event.target.value)} onKeyDown=${key}></textarea>
      <div class="toolbar">
        <${Button} small icon="gear" aria-pressed=${String(settings)}
          onClick=${() => setSettings(!settings)}>Settings<//>
        ${sees && html`<label class="button small plain file-button">Picture
          <input type="file" accept="image/*" class="off-screen"
            onChange=${(event) => { readImage(event.target).then(setImage, toastError); }} /></label>`}
        <span class="end">${busy
          ? html`<${Button} icon="stop" onClick=${() => { running.current.abort(); }}>Stop<//>`
          : html`<${Button} kind="primary" type="submit" disabled=${!text.trim() && !image}>Send<//>`}
        </span>
      </div>
    </form>
  </div>`;
}

function Turn({ turn }) {
  if (turn.role === "user") {
    return html`<article class="turn user" aria-label="You">
      ${turn.image && html`<img src=${turn.image} alt="The picture that was sent" />`}
      <p class="said">${turn.text}</p></article>`;
  }
  return html`<article class="turn answer" aria-label=${`Answer of ${turn.model}`}>
    <header class="quiet small-text"><span dir="auto">${turn.model}</span>
      <${Figures} turn=${turn} /></header>
    ${turn.thinking && html`<details open=${turn.running && !turn.text}>
      <summary>${turn.running && !turn.text ? "Thinking…" : "Thoughts"}</summary>
      <p class="said quiet">${turn.thinking}</p></details>`}
    ${turn.text && html`<${Markdown} text=${turn.text} />`}
    ${turn.running && !turn.text && !turn.thinking && html`<p class="quiet" role="status">
      <span class="spinner" aria-hidden="true"></span> ${turn.notice ?? "Waiting for the first word"}</p>`}
    ${turn.stopped && html`<p class="quiet">Stopped.</p>`}
    ${turn.error && html`<${Notice} tone="bad">${turn.error}<//>`}
    ${!turn.running && turn.text && html`<${CopyButton} small kind="quiet" text=${turn.text}
      label="Copy the answer" />`}
  </article>`;
}

function Figures({ turn }) {
  const { ttft_s: ttftS, tokens, rate: perS } = turn;
  return html`<span class="end">${[
    ttftS !== undefined && `first word after ${duration(ttftS)}`,
    tokens !== undefined && plural(tokens, "token"),
    perS !== undefined && `${rate(perS)} tokens/s`,
  ].filter(Boolean).join(" · ")}</span>`;
}

function Parameters({ values, onChange, system, onSystem }) {
  const set = (key, text) => {
    const { [key]: _, ...rest } = values;
    onChange(text === "" || Number.isNaN(Number(text)) ? rest : { ...rest, [key]: Number(text) });
  };
  return html`<div class="form-grid">
    <div class="whole"><${Field} label="System prompt">${(rest) => html`<textarea rows="2"
      value=${system} onInput=${(event) => onSystem(event.target.value)} ...${rest}></textarea>`}<//></div>
    ${PARAMETERS.map(({ key, label, min, max, step }) => html`<${Field} key=${key} label=${label}>
      ${(rest) => html`<input type="number" min=${min} max=${max} step=${step}
        value=${values[key] ?? ""} placeholder="the model's own"
        onInput=${(event) => set(key, event.target.value)} ...${rest} />`}<//>`)}
  </div>`;
}

function chosen(values) {
  return Object.fromEntries(PARAMETERS.map(({ key }) => [key, values[key]])
    .filter(([, value]) => value !== undefined));
}

/** Return the conversation as the API takes it; answers that failed are left out. */
function messagesOf(system, turns) {
  const said = turns.filter(({ role, text }) => role === "user" || text).map(({ role, text, image }) => (
    { role, content: image ? [
      ...(text ? [{ type: "text", text }] : []),
      { type: "image_url", image_url: { url: image } },
    ] : text }));
  return system.trim() ? [{ role: "system", content: system }, ...said] : said;
}

/** Send a chat; call *change* with functions that return what changes in the answer. */
async function stream(body, signal, change) {
  const began = performance.now();
  const response = await request("/v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } },
    headers: { "x-notify-model-swap": "0" }, signal });
  let first = null;
  for await (const { data } of events(response)) {
    if (data === "[DONE]") return;
    const piece = parsed(data);
    if (piece.error) throw new ApiError(piece.error.message ?? piece.error, { code: "stream" });
    const delta = piece.choices?.[0]?.delta ?? {};
    const thinking = delta.reasoning_content ?? delta.reasoning ?? "";
    const text = delta.content ?? "";
    if ((text || thinking) && first === null) {
      first = performance.now();
      change(() => ({ ttft_s: (first - began) / 1000 }));
    }
    if (text || thinking) {
      change((turn) => ({ text: turn.text + text, thinking: turn.thinking + thinking }));
    }
    const made = piece.usage?.completion_tokens;
    if (made !== undefined && made !== null) {
      const own = piece.timings?.predicted_per_second;
      const took_s = (performance.now() - (first ?? began)) / 1000;
      change(() => ({ tokens: made, rate: own ?? (took_s > 0 ? made / took_s : undefined) }));
    }
  }
  throw new ApiError("the answer broke off before its end", { code: "cut" });
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("the model's server sent an event that is not JSON", { code: "unreadable" });
  }
}

async function readImage(input) {
  const [file] = input.files;
  input.value = ""; // the same file may be chosen again
  if (!file) return null;
  if (file.size > MAX_IMAGE_BYTES) throw new ApiError("the picture is larger than 20 MB");
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new ApiError("the browser cannot read this file"));
    reader.readAsDataURL(file);
  });
}

function atMostOncePerFrame(act) {
  let frame = 0;
  const later = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      act();
    });
  };
  later.cancel = () => cancelAnimationFrame(frame);
  return later;
}

function messageOf(error) {
  return error instanceof ApiError ? error.message : sentence(error.message);
}

// --- Embeddings and ranking ------------------------------------------------------------

/** A form with several texts, one per line, whose result stands below it. */
function Trial({ button, valid, run, children, result }) {
  const [state, setState] = useState({});
  const send = async () => {
    setState({ running: true });
    const began = performance.now();
    try {
      setState({ found: await run(), took_s: (performance.now() - began) / 1000 });
    } catch (error) {
      setState({ error: messageOf(error) });
    }
  };
  return html`<form class="card stack" onSubmit=${(event) => { event.preventDefault(); send(); }}>
      ${children}
      <div class="toolbar"><${Button} kind="primary" type="submit" busy=${state.running}
        disabled=${!valid}>${button}<//>
        ${state.took_s !== undefined && html`<span class="quiet">${duration(state.took_s)}</span>`}</div>
    </form>
    ${state.error && html`<${Notice} tone="bad">${state.error}<//>`}
    ${state.found && result(state.found)}`;
}

function linesOf(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

function Embeddings({ model }) {
  const [text, setText] = useState("A cat sleeps on the sofa.\nA kitten naps on the couch.\n"
    + "The market fell on Monday.");
  const texts = linesOf(text);
  const run = async () => {
    const { data } = await call("/v1/embeddings", { body: { model, input: texts } });
    const vectors = [...data].sort((a, b) => a.index - b.index).map(({ embedding }) => embedding);
    if (!vectors.every((vector) => Array.isArray(vector))) {
      throw new ApiError("the model's server sent no vectors of numbers");
    }
    return { texts, vectors };
  };
  return html`<${Trial} button="Compare" valid=${texts.length > 0} run=${run}
    result=${({ texts: said, vectors }) => html`<${Similarities} texts=${said} vectors=${vectors} />`}>
    <${Field} label="Texts" hint="One per line. They are compared with each other.">
      ${(rest) => html`<textarea rows="5" value=${text}
        onInput=${(event) => setText(event.target.value)} ...${rest}></textarea>`}<//>
  <//>`;
}

function Similarities({ texts, vectors }) {
  return html`<div class="stack"><p class="quiet">${plural(vectors.length, "vector")} of
      ${" "}${plural(vectors[0].length, "dimension")}. 1 is the same direction, 0 is unrelated.</p>
    <div class="table-frame"><table aria-label="Similarity of the texts"><thead><tr>
        <th scope="col">Text</th>${texts.map((_, n) => html`<th key=${n} scope="col" class="right">${n + 1}</th>`)}
      </tr></thead><tbody>
      ${texts.map((text, n) => html`<tr key=${n}><th scope="row"><span class="one-line"
          title=${text}>${n + 1}. ${text}</span></th>
        ${texts.map((_, m) => html`<td key=${m} class="right likeness"
          style=${{ "--likeness": `${Math.round(Math.max(0, cosine(vectors[n], vectors[m])) * 60)}%` }}>
          ${cosine(vectors[n], vectors[m]).toFixed(2)}</td>`)}</tr>`)}
    </tbody></table></div></div>`;
}

function cosine(a, b) {
  let dot = 0;
  let lengthA = 0;
  let lengthB = 0;
  for (let n = 0; n < a.length; n += 1) {
    dot += a[n] * b[n];
    lengthA += a[n] * a[n];
    lengthB += b[n] * b[n];
  }
  return dot / (Math.sqrt(lengthA * lengthB) || 1);
}

function Rerank({ model }) {
  const [query, setQuery] = useState("How do I boil an egg?");
  const [text, setText] = useState("Eggs are laid by hens.\nPut the egg into boiling water for six "
    + "minutes.\nThe pan is made of steel.");
  const documents = linesOf(text);
  const run = async () => {
    const { results } = await call("/v1/rerank", { body: { model, query, documents } });
    return results.map(({ index, relevance_score: score }) => ({ text: documents[index], score }))
      .sort((a, b) => b.score - a.score);
  };
  return html`<${Trial} button="Rank" valid=${documents.length > 0 && query.trim() !== ""} run=${run}
    result=${(ranked) => html`<ol class="rows" aria-label="Ranking">${ranked.map(({ text: said, score }, n) => html`
      <li key=${n}><span class="name">${said}</span><span class="quiet">${score.toFixed(3)}</span></li>`)}</ol>`}>
    <${Field} label="Question">${(rest) => html`<input value=${query}
      onInput=${(event) => setQuery(event.target.value)} ...${rest} />`}<//>
    <${Field} label="Texts" hint="One per line. They are put into order by how well they answer.">
      ${(rest) => html`<textarea rows="5" value=${text}
        onInput=${(event) => setText(event.target.value)} ...${rest}></textarea>`}<//>
  <//>`;
}
