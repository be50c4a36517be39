// Playground: talk to a model.

import { html } from "../lib.js";
import { Empty } from "../components.js";
import { routeTo } from "../route.js";
import { useStore } from "../store.js";

export default function Playground() {
  const models = useStore((state) => state.models);
  return html`<h1>Playground</h1>
    <${Empty} icon="playground" title="Chat in the UI of llama.cpp" action=${html`
      <a class="button plain" href=${routeTo("chat")}>Open it</a>`}>
      It offers all ${models.length} models of this router.<//>`;
}
