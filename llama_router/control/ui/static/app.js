// The frame of the page: navigation, state of the connection, and the section in view.

import { html, render, useEffect, useRef, useState } from "./lib.js";
import { address, request } from "./api.js";
import { Boundary, Button, Confirmations, Notice, Skeleton, Toasts, toast } from "./components.js";
import { Icon, Mark } from "./icons.js";
import { useRoute, routeTo } from "./route.js";
import { SignIn } from "./signin.js";
import { store, useStore } from "./store.js";

/** The sections in the order of the navigation. Each is loaded when it is opened first. */
const SECTIONS = [
  { id: "models", title: "Models", icon: "models", load: () => import("./sections/models.js") },
  { id: "machine", title: "Machine", icon: "machine", admin: true,
    load: () => import("./sections/machine.js") },
  { id: "activity", title: "Activity", icon: "activity", admin: true,
    load: () => import("./sections/activity.js") },
  { id: "logs", title: "Logs", icon: "logs", admin: true,
    load: () => import("./sections/logs.js") },
  { id: "hub", title: "Get models", icon: "hub", admin: true,
    load: () => import("./sections/hub.js") },
  { id: "playground", title: "Playground", icon: "playground",
    load: () => import("./sections/playground.js") },
  { id: "chat", title: "Chat UI", icon: "chat", load: () => import("./sections/chat.js") },
  { id: "config", title: "Configuration", icon: "config", admin: true,
    load: () => import("./sections/config.js") },
];

const loaded = new Map();

function App() {
  const route = useRoute();
  const connection = useStore((state) => state.connection);
  const scope = useStore((state) => state.session.scope);
  if (connection === "sign-in") return html`<${SignIn} /><${Toasts} />`;
  const section = SECTIONS.find(({ id }) => id === route.section) ?? SECTIONS[0];
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <div class="frame">
      <${Navigation} current=${section.id} />
      <main id="main" tabindex="-1">
        <${Connection} />
        ${section.admin && scope === "models" ? html`<${AdminOnly} title=${section.title} />`
          : html`<${Boundary} name=${section.id}>
            <${Section} key=${section.id} section=${section} route=${route} /><//>`}
      </main>
    </div>
    <${Confirmations} />
    <${Toasts} />`;
}

function skip(event) {
  event.preventDefault(); // the hash is the route
  document.getElementById("main").focus();
}

/** One section, once its module is here. */
function Section({ section, route }) {
  const [part, setPart] = useState(() => loaded.get(section.id)); // a function, too
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    document.title = `${section.title} · llama-router`;
    if (part) return;
    section.load().then(
      ({ default: found }) => {
        loaded.set(section.id, found);
        setPart(() => found);
      },
      () => setFailed(true));
  }, []);
  if (failed) {
    return html`<${Notice} tone="bad" title="This section could not be loaded."
      action=${html`<${Button} onClick=${() => location.reload()}>Reload the page<//>`}>
      The router did not answer, or another version of it runs now.<//>`;
  }
  if (!part) return html`<h1>${section.title}</h1><${Skeleton} />`;
  return html`<${part} route=${route} />`;
}

function AdminOnly({ title }) {
  return html`<h1>${title}</h1>
    <${Notice} action=${html`<${Button} onClick=${() => store.signedOut({ mayLeave: true })}>
      Sign in<//>`}>
      This section needs the admin token; without it you may see and use models only.<//>`;
}

/** End the session, if there is one, and show the sign-in page. */
async function signOut() {
  await request("/ui/session", { method: "DELETE" });
  store.signedOut();
}

function Navigation({ current }) {
  const session = useStore((state) => state.session);
  const version = useStore((state) => state.router?.version);
  const strip = useRef(null);
  useEffect(() => {
    strip.current.querySelector("[aria-current]")
      ?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [current]);
  const shown = SECTIONS.filter(({ admin }) => !admin || session.scope !== "models");
  return html`<header class="side">
    <a class="brand" href=${routeTo("models")}><${Mark} /><span>llama-router</span></a>
    <nav aria-label="Sections" ref=${strip}><ul>
      ${shown.map(({ id, title, icon }) => html`<li key=${id}>
        <a href=${routeTo(id)} aria-current=${id === current ? "page" : undefined}>
          <${Icon} name=${icon} /><span>${title}</span></a></li>`)}
    </ul></nav>
    <div class="side-end">
      ${current === "chat" && html`<a class="quiet-link" href=${address("/index.html")} target="_blank">
        <${Icon} name="out" size=${16} /><span>In a tab of its own</span></a>`}
      ${session.signed_in && html`<${Button} kind="quiet" small icon="leave" onClick=${signOut}>
        Sign out<//>`}
      ${session.scope === "models" && !session.signed_in && html`<${Button} kind="quiet" small
        icon="key" onClick=${() => store.signedOut({ mayLeave: true })}>Sign in<//>`}
      ${version && html`<p class="quiet small-text">Version ${version}</p>`}
    </div>
  </header>`;
}

/** What is the matter with the connection; nothing while all is well. */
function Connection() {
  const connection = useStore((state) => state.connection);
  const trouble = useStore((state) => state.trouble);
  const known = useStore((state) => state.router !== null);
  if (connection === "live" || (connection === "opening" && !known)) return null;
  if (connection === "opening") return null;
  const again = html`<${Button} small icon="refresh" onClick=${() => store.retry()}>Try now<//>`;
  if (connection === "ending") {
    return html`<${Notice} tone="busy" title="The router is stopping." action=${again}>
      This page comes back when it runs again.<//>`;
  }
  return html`<${Notice} tone="bad" title="No connection." action=${again}>
    ${trouble} ${known && "What you see is the last known state."}<//>`;
}

store.onRestart(() => toast("The router was restarted; this is its new state."));
render(html`<${App} />`, document.getElementById("app"));
store.run();
