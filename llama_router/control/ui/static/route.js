// The address within the page: #/SECTION/ARGUMENT?PARAMETER=VALUE.

import { useEffect, useState } from "./lib.js";

/** Return {section, argument, params} of an address; *argument* is decoded and may have slashes. */
export function parseRoute(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const slash = path.indexOf("/");
  const [section, rest] = slash < 0 ? [path, ""] : [path.slice(0, slash), path.slice(slash + 1)];
  return { section, argument: decoded(rest), params: new URLSearchParams(search) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
}

/** Return the address of a section, for a link. */
export function routeTo(section, argument = "", params = {}) {
  const search = new URLSearchParams(
    Object.entries(params).filter(([, value]) => value !== null && value !== "")).toString();
  return `#/${section}${argument ? `/${encodeURIComponent(argument)}` : ""}${
    search ? `?${search}` : ""}`;
}

/** Return the present route, and render again when it changes. */
export function useRoute() {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const read = () => setRoute(parseRoute(location.hash));
    window.addEventListener("hashchange", read);
    return () => window.removeEventListener("hashchange", read);
  }, []);
  return route;
}

/** Keep what a person chose in a section in this browser; returns [value, set] like useState. */
export function useChoice(name, initial) {
  const key = `llama-router.${name}`;
  const [value, setValue] = useState(() => {
    try {
      const kept = localStorage.getItem(key);
      return kept === null ? initial : JSON.parse(kept);
    } catch {
      return initial; // the browser keeps nothing for this page, or it was changed by hand
    }
  });
  const keep = (next) => {
    setValue(next);
    try {
      localStorage.setItem(key, JSON.stringify(next));
    } catch {
      // It is kept until the page is closed.
    }
  };
  return [value, keep];
}
