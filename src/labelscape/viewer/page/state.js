// @ts-check
/** What is shown, and its address: the part after # is a permalink of the view. */

import { parts } from "./legend.js";
import { hex } from "./map.js";

/**
 * @typedef {{zoom: number | null, row: number | null, column: number | null, show: string,
 *   showBand: number, opacity: number, beside: string, besideBand: number, fade: boolean, swipe: number, imagery: boolean, outlines: boolean,
 *   bands: number[], stretch: [number, number][], hidden: Record<string, number[]>,
 *   colors: Record<string, Record<number, [number, number, number]>>}} State
 */

/** @param {import("./api.js").MapFacts} facts @returns {State} */
export function first(facts) {
  const scene = facts.layers.find((layer) => layer.kind === "scene");
  return {
    zoom: null, row: null, column: null, show: facts.layers.find((layer) => layer.kind === "classes")?.key ?? "none", showBand: 0, opacity: 70,
    beside: facts.layers.some((layer) => layer.key === "2-class") ? "2-class" : "",
    besideBand: 0, fade: false, swipe: 500, imagery: true, outlines: false, bands: scene ? scene.usual : [], stretch: [], hidden: {},
    colors: {},
  };
}

/** @param {State} state @returns {string} */
export function toHash(state) {
  const words = new URLSearchParams();
  if (state.zoom !== null && state.row !== null && state.column !== null) {
    words.set("at", [state.zoom, state.row.toFixed(1), state.column.toFixed(1)].join(","));
  }
  words.set("show", state.show);
  if (state.showBand) words.set("band", String(state.showBand));
  words.set("opacity", String(state.opacity));
  // Of two maps the other one is shown beside where an address does not say that there is none.
  words.set("beside", state.beside);
  if (state.besideBand) words.set("besideBand", String(state.besideBand));
  if (state.beside) words.set("swipe", state.fade ? "fade" : String(state.swipe));
  if (!state.imagery) words.set("imagery", "0");
  if (state.outlines) words.set("outlines", "1");
  if (state.bands.length) words.set("bands", state.bands.join(","));
  if (state.stretch.length) words.set("stretch", state.stretch.map((one) => one.join(",")).join(";"));
  for (const [key, values] of Object.entries(state.hidden)) {
    if (values.length) words.append("hide", [key, ...values].join(","));
  }
  for (const [key, colors] of Object.entries(state.colors)) {
    words.append("color", [key, ...Object.entries(colors).map(([value, color]) => `${value}-${hex(color)}`)].join(","));
  }
  return `#${words}`;
}

/**
 * The state of an address: what it does not say, or says wrongly, is as `before`.
 * @param {string} hash
 * @param {State} before
 * @param {import("./api.js").MapFacts} facts
 * @returns {State}
 */
export function fromHash(hash, before, facts) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const state = structuredClone(before);
  const keys = facts.layers.map((layer) => layer.key);
  /** @type {(word: string, low: number, high: number, usual: number) => number} */
  const number = (word, low, high, usual) => {
    const value = Number(words.get(word) ?? NaN);
    return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : usual;
  };
  const at = (words.get("at") ?? "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite)) {
    state.zoom = Math.round(Math.min(facts.levels + 5, Math.max(-2, at[0])));
    state.row = Math.min(facts.height, Math.max(0, at[1]));
    state.column = Math.min(facts.width, Math.max(0, at[2]));
  }
  const show = words.get("show");
  if (show !== null && (keys.includes(show) || show === "none")) state.show = show;
  const beside = words.get("beside");
  if (beside !== null && (beside === "" || keys.includes(beside))) state.beside = beside;
  state.showBand = Math.round(number("band", 0, 254, state.showBand));
  state.besideBand = Math.round(number("besideBand", 0, 254, state.besideBand));
  state.opacity = Math.round(number("opacity", 0, 100, state.opacity));
  state.fade = words.get("swipe") === "fade";
  state.swipe = Math.round(number("swipe", 0, 1000, state.swipe));
  if (words.has("imagery")) state.imagery = words.get("imagery") !== "0";
  if (words.has("outlines")) state.outlines = words.get("outlines") === "1";
  const scene = facts.layers.find((layer) => layer.kind === "scene");
  const bands = (words.get("bands") ?? "").split(",").map(Number);
  if (scene && bands.length === 3 && bands.every((b) => Number.isInteger(b) && b >= 0 && b < scene.bands.length)) {
    state.bands = bands;
  }
  const stretch = (words.get("stretch") ?? "").split(";").map((one) => one.split(",").map(Number));
  if (stretch.length === 3 && stretch.every((one) => one.length === 2 && one.every(Number.isFinite))) {
    state.stretch = /** @type {[number, number][]} */ (stretch);
  }
  for (const one of words.getAll("hide")) {
    const [key, ...values] = one.split(",");
    if (keys.includes(key)) state.hidden[key] = values.map(Number).filter((v) => v >= 0 && v < 255);
  }
  for (const one of words.getAll("color")) {
    const [key, ...codes] = one.split(",");
    const good = codes.map((code) => /^(\d{1,3})-([0-9a-f]{6})$/.exec(code)).filter((found) => found !== null);
    if (keys.includes(key)) {
      state.colors[key] = Object.fromEntries(good.map((found) => [found[1], parts(`#${found[2]}`)]));
    }
  }
  return state;
}
