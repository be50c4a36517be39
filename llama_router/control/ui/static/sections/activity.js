// Activity: requests, live and past.

import { html, useEffect } from "../lib.js";
import { Empty, toastError } from "../components.js";
import { clock } from "../format.js";
import { store, useStore } from "../store.js";

export default function Activity() {
  const requests = useStore((state) => state.requests);
  useEffect(() => void store.wantPast().catch(toastError), []);
  return html`<h1>Activity</h1>
    ${requests.length ? html`<ul class="rows" aria-label="Requests">
      ${requests.slice(0, 50).map((row) => html`<li key=${row.id}>
        <span>${clock(row.began_at)}</span> <span class="name">${row.model}</span>
        <span>${row.state}</span></li>`)}
    </ul>` : html`<${Empty} icon="activity" title="No requests yet">They appear here as they come.<//>`}`;
}
