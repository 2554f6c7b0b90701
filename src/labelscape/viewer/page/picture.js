// @ts-check
/** The view as a PNG: tiles as they are on the screen, legend, scale bar, north arrow. */

import { byId } from "./dom.js";
import { box, drawLegends } from "./picture-legend.js";

const PATIENCE = 10000;

/**
 * @param {any} map
 * @param {import("./api.js").MapFacts} facts
 * @param {import("./state.js").State} state
 * @returns {Promise<void>} when the browser has been given the file
 */
export async function savePicture(map, facts, state) {
  await loaded(map);
  const size = map.getSize();
  // As many pixels as the screen has: sharp on screens with small ones.
  const factor = Math.max(1, window.devicePixelRatio || 1);
  const canvas = document.createElement("canvas");
  canvas.width = size.x * factor;
  canvas.height = size.y * factor;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(factor, factor);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, size.x, size.y);
  pen.imageSmoothingEnabled = !byId("map").classList.contains("sharp");
  const swiped = state.beside && !state.fade;
  const line = swiped ? (size.x * state.swipe) / 1000 : size.x;
  drawPane(map, pen, "imagery", 0, size.x, size.y);
  if (state.beside && !swiped) drawPane(map, pen, "right", 0, size.x, size.y);
  drawPane(map, pen, "left", 0, line, size.y);
  if (swiped) {
    drawPane(map, pen, "right", line, size.x, size.y);
    pen.fillStyle = "#16191d";
    pen.fillRect(line - 1, 0, 2, size.y);
  }
  drawPane(map, pen, "outlines", 0, size.x, size.y);
  drawLines(map, pen);
  drawLegends(pen, facts, state, size);
  drawScaleBar(pen, size);
  if (facts.north !== null) drawNorth(pen, facts.north, size);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(/** @type {Blob} */ (blob));
  link.download = `${facts.title}.png`;
  link.click();
  URL.revokeObjectURL(link.href);
}

/**
 * The tiles of a pane between two columns of the screen.
 * @param {any} map @param {CanvasRenderingContext2D} pen @param {string} name
 * @param {number} left @param {number} right @param {number} height
 */
function drawPane(map, pen, name, left, right, height) {
  const home = byId("map").getBoundingClientRect();
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, right - left, height);
  pen.clip();
  for (const layer of map.getPane(name).querySelectorAll(".leaflet-layer")) {
    pen.globalAlpha = layer.style.opacity === "" ? 1 : Number(layer.style.opacity);
    for (const tile of layer.querySelectorAll(".leaflet-tile-loaded")) {
      const box = tile.getBoundingClientRect();
      pen.drawImage(tile, box.left - home.left, box.top - home.top, box.width, box.height);
    }
  }
  pen.restore();
}

/**
 * When the tiles in view are there: a picture has no holes because it was asked for early.
 * @param {any} map
 */
async function loaded(map) {
  /** @type {Promise<void>[]} */
  const waiting = [];
  map.eachLayer((/** @type {any} */ layer) => {
    if (layer.isLoading?.()) waiting.push(new Promise((done) => { layer.once("load remove", done); }));
  });
  await Promise.race([Promise.all(waiting), new Promise((done) => { setTimeout(done, PATIENCE); })]);
}

/**
 * Polygons drawn by hand, and the place that is judged.
 * @param {any} map @param {CanvasRenderingContext2D} pen
 */
function drawLines(map, pen) {
  const origin = map.containerPointToLayerPoint([0, 0]);
  pen.save();
  pen.translate(-origin.x, -origin.y);
  for (const line of map.getPane("overlayPane").querySelectorAll("path")) {
    const path = new Path2D(line.getAttribute("d") ?? "");
    const look = getComputedStyle(line);
    for (const what of /** @type {("fill" | "stroke")[]} */ (["fill", "stroke"])) {
      if (look[what] === "none") continue;
      pen.globalAlpha = Number(look[`${what}Opacity`]);
      pen[`${what}Style`] = look[what];
      pen.lineWidth = parseFloat(look.strokeWidth);
      if (what === "fill") pen.fill(path, "evenodd");
      else pen.stroke(path);
    }
  }
  pen.restore();
}

/** @param {CanvasRenderingContext2D} pen @param {{x: number, y: number}} size */
function drawScaleBar(pen, size) {
  const wide = byId("scale").offsetWidth;
  const text = byId("scale-text").textContent ?? "";
  box(pen, 12, size.y - 44, wide + 20, 32);
  pen.fillStyle = "#16191d";
  pen.fillRect(22, size.y - 20, wide, 2);
  pen.fillRect(22, size.y - 26, 2, 8);
  pen.fillRect(20 + wide, size.y - 26, 2, 8);
  pen.font = "12px system-ui, sans-serif";
  pen.fillText(text, 26, size.y - 29);
}

/** @param {CanvasRenderingContext2D} pen @param {number} north degrees clockwise from up @param {{x: number, y: number}} size */
function drawNorth(pen, north, size) {
  box(pen, size.x - 52, 12, 40, 52);
  pen.save();
  pen.translate(size.x - 32, 38);
  pen.rotate((north * Math.PI) / 180);
  pen.fillStyle = "#16191d";
  pen.beginPath();
  pen.moveTo(0, -6);
  pen.lineTo(7, 18);
  pen.lineTo(0, 13);
  pen.lineTo(-7, 18);
  pen.closePath();
  pen.fill();
  pen.font = "bold 12px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillText("N", 0, -10);
  pen.restore();
}
