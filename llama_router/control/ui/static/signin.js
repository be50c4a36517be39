// The page that asks for the admin token or an API key.

import { html, useEffect, useRef, useState } from "./lib.js";
import { call } from "./api.js";
import { Button, Field } from "./components.js";
import { Mark } from "./icons.js";
import { store, useStore } from "./store.js";

/** Asks for a secret, and gives it to the router, which keeps it in a cookie of its own. */
export function SignIn() {
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const mayLeave = useStore((state) => state.mayLeave);
  const form = useRef(null);
  useEffect(() => {
    document.title = "Sign in · llama-router";
    form.current.querySelector("input").focus();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    const field = form.current.querySelector("input");
    const secret = field.value.trim();
    if (!secret) return setError("Type the admin token or an API key.");
    setBusy(true);
    setError("");
    try {
      await call("/ui/session", { body: { secret } });
      store.signedIn();
    } catch (failure) {
      setError(failure.message);
      setBusy(false);
      field.select();
    }
    return undefined;
  };
  return html`<main class="sign-in">
    <form ref=${form} onSubmit=${submit} class="card" novalidate>
      <h1><${Mark} size=${28} /> llama-router</h1>
      <p class="quiet">Sign in with the admin token, or with an API key to see and use models only.</p>
      <${Field} label="Admin token or API key" error=${error} hint=${html`The admin token is in
        the file <code>admin-token</code> in the state directory of the router, unless
        <code>router.toml</code> sets one.`}>
        ${(props) => html`<input type="password" autocomplete="current-password" ...${props} />`}
      <//>
      <${Button} kind="primary" type="submit" busy=${busy}>Sign in<//>
      ${mayLeave && html`<${Button} onClick=${() => store.signedIn()}>Not now<//>`}
    </form>
  </main>`;
}
