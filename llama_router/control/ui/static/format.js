// Figures and times as people read them. Nothing here touches the page.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat(undefined,
  { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Shown where a figure is not known. */
export const NONE = "–";

/** Return a count: "12,345". */
export function count(value) {
  return value === null || value === undefined ? NONE : NUMBER.format(value);
}

/** Return "1 request", "2 requests". */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Return an amount of memory given in MiB: "812 MiB", "7.3 GiB". */
export function mib(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1) return `${NUMBER.format(value)} MiB`;
  if (value < 1000) return `${Math.round(value)} MiB`;
  return `${(value / 1024).toFixed(value < 102_400 ? 1 : 0)} GiB`;
}

/** Return a size of files given in bytes, in decimal units, as the hub says it: "4.7 GB". */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let amount = value;
  while (amount >= 999.5 && at < units.length - 1) {
    amount /= 1000;
    at += 1;
  }
  return `${amount >= 100 || at === 0 ? Math.round(amount) : amount.toFixed(1)} ${units[at]}`;
}

/** Return a duration given in seconds: "340 ms", "4.2 s", "3 min 20 s", "2 h 5 min", "3 d". */
export function duration(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return join(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86_400) return join(Math.floor(whole / 3600), "h", Math.floor(whole / 60) % 60, "min");
  return join(Math.floor(whole / 86_400), "d", Math.floor(whole / 3600) % 24, "h");
}

function join(first, unit, second, smaller) {
  return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}

/** Return a duration in one rough unit, for what changes every second: "now", "40 s", "3 min". */
export function rough(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1) return "now";
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86_400) return `${Math.floor(value / 3600)} h`;
  return `${Math.floor(value / 86_400)} d`;
}

/** Return a fraction as a percentage: "42 %". */
export function percent(value) {
  return value === null || value === undefined ? NONE : `${Math.floor(value * 100)} %`;
}

/** Return a rate of tokens per second: "85.3". */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 100 ? count(Math.round(value)) : value.toFixed(1);
}

/** Return a context length: "4,096" or "128k". */
export function tokens(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 8192 && value % 1024 === 0 ? `${value / 1024}k` : count(value);
}

/** Return the time of day of a Unix time in seconds. */
export function clock(unixS) {
  return unixS === null || unixS === undefined ? NONE : CLOCK.format(new Date(unixS * 1000));
}

/** Return the date and time of a Unix time in seconds. */
export function date(unixS) {
  return unixS === null || unixS === undefined ? NONE : DAY.format(new Date(unixS * 1000));
}

/** Return *text* cut to *most* characters, with a mark if something was cut. */
export function cut(text, most = 2000) {
  const said = String(text ?? "");
  return said.length > most ? `${said.slice(0, most)}… (${count(said.length - most)} more)` : said;
}
