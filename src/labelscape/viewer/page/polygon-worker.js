// @ts-check
/**
 * Draws tiles of polygons beside the page's own thread, which would stand still for each: hundreds of outlines take
 * longer than a frame. What it is told and what it answers is described in polygons.js.
 */

import { decode, EXTENT, holds } from "./vector.js";

/** Tiles of the server that are kept, those on the screen among them. */
const MOST_KEPT = 300;

/**
 * @typedef {import("./vector.js").Feature} Feature
 * @typedef {{features: Feature[], paths: Map<string, Path2D>, here: number, drawn: number}} Tile
 */

/** @type {Map<string, Promise<Tile>>} by their address, the one used last at the end */
const kept = new Map();
/** @type {Map<string, AbortController>} what has been asked for and has not come */
const coming = new Map();
/** @type {Map<number, {place: import("./polygons.js").Place, tile: Tile | null}>} what the page shows */
const live = new Map();
/** @type {import("./polygons.js").Look} */
let look = { colors: {}, hidden: [], fill: 0 };
/** @type {number | null} the polygon under the cursor */
let strong = null;

self.addEventListener("message", ({ data }) => {
  if (data.place) begin(data.tile, data.place);
  else if (data.look) {
    look = data.look;
    for (const tile of live.keys()) draw(tile);
  } else if (data.at !== undefined) point(data.at, data.number);
  else forget(data.gone);
});

/** @param {number} number @param {import("./polygons.js").Place} place */
async function begin(number, place) {
  live.set(number, { place, tile: null });
  try {
    const tile = await load(place.address);
    const one = live.get(number);
    if (!one) return;
    one.tile = tile;
    draw(number);
  } catch (error) {
    self.postMessage({ tile: number, error: String(error) });
  }
}

/** @param {number} number of a tile that the page shows no longer */
function forget(number) {
  const address = live.get(number)?.place.address;
  live.delete(number);
  if (address === undefined || [...live.values()].some(({ place }) => place.address === address)) return;
  // Nobody waits for it: the server need not make it.
  const stop = coming.get(address);
  if (!stop) return;
  kept.delete(address);
  coming.delete(address);
  stop.abort();
}

/** @param {string} address @returns {Promise<Tile>} */
function load(address) {
  const known = kept.get(address) ?? fetched(address);
  kept.delete(address);
  kept.set(address, known);
  known.catch(() => { if (kept.get(address) === known) kept.delete(address); });
  for (const old of kept.keys()) {
    if (kept.size <= MOST_KEPT) break;
    kept.delete(old);
  }
  return known;
}

/** @param {string} address @returns {Promise<Tile>} */
async function fetched(address) {
  const stop = new AbortController();
  coming.set(address, stop);
  let answer, data;
  try {
    answer = await fetch(address, { signal: stop.signal });
    if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
    data = await answer.arrayBuffer();
  } finally {
    if (coming.get(address) === stop) coming.delete(address);
  }
  const features = decode(data);
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

/** @param {number} number */
function draw(number) {
  const one = live.get(number);
  if (!one?.tile) return;
  const { side, ratio, deeper, left, top } = one.place;
  const size = Math.round(side * ratio);
  const canvas = new OffscreenCanvas(size, size);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  // A tile of the server that is enlarged is drawn in parts, each with sharp lines.
  const scale = (size * 2 ** deeper) / EXTENT;
  const move = (/** @type {number} */ by) => pen.setTransform(scale, 0, 0, scale, by - left * size, by - top * size);
  const paths = [...one.tile.paths].filter(([name]) => !look.hidden.includes(name));
  move(0);
  pen.globalAlpha = look.fill;
  for (const [name, path] of look.fill ? paths : []) {
    pen.fillStyle = look.colors[name] ?? "#808080";
    pen.fill(path, "evenodd");
  }
  pen.globalAlpha = 1;
  pen.lineWidth = ratio / scale;
  // A light line beside a dark one can be seen on any ground; a wide one below it would take four times as long.
  for (const [color, by] of /** @type {[string, number][]} */ ([["rgb(255 255 255 / 80%)", 0.75 * ratio], ["#16191d", 0]])) {
    move(by);
    pen.strokeStyle = color;
    for (const [, path] of paths) pen.stroke(path);
  }
  const lit = one.tile.features.filter((feature) => feature.id === strong);
  for (const feature of lit) {
    const path = new Path2D();
    trace(path, feature);
    pen.fillStyle = "rgb(255 212 0 / 30%)";
    pen.fill(path, "evenodd");
    for (const [color, wide] of /** @type {[string, number][]} */ ([["#16191d", 5], ["#ffd400", 3]])) {
      pen.strokeStyle = color;
      pen.lineWidth = (wide * ratio) / scale;
      pen.stroke(path);
    }
  }
  const bitmap = canvas.transferToImageBitmap();
  self.postMessage({ tile: number, bitmap, here: one.tile.here, drawn: one.tile.drawn }, { transfer: [bitmap] });
}

/**
 * Highlight the smallest polygon at a place, and answer its fields.
 * @param {{address: string, x: number, y: number} | null} at
 * @param {number} number of the question
 */
function point(at, number) {
  const one = at && [...live.values()].find(({ place, tile }) => tile && place.address === at.address);
  const shown = (one?.tile?.features ?? []).filter((feature) => !look.hidden.includes(className(feature)));
  const found = at ? shown.filter((feature) => holds(feature, at.x, at.y)).pop() : undefined;
  const before = strong;
  strong = found?.id ?? null;
  if (strong !== before) {
    for (const [tile, { tile: other }] of live) {
      if (other?.features.some(({ id }) => id === strong || id === before)) draw(tile);
    }
  }
  self.postMessage({ number, fields: found ? { ...found.fields } : null });
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
