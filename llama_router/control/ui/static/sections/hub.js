// Get models: downloads from the hub.

import { html } from "../lib.js";
import { Empty, Progress } from "../components.js";
import { bytes } from "../format.js";
import { useStore } from "../store.js";

export default function Hub() {
  const downloads = useStore((state) => state.downloads);
  return html`<h1>Get models</h1>
    ${downloads.length ? html`<ul class="rows" aria-label="Downloads">
      ${downloads.map((row) => html`<li key=${row.id}><span class="name">${row.requested}</span>
        <span>${row.state}</span> <span>${bytes(row.done_bytes)} of ${bytes(row.total_bytes)}</span>
        ${row.state === "running" && html`<${Progress} label=${`Download of ${row.requested}`}
          value=${row.total_bytes && row.done_bytes / row.total_bytes} />`}</li>`)}
    </ul>` : html`<${Empty} icon="hub" title="No downloads">
      <code>llama-router pull user/repo</code> fetches a model from the hub.<//>`}`;
}
