// Logs: the output of a model's backends.

import { html, useEffect, useState } from "../lib.js";
import { encodeName, request } from "../api.js";
import { Empty, Select, toastError } from "../components.js";
import { useStore } from "../store.js";

export default function Logs({ route }) {
  const models = useStore((state) => state.models);
  const [chosen, setChosen] = useState(route.argument);
  const [text, setText] = useState("");
  const model = chosen || models[0]?.id;
  useEffect(() => {
    if (!model) return undefined;
    const end = new AbortController();
    request(`/admin/logs/${encodeName(model)}`, { query: { format: "text" }, signal: end.signal })
      .then((response) => response.text()).then(setText).catch(toastError);
    return () => end.abort();
  }, [model]);
  return html`<h1>Logs</h1>
    <${Select} aria-label="Model" value=${model} onChange=${setChosen}
      options=${models.map(({ id }) => id)} />
    ${text ? html`<pre class="log" tabindex="0">${text}</pre>`
      : html`<${Empty} icon="logs" title="No output">This model has not run yet.<//>`}`;
}
