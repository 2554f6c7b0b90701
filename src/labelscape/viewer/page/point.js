// @ts-check
/** Class, probabilities, band values and coordinates of the pixel under the cursor. */

import { ask, saidBy } from "./api.js";
import { byId, make } from "./dom.js";
import { said } from "./polygons.js";

/** @typedef {{row: number, column: number, aloud: boolean}} Asked */
/** The place to be asked for when the answer before has come: a mouse passes places faster than they are read.
 * @type {Asked | null} */
let next = null;
let busy = false;
let last = "";

/**
 * @param {import("./api.js").MapFacts} facts
 * @param {number} row
 * @param {number} column
 * @param {boolean} aloud read it to a screen reader too
 */
export async function showPoint(facts, row, column, aloud) {
  if (row < 0 || column < 0 || row >= facts.height || column >= facts.width) return;
  const place = `${row},${column}`;
  if (place === last && !aloud) return;
  last = place;
  // What is to be read aloud is not passed over.
  if (next?.aloud && !aloud) return;
  next = { row, column, aloud };
  if (busy) return;
  busy = true;
  while (next) {
    const now = /** @type {Asked} */ (next);
    next = null;
    try {
      const point = await ask("api/point", { row: now.row, column: now.column });
      draw(facts, point);
      if (now.aloud) byId("said").textContent = spoken(facts, point);
    } catch (error) {
      byId("point").replaceChildren(make("p", { class: "quiet", text: saidBy(error).text }));
    }
  }
  busy = false;
}

/** @param {import("./api.js").MapFacts} facts @param {import("./api.js").Point} point */
function draw(facts, point) {
  /** @type {[string, string][]} */
  const rows = [];
  for (const layer of facts.layers) {
    const values = point.values[layer.key];
    if (!values) {
      if (layer.kind === "classes") rows.push([layer.title, "no data"]);
      continue;
    }
    if (layer.kind === "classes") rows.push([layer.title, className(layer, values[0])]);
    else if (layer.kind === "measure") rows.push([layer.title, `${values[0]} ${layer.unit}`]);
    else if (layer.kind === "proba") {
      const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
      for (const i of order.slice(0, 8)) rows.push([`p(${layer.bands[i]})`, `${((100 * values[i]) / layer.top).toFixed(1)} %`]);
    } else {
      layer.bands.slice(0, 16).forEach((band, i) => rows.push([band, said(values[i])]));
    }
  }
  for (const [name, value] of Object.entries(point.polygon ?? {})) {
    rows.push([`polygon ${name}`, said(value)]);
  }
  if (point.lonlat) {
    const [lon, lat] = point.lonlat;
    rows.push(["WGS 84", `${Math.abs(lat).toFixed(6)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(6)}° ${lon < 0 ? "W" : "E"}`]);
  }
  if (point.xy) rows.push([facts.crs, point.xy.map((one) => Number(one.toFixed(facts.digits)).toString()).join(", ")]);
  rows.push(["Pixel", `row ${point.row}, column ${point.column}`]);
  const lines = rows.map(([name, text]) => make("tr", {}, [make("th", { scope: "row", text: name }), make("td", { text })]));
  byId("point").replaceChildren(make("table", {}, [make("tbody", {}, lines)]));
}

/** @param {import("./api.js").MapFacts} facts @param {import("./api.js").Point} point */
function spoken(facts, point) {
  const words = facts.layers
    .filter((layer) => layer.kind === "classes" || layer.kind === "measure")
    .map((layer) => {
      const values = point.values[layer.key];
      if (!values) return `${layer.title}: no data`;
      return `${layer.title}: ${layer.kind === "classes" ? className(layer, values[0]) : `${values[0]} ${layer.unit}`}`;
    });
  return `Row ${point.row}, column ${point.column}. ${words.join(". ")}.`;
}

/** @param {import("./api.js").Layer} layer @param {number} value */
function className(layer, value) {
  return layer.classes?.find((one) => one.value === value)?.name ?? `value ${value}`;
}
