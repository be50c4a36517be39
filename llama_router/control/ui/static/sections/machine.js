// Machine: what its memory is used for.

import { html } from "../lib.js";
import { Empty } from "../components.js";
import { mib } from "../format.js";
import { useStore } from "../store.js";

export default function Machine() {
  const devices = useStore((state) => state.devices);
  return html`<h1>Machine</h1>
    ${devices.length ? html`<ul class="rows" aria-label="Devices">
      ${devices.map(({ name, description, free_mib: free, budget_mib: budget }) => html`
        <li key=${name}><span class="name">${name}</span> <span class="quiet">${description}</span>
          <span>${mib(free)} free of ${mib(budget)}</span></li>`)}
    </ul>` : html`<${Empty} icon="machine" title="Memory is not managed">
      With policy = "memory" in router.toml the router knows the devices of this machine.<//>`}`;
}
