// @ts-check
/** The map itself: Leaflet in the pixels of the class map, one pane for each thing that can be shown. */

import * as L from "./leaflet.js";
import { byId } from "./dom.js";

const SIDE = 256;

/**
 * @param {import("./api.js").MapFacts} facts
 * @returns {any} a Leaflet map whose latitude is the row and whose longitude is the column
 */
export function makeMap(facts) {
  const unit = 1 / 2 ** facts.levels;
  const crs = L.Util.extend({}, L.CRS.Simple, { transformation: new L.Transformation(unit, 0, unit, 0) });
  // Whole levels alone: scaled tiles leave bright lines between them, which look like errors of the map.
  const map = L.map(byId("map"), {
    crs, minZoom: -2, maxZoom: facts.levels + 5, zoomDelta: 1, attributionControl: false,
    zoomAnimation: !matchMedia("(prefers-reduced-motion: reduce)").matches, fadeAnimation: false,
  });
  for (const [name, order] of [["imagery", 200], ["left", 210], ["right", 220], ["outlines", 230]]) {
    map.createPane(name).style.zIndex = String(order);
  }
  map.zoomControl.setPosition("topright");
  const sharp = () => byId("map").classList.toggle("sharp", map.getZoom() > facts.levels);
  map.on("zoomend", sharp);
  return map;
}

/** @param {any} map @param {import("./api.js").MapFacts} facts */
export function fit(map, facts) {
  map.fitBounds([[0, 0], [facts.height, facts.width]], { animate: false });
}

/**
 * @param {import("./api.js").MapFacts} facts
 * @param {string} pane
 */
export function tileLayer(facts, pane) {
  return L.tileLayer("", {
    tileSize: SIDE, minZoom: -2, maxZoom: facts.levels + 5, minNativeZoom: 0, maxNativeZoom: facts.levels,
    bounds: [[0, 0], [facts.height, facts.width]], noWrap: true, pane, keepBuffer: 1,
  });
}

/**
 * The address of a layer's tiles.
 * @param {import("./api.js").Layer} layer
 * @param {number} band
 * @param {import("./state.js").State} state
 */
export function tileAddress(layer, band, state) {
  const words = new URLSearchParams({ v: layer.version });
  if (layer.kind === "classes") {
    const hidden = state.hidden[layer.key] ?? [];
    if (hidden.length) words.set("hide", hidden.join(","));
    const colors = Object.entries(state.colors[layer.key] ?? {});
    if (colors.length) words.set("colors", colors.map(([v, c]) => `${v}-${hex(c)}`).join("."));
  } else if (layer.kind === "scene") {
    words.set("bands", state.bands.join(","));
    words.set("stretch", state.stretch.map((one) => one.join(",")).join(";"));
  } else {
    // The band of a layer shown before may be beyond this one's.
    words.set("bands", String(band < layer.bands.length ? band : 0));
  }
  // Braces are Leaflet's own places: the words hold none, since URLSearchParams encodes them.
  return `tiles/${layer.key}/{z}/{x}/{y}.png?${words}`;
}

/** @param {[number, number, number]} color */
export function hex(color) {
  return color.map((one) => one.toString(16).padStart(2, "0")).join("");
}

/**
 * Cut the right pane at the swipe line; where there is none it lies below the left one, which is seen through.
 * @param {any} map
 * @param {boolean} on
 * @param {number} place 0 to 1000
 */
export function swipeAt(map, on, place) {
  const left = map.getPane("left");
  const right = map.getPane("right");
  byId("swipe").hidden = byId("divider").hidden = !on;
  right.style.zIndex = on ? "220" : "205";
  if (!on) {
    left.style.clip = right.style.clip = "";
    return;
  }
  const size = map.getSize();
  const line = Math.round((size.x * place) / 1000);
  const upper = map.containerPointToLayerPoint([0, 0]);
  const lower = map.containerPointToLayerPoint(size);
  const middle = upper.x + line;
  left.style.clip = `rect(${upper.y}px, ${middle}px, ${lower.y}px, ${upper.x}px)`;
  right.style.clip = `rect(${upper.y}px, ${lower.x}px, ${lower.y}px, ${middle}px)`;
  byId("divider").style.left = `${line}px`;
}

/** @param {any} map @param {import("./api.js").MapFacts} facts */
export function drawScale(map, facts) {
  // On the screen a pixel of the map is this wide.
  const wide = 2 ** (map.getZoom() - facts.levels);
  const metres = facts.metres;
  const most = 120;
  const length = (most / wide) * (metres ?? 1);
  const power = 10 ** Math.floor(Math.log10(length));
  const step = [5, 2, 1].find((one) => one * power <= length) ?? 1;
  const nice = step * power;
  byId("scale").style.width = `${Math.round((nice / (metres ?? 1)) * wide)}px`;
  const text = metres === null ? `${number(nice)} px` : nice >= 1000 ? `${number(nice / 1000)} km` : `${number(nice)} m`;
  byId("scale-text").textContent = text;
}

/** @param {number} value */
function number(value) {
  return value >= 1 ? value.toLocaleString("en") : String(Number(value.toPrecision(1)));
}
