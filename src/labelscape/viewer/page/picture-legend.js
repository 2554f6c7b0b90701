// @ts-check
/** The legends of a saved picture: classes with their colours, ramps with their values. */

import { rampText } from "./legend.js";

const [LINE, MARGIN, RAMP] = [20, 12, 160];

/**
 * @typedef {{title: string, rows: {name: string, color: [number, number, number]}[], ends: string[]}} Legend
 *   rows of classes; ends of a ramp, which has no rows
 */

/**
 * Above each other, from the lower right corner up.
 * @param {CanvasRenderingContext2D} pen @param {import("./api.js").MapFacts} facts
 * @param {import("./state.js").State} state @param {{x: number, y: number}} size
 */
export function drawLegends(pen, facts, state, size) {
  const legends = legendsOf(facts, state);
  let bottom = size.y - MARGIN;
  for (const legend of legends) {
    bottom -= drawLegend(pen, legend, facts.ramp, { x: size.x, y: bottom }, legends.length > 1) + 8;
  }
}

/** @param {import("./api.js").MapFacts} facts @param {import("./state.js").State} state @returns {Legend[]} */
function legendsOf(facts, state) {
  /** @type {[string, number][]} */
  const shown = [[state.show, state.showBand], [state.beside, state.besideBand]];
  // Polygons without a map are filled in the colours of its classes.
  if (state.show === "none" && state.outlines) shown.unshift([facts.layers.find((one) => one.kind === "classes")?.key ?? "", 0]);
  /** @type {Legend[]} */
  const found = [];
  for (const [key, band] of shown) {
    const layer = facts.layers.find((one) => one.key === key);
    if (!layer || layer.kind === "scene") continue;
    const one = legendOf(layer, band, state);
    const text = JSON.stringify([one.rows, one.ends]);
    // Two maps of the same classes have one legend.
    const twice = found.some((other) => one.rows.length && JSON.stringify([other.rows, other.ends]) === text);
    if (!twice && (one.rows.length || one.ends.length)) found.push(one);
  }
  return found;
}

/** @param {import("./api.js").Layer} layer @param {number} band @param {import("./state.js").State} state @returns {Legend} */
function legendOf(layer, band, state) {
  if (layer.kind !== "classes") {
    const { what, ends } = rampText(layer, band < layer.bands.length ? band : 0);
    return { title: what, rows: [], ends };
  }
  const hidden = state.hidden[layer.key] ?? [];
  const chosen = state.colors[layer.key] ?? {};
  const classes = (layer.classes ?? []).filter((one) => !hidden.includes(one.value));
  return { title: layer.title, rows: classes.map((one) => ({ name: one.name, color: chosen[one.value] ?? one.color })), ends: [] };
}

/**
 * @param {CanvasRenderingContext2D} pen @param {Legend} legend @param {[number, number, number][]} ramp
 * @param {{x: number, y: number}} corner where it ends, lower right
 * @param {boolean} titled has it a title? A ramp always has
 * @returns {number} its height
 */
function drawLegend(pen, legend, ramp, corner, titled) {
  pen.font = "13px system-ui, sans-serif";
  const isRamp = !legend.rows.length;
  const head = titled || isRamp ? LINE : 0;
  // Of many classes there are several columns: none is cut off.
  const most = Math.max(1, Math.floor((corner.y - 80 - head) / LINE));
  const columns = Math.ceil(legend.rows.length / most);
  const high = isRamp ? head + 50 : head + Math.min(most, legend.rows.length) * LINE + 12;
  const column = Math.max(0, ...legend.rows.map((one) => pen.measureText(one.name).width)) + 44;
  const wide = Math.max(isRamp ? RAMP + 20 : columns * column, head ? pen.measureText(legend.title).width + 20 : 0);
  const [x, y] = [corner.x - wide - MARGIN, corner.y - high];
  box(pen, x, y, wide, high);
  pen.fillStyle = "#16191d";
  if (head) pen.fillText(legend.title, x + 10, y + LINE);
  if (isRamp) drawRamp(pen, legend.ends, ramp, x + 10, y + head + 10, wide - 20);
  legend.rows.forEach((one, i) => {
    const [left, top] = [x + Math.floor(i / most) * column, y + head + (i % most) * LINE];
    pen.fillStyle = `rgb(${one.color.join(" ")})`;
    pen.fillRect(left + 10, top + 8, 16, 14);
    pen.fillStyle = "#16191d";
    pen.fillText(one.name, left + 34, top + LINE);
  });
  return high;
}

/**
 * @param {CanvasRenderingContext2D} pen @param {string[]} ends @param {[number, number, number][]} ramp
 * @param {number} x @param {number} y @param {number} wide
 */
function drawRamp(pen, ends, ramp, x, y, wide) {
  const paint = pen.createLinearGradient(x, 0, x + wide, 0);
  ramp.forEach((color, i) => paint.addColorStop(i / (ramp.length - 1), `rgb(${color.join(" ")})`));
  pen.fillStyle = paint;
  pen.fillRect(x, y, wide, 14);
  pen.fillStyle = "#16191d";
  ends.forEach((text, i) => {
    pen.textAlign = /** @type {CanvasTextAlign[]} */ (["left", "center", "right"])[i];
    pen.fillText(text, x + (wide * i) / 2, y + 30);
  });
  pen.textAlign = "left";
}

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} wide @param {number} high */
export function box(pen, x, y, wide, high) {
  pen.fillStyle = "rgb(255 255 255 / 88%)";
  pen.fillRect(x, y, wide, high);
}
