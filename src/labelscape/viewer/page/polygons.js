// @ts-check
/** The polygons of the map: vector tiles in the legend's colours, highlighted under the cursor. */

import * as L from "./leaflet.js";
import { make } from "./dom.js";
import { EXTENT } from "./vector.js";

const SIDE = 256;

/**
 * @typedef {{colors: Record<string, string>, hidden: string[], fill: number}} Look
 *   colours of classes by name, classes that are not drawn, and how opaque polygons are filled
 * @typedef {{address: string, side: number, ratio: number, deeper: number, left: number, top: number}} Place
 *   a tile of the server, and the part of it that is drawn: one of 2^deeper each way, on `side` pixels of the page
 *
 * The worker is told {tile, place}, {gone: tile}, {look}, {at, number}; it answers {tile, bitmap, here, drawn},
 * {tile, error}, and {number, fields} of the polygon at a place.
 */

/**
 * @param {import("./api.js").MapFacts} facts
 * @param {(here: number, drawn: number) => void} counted how many polygons the tiles in view have, and how many they draw
 */
export function polygonLayer(facts, counted) {
  const worker = new Worker(new URL("./polygon-worker.js", import.meta.url), { type: "module" });
  /** @typedef {{canvas: HTMLCanvasElement, coords: any, address: string, done: ((error: unknown, canvas: HTMLElement) => void) | null, here: number, drawn: number}} Live */
  /** @type {Map<number, Live>} */
  const live = new Map();
  let last = 0;
  let told = "";
  /** Where the cursor was when the worker was asked for the last time. @type {{number: number, place: any}} */
  let asked = { number: 0, place: null };
  const tip = L.tooltip({ direction: "top", offset: [0, -8], className: "polygon-tip" });
  const layer = new L.GridLayer({
    tileSize: SIDE, minZoom: -2, maxZoom: facts.levels + 5, minNativeZoom: 0,
    bounds: [[0, 0], [facts.height, facts.width]], noWrap: true, pane: "outlines", keepBuffer: 1,
  });

  /** @param {number} level @param {number} x @param {number} y */
  function addressOf(level, x, y) {
    // The worker stands in another folder than the page.
    return new URL(`outlines/${level}/${x}/${y}.mvt?v=${facts.outlines}`, document.baseURI).href;
  }

  layer.createTile = (/** @type {any} */ coords, /** @type {Live["done"]} */ done) => {
    const canvas = document.createElement("canvas");
    const number = ++last;
    const deeper = Math.max(0, coords.z - facts.levels);
    const address = addressOf(coords.z - deeper, coords.x >> deeper, coords.y >> deeper);
    canvas.dataset.number = String(number);
    live.set(number, { canvas, coords, address, done, here: 0, drawn: 0 });
    /** @type {Place} */
    const place = { address, side: layer.getTileSize().x, ratio: window.devicePixelRatio || 1, deeper, left: coords.x % 2 ** deeper, top: coords.y % 2 ** deeper };
    worker.postMessage({ tile: number, place });
    return canvas;
  };
  layer.on("tileunload", (/** @type {any} */ { tile }) => {
    live.delete(Number(tile.dataset.number));
    worker.postMessage({ gone: Number(tile.dataset.number) });
  });
  layer.on("load", count);

  worker.addEventListener("message", ({ data }) => {
    if (data.tile === undefined) {
      if (data.number === asked.number) say(data.fields);
      return;
    }
    const one = live.get(data.tile);
    if (!one) return;
    if (data.bitmap) {
      Object.assign(one.canvas, { width: data.bitmap.width, height: data.bitmap.height });
      one.canvas.getContext("bitmaprenderer")?.transferFromImageBitmap(data.bitmap);
      Object.assign(one, { here: data.here, drawn: data.drawn });
    }
    one.done?.(data.error ?? null, one.canvas);
    // Drawn again in other colours it is no new tile.
    one.done = null;
  });

  function count() {
    const map = layer._map;
    if (!map) return;
    const view = map.getPixelBounds();
    const side = layer.getTileSize();
    /** @type {Map<string, Live>} */
    const seen = new Map();
    for (const one of live.values()) {
      const corner = L.point(one.coords.x, one.coords.y).scaleBy(side);
      if (one.coords.z === layer._tileZoom && view.intersects(L.bounds(corner, corner.add(side)))) seen.set(one.address, one);
    }
    const sum = (/** @type {"here" | "drawn"} */ what) => [...seen.values()].reduce((total, one) => total + one[what], 0);
    counted(sum("here"), sum("drawn"));
  }

  /** @param {Record<string, string | number> | null} fields */
  function say(fields) {
    if (!fields || !layer._map) return void tip.remove();
    const rows = Object.entries(fields).map(([name, value]) => make("tr", {}, [make("th", { scope: "row", text: name }), make("td", { text: said(value) })]));
    tip.setLatLng(asked.place).setContent(make("table", {}, rows));
    if (!layer._map.hasLayer(tip)) tip.addTo(layer._map);
  }

  return {
    layer,
    count,
    /** @param {Look} look */
    show(look) {
      const now = JSON.stringify(look);
      if (now === told) return;
      told = now;
      worker.postMessage({ look });
    },
    /** Highlight the polygon at a place and say what its fields are; null for none. @param {any} place */
    point(place) {
      if (!place || !layer._map) tip.remove();
      asked = { number: asked.number + 1, place };
      let at = null;
      if (place && layer._map) {
        const level = Math.min(facts.levels, Math.max(0, Math.round(layer._map.getZoom())));
        const unit = SIDE * 2 ** (facts.levels - level);
        const [x, y] = [place.lng / unit, place.lat / unit];
        at = { address: addressOf(level, Math.floor(x), Math.floor(y)), x: (x - Math.floor(x)) * EXTENT, y: (y - Math.floor(y)) * EXTENT };
      }
      worker.postMessage({ at, number: asked.number });
    },
  };
}

/** @param {string | number} value */
export function said(value) {
  if (typeof value !== "number") return value;
  // Counts and numbers of places have as many digits as they have; measures are not known to more than six.
  return Number.isInteger(value) ? String(value) : Number(value.toPrecision(6)).toString();
}
