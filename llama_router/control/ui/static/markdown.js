// The little Markdown that models write, as elements: headings, lists, code, emphasis. Text stays
// text: nothing in it becomes HTML, and links are shown, not followed.

import { html } from "./lib.js";
import { CopyButton } from "./components.js";

const FENCE = /^\s*(```|~~~)\s*([\w+#.-]*)\s*$/;
const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|(?<![\w*])\*([^*\s][^*]*?)\*(?![\w*])/g;

/** Return the elements of *text*, which may be unfinished. */
export function Markdown({ text }) {
  return html`<div class="markdown">${blocks(text).map((block, n) => shown(block, n))}</div>`;
}

/** Return the blocks of *text*: {kind: "code"|"heading"|"list"|"text", …}. */
export function blocks(text) {
  const found = [];
  let code = null;
  for (const line of text.split("\n")) {
    const fence = FENCE.exec(line);
    if (code) {
      if (fence && fence[1] === code.mark && !fence[2]) code = null;
      else code.lines.push(line);
      continue;
    }
    const last = found.at(-1);
    const heading = /^#{1,6}\s+(.*)/.exec(line);
    const item = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)/.exec(line);
    if (fence) {
      code = { kind: "code", mark: fence[1], language: fence[2], lines: [] };
      found.push(code);
    } else if (heading) {
      found.push({ kind: "heading", text: heading[1] });
    } else if (item) {
      const ordered = item[1] !== undefined;
      if (last?.kind === "list" && last.ordered === ordered) last.items.push(item[2]);
      else found.push({ kind: "list", ordered, start: Number(item[1] ?? 1), items: [item[2]] });
    } else if (!line.trim()) {
      found.push({ kind: "gap" });
    } else if (last?.kind === "text") {
      last.text += `\n${line}`;
    } else {
      found.push({ kind: "text", text: line });
    }
  }
  return found.filter(({ kind }) => kind !== "gap");
}

function shown(block, key) {
  switch (block.kind) {
    case "code": {
      const text = block.lines.join("\n");
      return html`<div key=${key} class="code-block"><header><span>${block.language || "text"}</span>
        <${CopyButton} small kind="quiet" text=${text} label="Copy the code" /></header>
        <pre tabindex="0">${text}</pre></div>`;
    }
    case "heading": return html`<p key=${key}><strong>${inline(block.text)}</strong></p>`;
    case "list": {
      const items = block.items.map((item, n) => html`<li key=${n}>${inline(item)}</li>`);
      return block.ordered ? html`<ol key=${key} start=${block.start}>${items}</ol>`
        : html`<ul key=${key}>${items}</ul>`;
    }
    default: return html`<p key=${key}>${inline(block.text)}</p>`;
  }
}

function inline(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    found.push(text.slice(at, match.index));
    const [whole, , code, strong, emphasis] = match;
    if (code !== undefined) found.push(html`<code>${code}</code>`);
    else if (strong !== undefined) found.push(html`<strong>${strong}</strong>`);
    else found.push(html`<em>${emphasis}</em>`);
    at = match.index + whole.length;
  }
  found.push(text.slice(at));
  return found;
}
