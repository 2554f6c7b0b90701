// @ts-check
/** The polygons of the map: vector tiles drawn on canvases in the legend's colours, highlighted under the cursor. */

import * as L from "./leaflet.js";
import { make } from "./dom.js";
import { decode, EXTENT, holds } from "./vector.js";

const SIDE = 256;
/** Decoded tiles that are kept beyond those on the screen. */
const MOST_KEPT = 100;

/**
 * @typedef {import("./vector.js").Feature} Feature
 * @typedef {{features: Feature[], paths: Map<string, Path2D>, here: number, drawn: number}} Tile
 * @typedef {{colors: Record<string, string>, hidden: Set<string>, fill: number}} Look
 *   colours of classes by name, classes that are not drawn, and how opaque polygons are filled
 */

/**
 * @param {import("./api.js").MapFacts} facts
 * @param {(here: number, drawn: number) => void} counted how many polygons the tiles in view have, and how many they draw
 */
export function polygonLayer(facts, counted) {
  /** @type {Look} */
  let look = { colors: {}, hidden: new Set(), fill: 0 };
  /** @type {number | null} */
  let strong = null;
  /** @type {Map<string, Promise<Tile>>} tiles of the server by their address, the one used last at the end */
  const kept = new Map();
  /** @type {Map<HTMLCanvasElement, {coords: any, key: string, tile: Tile | null}>} */
  const live = new Map();
  const tip = L.tooltip({ direction: "top", offset: [0, -8], className: "polygon-tip" });
  const layer = new L.GridLayer({
    tileSize: SIDE, minZoom: -2, maxZoom: facts.levels + 5, minNativeZoom: 0,
    bounds: [[0, 0], [facts.height, facts.width]], noWrap: true, pane: "outlines", keepBuffer: 1,
  });

  /** @param {any} coords @returns {{key: string, deeper: number}} the server's tile, and how many levels this one is below it */
  function source({ x, y, z }) {
    const deeper = Math.max(0, z - facts.levels);
    return { key: `${z - deeper}/${x >> deeper}/${y >> deeper}`, deeper };
  }

  /** @param {string} key @returns {Promise<Tile>} */
  function load(key) {
    const known = kept.get(key) ?? fetched(`outlines/${key}.mvt?v=${facts.outlines}`);
    kept.delete(key);
    kept.set(key, known);
    known.catch(() => kept.delete(key));
    for (const old of kept.keys()) {
      if (kept.size <= MOST_KEPT) break;
      kept.delete(old);
    }
    return known;
  }

  layer.createTile = (/** @type {any} */ coords, /** @type {(error: unknown, tile: HTMLElement) => void} */ done) => {
    const canvas = document.createElement("canvas");
    const { key } = source(coords);
    /** @type {{coords: any, key: string, tile: Tile | null}} */
    const one = { coords, key, tile: null };
    live.set(canvas, one);
    load(key).then((tile) => {
      one.tile = tile;
      if (live.has(canvas)) draw(canvas);
      done(null, canvas);
    }, (error) => done(error, canvas));
    return canvas;
  };
  layer.on("tileunload", (/** @type {any} */ event) => live.delete(event.tile));
  layer.on("load", count);

  /** @param {HTMLCanvasElement} canvas */
  function draw(canvas) {
    const one = live.get(canvas);
    if (!one?.tile) return;
    const { deeper } = source(one.coords);
    const side = layer.getTileSize().x * (window.devicePixelRatio || 1);
    const scale = (side * 2 ** deeper) / EXTENT;
    canvas.width = canvas.height = Math.round(side);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.setTransform(scale, 0, 0, scale, -(one.coords.x % 2 ** deeper) * side, -(one.coords.y % 2 ** deeper) * side);
    const width = (window.devicePixelRatio || 1) / scale;
    const paths = [...one.tile.paths].filter(([name]) => !look.hidden.has(name));
    pen.globalAlpha = look.fill;
    for (const [name, path] of look.fill ? paths : []) {
      pen.fillStyle = look.colors[name] ?? "#808080";
      pen.fill(path, "evenodd");
    }
    pen.globalAlpha = 1;
    pen.lineJoin = "round";
    // A light line below a dark one can be seen on any ground.
    for (const [color, wide] of /** @type {[string, number][]} */ ([["rgb(255 255 255 / 60%)", 3], ["#16191d", 1]])) {
      pen.strokeStyle = color;
      pen.lineWidth = wide * width;
      for (const [, path] of paths) pen.stroke(path);
    }
    for (const feature of one.tile.features) {
      if (feature.id !== strong) continue;
      const path = new Path2D();
      trace(path, feature);
      pen.fillStyle = "rgb(255 212 0 / 30%)";
      pen.fill(path, "evenodd");
      pen.strokeStyle = "#16191d";
      pen.lineWidth = 5 * width;
      pen.stroke(path);
      pen.strokeStyle = "#ffd400";
      pen.lineWidth = 3 * width;
      pen.stroke(path);
    }
  }

  /** @param {number} row @param {number} column @returns {Feature | null} the smallest polygon that is drawn there */
  function at(row, column) {
    const level = Math.min(facts.levels, Math.max(0, Math.round(layer._map.getZoom())));
    const unit = SIDE * 2 ** (facts.levels - level);
    const [x, y] = [Math.floor(column / unit), Math.floor(row / unit)];
    const one = [...live.values()].find((other) => other.tile && other.key === `${level}/${x}/${y}`);
    const place = [(column / unit - x) * EXTENT, (row / unit - y) * EXTENT];
    const found = (one?.tile?.features ?? []).filter((feature) => !look.hidden.has(className(feature)) && holds(feature, place[0], place[1]));
    return found[found.length - 1] ?? null;
  }

  /** @param {number | null} id */
  function highlight(id) {
    if (id === strong) return;
    const before = strong;
    strong = id;
    for (const [canvas, { tile }] of live) {
      if (tile?.features.some((one) => one.id === id || one.id === before)) draw(canvas);
    }
  }

  function count() {
    const map = layer._map;
    if (!map) return;
    const view = map.getPixelBounds();
    const side = layer.getTileSize();
    /** @type {Map<string, Tile>} */
    const seen = new Map();
    for (const { coords, key, tile } of live.values()) {
      const corner = L.point(coords.x, coords.y).scaleBy(side);
      if (tile && view.intersects(L.bounds(corner, corner.add(side)))) seen.set(key, tile);
    }
    const sum = (/** @type {"here" | "drawn"} */ what) => [...seen.values()].reduce((total, tile) => total + tile[what], 0);
    counted(sum("here"), sum("drawn"));
  }

  return {
    layer,
    count,
    /** @param {Look} now */
    show(now) {
      if (JSON.stringify([now.colors, [...now.hidden], now.fill]) === JSON.stringify([look.colors, [...look.hidden], look.fill])) return;
      look = now;
      live.forEach((_, canvas) => draw(canvas));
    },
    /** Highlight the polygon at a place and say what its fields are; null for none. @param {any} place */
    point(place) {
      const found = place && layer._map ? at(place.lat, place.lng) : null;
      highlight(found?.id ?? null);
      if (!found) return void tip.remove();
      const rows = Object.entries(found.fields).map(([name, value]) => make("tr", {}, [make("th", { scope: "row", text: name }), make("td", { text: said(value) })]));
      tip.setLatLng(place).setContent(make("table", {}, rows));
      if (!layer._map.hasLayer(tip)) tip.addTo(layer._map);
    },
  };
}

/** @param {string} address @returns {Promise<Tile>} */
async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  const features = decode(await answer.arrayBuffer());
  /** @type {Map<string, Path2D>} */
  const paths = new Map();
  for (const feature of features) {
    const name = className(feature);
    let path = paths.get(name);
    if (!path) paths.set(name, (path = new Path2D()));
    trace(path, feature);
  }
  const number = (/** @type {string} */ name) => Number(answer.headers.get(name) ?? 0);
  return { features, paths, here: number("x-polygons-here"), drawn: number("x-polygons-drawn") };
}

/** @param {Path2D} path @param {Feature} feature */
function trace(path, feature) {
  for (const ring of feature.rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
}

/** @param {Feature} feature */
function className(feature) {
  return String(feature.fields.class ?? "");
}

/** @param {string | number} value */
export function said(value) {
  if (typeof value !== "number") return value;
  // Counts and numbers of places have as many digits as they have; measures are not known to more than six.
  return Number.isInteger(value) ? String(value) : Number(value.toPrecision(6)).toString();
}
