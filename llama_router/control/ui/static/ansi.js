// Colours of a terminal in a line of output, as parts with classes. Nothing here touches the page.
// Source: ECMA-48, section 8.3.117 (SGR).

const ESCAPE = /\x1b\[([0-9;:]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b./g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/**
 * Return the parts of *line*: {text, className}. Escape sequences are gone; other control characters,
 * and those that turn the direction of text, are shown as their numbers.
 */
export function parts(line) {
  if (!line.includes("\x1b")) return [{ text: visible(line), className: "" }];
  const found = [];
  let style = {};
  let at = 0;
  const add = (text) => {
    if (text) found.push({ text: visible(text), className: classOf(style) });
  };
  for (const match of line.matchAll(ESCAPE)) {
    add(line.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] === "m") style = applied(style, match[1]);
  }
  add(line.slice(at));
  return found;
}

/** Return *line* without escape sequences, for a search. */
export function plain(line) {
  return line.includes("\x1b") ? line.replace(ESCAPE, "") : line;
}

function visible(text) {
  return text.replace(CONTROLS,
    (character) => `\\x${character.codePointAt(0).toString(16).padStart(2, "0")}`);
}

function applied(style, parameters) {
  const next = { ...style };
  const codes = parameters.split(/[;:]/).map(Number);
  for (let n = 0; n < codes.length; n += 1) {
    const code = codes[n];
    if (code === 0) Object.keys(next).forEach((key) => delete next[key]);
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code >= 30 && code <= 37) next.colour = COLOURS[code - 30];
    else if (code >= 90 && code <= 97) next.colour = COLOURS[code - 90];
    else if (code === 39) next.colour = undefined;
    else if (code === 38 || code === 48) n += codes[n + 1] === 5 ? 2 : 4; // of 256, or RGB: left out
  }
  return next;
}

function classOf({ bold, dim, colour }) {
  return [bold && "ansi-bold", dim && "ansi-dim", colour && `ansi-${colour}`].filter(Boolean).join(" ");
}
