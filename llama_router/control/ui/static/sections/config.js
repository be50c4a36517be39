// Configuration: what is in force, and what is wrong with the file.

import { html } from "../lib.js";
import { Empty, Notice } from "../components.js";
import { date } from "../format.js";
import { useStore } from "../store.js";

export default function Configuration() {
  const router = useStore((state) => state.router);
  if (!router) return html`<h1>Configuration</h1>`;
  const { config_path: path, reload } = router;
  return html`<h1>Configuration</h1>
    <p class="quiet"><code>${path}</code>, ${reload.status} ${date(reload.at)}</p>
    ${[...reload.problems, ...reload.warnings].map(({ line, where, message }) => html`
      <${Notice} key=${`${line}${where}${message}`} tone="bad" title=${line ? `Line ${line}.` : ""}>
        ${where}: ${message}<//>`)}
    ${!reload.problems.length && html`<${Empty} icon="check" title="The file is in force">
      Edit it, and the router applies it when you save.<//>`}`;
}
