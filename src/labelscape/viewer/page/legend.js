// @ts-check
/** The legend: names, areas and toggles of classes, or the colours of a measure. */

import { byId, make } from "./dom.js";
import { hex } from "./map.js";

/**
 * @param {import("./api.js").Layer} layer
 * @param {number[]} hidden
 * @param {(hidden: number[]) => void} changed
 * @param {Record<number, [number, number, number]>} colors chosen here instead of the map's
 * @param {(value: number, color: [number, number, number]) => void} recoloured
 * @param {() => void} store puts the colours chosen here into the map's file
 */
export function drawLegend(layer, hidden, changed, colors, recoloured, store) {
  const classes = layer.classes ?? [];
  const total = classes.reduce((sum, one) => sum + (one.pixels ?? 0), 0) || 1;
  const unit = unitOf(classes);
  const items = classes.map((one) => {
    const box = make("input", { type: "checkbox" });
    box.checked = !hidden.includes(one.value);
    box.addEventListener("change", () => {
      const others = hidden.filter((value) => value !== one.value);
      changed(box.checked ? others : [...others, one.value]);
    });
    const name = make("span", { class: "name", text: one.name });
    const label = make("label", {}, [box, name]);
    const color = make("input", { type: "color", class: "chip", "aria-label": `Colour of ${one.name}` });
    color.value = `#${hex(colors[one.value] ?? one.color)}`;
    color.addEventListener("change", () => recoloured(one.value, parts(color.value)));
    return make("li", {}, [color, label, make("span", { class: "size", text: sizeText(one, total, unit, layer.exact) })]);
  });
  byId("legend").replaceChildren(make("ul", {}, items));
  if (layer.recolour && Object.keys(colors).length) {
    const button = make("button", { type: "button", id: "store-colours", text: "Save colours to the file" });
    button.addEventListener("click", store);
    byId("legend").append(make("div", { class: "row" }, [button]));
  }
  if (!layer.exact) {
    byId("legend").append(make("p", { class: "quiet", text: "Areas are estimated from a sample of the pixels." }));
  }
}

/** @param {string} code #rrggbb @returns {[number, number, number]} */
export function parts(code) {
  const side = (/** @type {number} */ i) => parseInt(code.slice(i, i + 2), 16);
  return [side(1), side(3), side(5)];
}

/** @typedef {{name: string, of: number, digits: number}} Unit */

/**
 * One unit for all classes, as on the report of a map.
 * @param {import("./api.js").MapClass[]} classes
 * @returns {Unit | null}
 */
function unitOf(classes) {
  const known = classes.filter((one) => one.hectares !== null);
  if (!known.length) return null;
  const hectares = known.reduce((sum, one) => sum + (one.hectares ?? 0), 0);
  const pixels = known.reduce((sum, one) => sum + (one.pixels ?? 0), 0) || 1;
  if ((hectares * 10000) / pixels < 1 && hectares < 10000) return { name: "m²", of: 10000, digits: 0 };
  return hectares >= 1e6 ? { name: "km²", of: 0.01, digits: 1 } : { name: "ha", of: 1, digits: 1 };
}

/**
 * @param {import("./api.js").MapClass} one
 * @param {number} total
 * @param {Unit | null} unit
 * @param {boolean} exact
 */
function sizeText(one, total, unit, exact) {
  if (one.pixels === null) return "";
  const share = `${((100 * one.pixels) / total).toFixed(1)} %`;
  const about = exact ? "" : "about ";
  if (unit === null || one.hectares === null) return about + share;
  const size = (one.hectares * unit.of).toLocaleString("en", { maximumFractionDigits: unit.digits });
  return `${about}${size} ${unit.name}, ${share}`;
}

/**
 * What a ramp shows, and the values at its ends and in its middle.
 * @param {import("./api.js").Layer} layer
 * @param {number} band
 */
export function rampText(layer, band) {
  const what = layer.kind === "proba" ? `Probability of ${layer.bands[band]}` : layer.title;
  const top = layer.kind === "proba" ? 100 : layer.top;
  return { what, ends: ["0", String(top / 2), `${top} ${layer.kind === "proba" ? "%" : layer.unit}`] };
}

/**
 * @param {import("./api.js").Layer} layer
 * @param {number} band
 * @param {[number, number, number][]} colors
 */
export function drawRamp(layer, band, colors) {
  const bar = make("canvas", { width: "300", height: "14", "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  const paint = pen.createLinearGradient(0, 0, 300, 0);
  colors.forEach((color, i) => paint.addColorStop(i / (colors.length - 1), `rgb(${color.join(" ")})`));
  pen.fillStyle = paint;
  pen.fillRect(0, 0, 300, 14);
  const { what, ends } = rampText(layer, band);
  byId("ramp").replaceChildren(
    make("p", { class: "quiet", text: what }), bar,
    make("div", { class: "ends" }, ends.map((text) => make("span", { text }))),
  );
}
