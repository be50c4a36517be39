// Models: what each one does, and what can be done with it.

import { html } from "../lib.js";
import { Badge, Empty } from "../components.js";
import { useStore } from "../store.js";

export default function Models() {
  const models = useStore((state) => state.models);
  return html`<h1>Models</h1>
    ${models.length ? html`<ul class="rows" aria-label="Models">
      ${models.map(({ id, phase }) => html`<li key=${id}><span class="name">${id}</span>
        <${Badge}>${phase}<//></li>`)}
    </ul>` : html`<${Empty} icon="models" title="No models yet">
      Put GGUF files where llama.cpp or Hugging Face keep them, or get one from the hub.<//>`}`;
}
