// Icons as strokes on a grid of 24, drawn for this page. All are decoration: a label says more.

import { html } from "./lib.js";

const STROKES = {
  models: "M12 3 20 7.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  machine: "M7 4v3M12 4v3M17 4v3M7 17v3M12 17v3M17 17v3M4 7h16v10H4zM8 10.5h4v3H8z",
  activity: "M3 12h4l3-8 4 16 3-8h4",
  logs: "M5 5h14M5 10h9M5 15h14M5 20h6",
  hub: "M12 3v12M7 10l5 5 5-5M4 20h16",
  playground: "M9 3h6M10 3v6l-5 9a2 2 0 0 0 2 3h10a2 2 0 0 0 2-3l-5-9V3M8 15h8",
  config: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  chat: "M4 5h16v11h-9l-5 4v-4H4z",
  play: "M8 5v14l11-7z",
  stop: "M7 7h10v10H7z",
  pause: "M9 6v12M15 6v12",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  close: "M6 6l12 12M18 6 6 18",
  search: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.5 15.5 20 20",
  cards: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  table: "M4 5h16v14H4zM4 10h16M4 14.5h16M10 10v9",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  refresh: "M20 12a8 8 0 1 1-2.5-5.8M20 4v5h-5",
  warning: "M12 4 2.5 20h19zM12 10v5M12 17.5v.5",
  check: "M5 12.5 10 17 19 7",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  right: "M9 6l6 6-6 6",
  out: "M9 4H4v16h16v-5M13 4h7v7M20 4l-9 9",
  leave: "M14 4h6v16h-6M10 8l-4 4 4 4M6 12h9",
  clock: "M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16zM12 8v4.5l3 2",
  key: "M8.5 10a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7zM11 11l8-8M16 6l3 3",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  menu: "M4 7h16M4 12h16M4 17h16",
  moon: "M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z",
};

/** @param {{name: keyof STROKES, size: number}} props */
export function Icon({ name, size = 18 }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true"
    focusable="false"><path d=${STROKES[name]} /></svg>`;
}

/** The router's mark: one line that becomes two. */
export function Mark({ size = 24 }) {
  return html`<svg class="mark" width=${size} height=${size} viewBox="0 0 16 16" aria-hidden="true"
    focusable="false"><path d="M2 8h6M8 8l5-4.5M8 8l5 4.5" /></svg>`;
}
