// What every module of the page needs of the vendored libraries, from one place.

import { Component, createContext, h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { Component, createContext, h, render };
export {
  useCallback, useContext, useEffect, useId, useLayoutEffect, useMemo, useRef, useState,
} from "./vendor/hooks.js";

/** JSX as a template: html`<p class="x">${text}</p>`. Text in it is never parsed as HTML. */
export const html = htm.bind(h);
