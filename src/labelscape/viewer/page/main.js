// @ts-check
/** Puts the page together: controls change the state, the state is drawn, the address follows it. */

import { ask, saidBy, send } from "./api.js";
import { correct } from "./correct.js";
import { byId, fill, make } from "./dom.js";
import { judge } from "./judge.js";
import { drawLegend, drawRamp } from "./legend.js";
import { drawScale, fit, hex, makeMap, swipeAt, tileAddress, tileLayer } from "./map.js";
import { savePicture } from "./picture.js";
import { showPoint } from "./point.js";
import { polygonLayer } from "./polygons.js";
import { first, fromHash, toHash } from "./state.js";

/** @type {[string, string[][]][]} */
const PRESETS = [
  ["True colour", [["red", "green", "blue"], ["B04", "B03", "B02"], ["B4", "B3", "B2"]]],
  ["False colour (near infrared)", [["nir", "red", "green"], ["B08", "B04", "B03"], ["B8", "B4", "B3"]]],
];

/** Those of judging and of correcting only where the page does either. @param {import("./api.js").MapFacts} facts */
const keysOf = (facts) => [
  ["+ −", "zoom"], ["arrows", facts.judge ? "go on, or pan" : "pan"], ...(["review", "sample"].includes(facts.judge?.kind ?? "") ? [["1 to 9", "answer"]] : []), ...(facts.correct ? [["d z", "draw, undo"]] : []),
  ["Enter", "read the centre"], ["0", "whole map"], ["c", "classes"],
  ["f", "confidence"], ["i o", "imagery, polygons on or off"], ["[ ]", "opacity"], ["p", "save as PNG"], ["s", "compare on or off"], [", .", "move the swipe line"],
];

async function start() {
  /** @type {import("./api.js").MapFacts} */
  const facts = await ask("api/map");
  let state = fromHash(location.hash, first(facts), facts);
  const layers = new Map(facts.layers.map((layer) => [layer.key, layer]));
  const scene = facts.layers.find((layer) => layer.kind === "scene");
  const map = makeMap(facts);
  const panes = { imagery: tileLayer(facts, "imagery"), left: tileLayer(facts, "left"), right: tileLayer(facts, "right") };
  const polygons = facts.outlines ? polygonLayer(facts, sayPolygons) : null;
  /** @type {Record<string, string>} */
  const shown = {};
  /** @type {(event: KeyboardEvent) => boolean} */
  let judgeKeys = () => false;
  let corrections = { key: (/** @type {KeyboardEvent} */ _) => false, drawing: () => false };

  /** @param {"imagery" | "left" | "right"} pane @param {string} key @param {number} band @param {number} opacity */
  function put(pane, key, band, opacity) {
    const layer = layers.get(key);
    const tiles = panes[pane];
    if (!layer || (layer.kind === "scene" && !state.stretch.length)) {
      shown[pane] = "";
      tiles.remove();
      return;
    }
    const address = tileAddress(layer, band, state);
    // Asked for again only where it changed: a new address throws all tiles away. Not by Leaflet's own redraw,
    // which asks for tiles of level 2.5 where the map stands between two levels.
    if (shown[pane] !== address) tiles.remove().setUrl(address, true);
    shown[pane] = address;
    tiles.setOpacity(opacity);
    if (!map.hasLayer(tiles)) tiles.addTo(map);
  }

  function draw() {
    put("imagery", state.imagery && scene ? "scene" : "", 0, 1);
    put("left", state.show, state.showBand, state.opacity / 100);
    // Imagery is not faded: beside classes it is what they are compared with. Nor is what lies below.
    put("right", state.beside, state.besideBand, state.beside === "scene" || state.fade ? 1 : state.opacity / 100);
    drawPolygons();
    swipeAt(map, swiped(), state.swipe);
    drawControls();
    remember();
  }

  /** Are two layers on both sides of a line, not one above the other? */
  const swiped = () => state.beside !== "" && !state.fade;

  function drawPolygons() {
    if (!polygons) return;
    const own = facts.layers.find((one) => one.kind === "classes");
    const classes = own?.classes ?? [];
    const hidden = (own && state.hidden[own.key]) ?? [];
    const chosen = (own && state.colors[own.key]) ?? {};
    polygons.show({
      colors: Object.fromEntries(classes.map((one) => [one.name, `#${hex(chosen[one.value] ?? one.color)}`])),
      hidden: classes.filter((one) => hidden.includes(one.value)).map((one) => one.name),
      // Over the raster of classes, or a measure, lines alone: their colours are what is looked at.
      fill: state.show === "none" ? state.opacity / 100 : 0,
    });
    if (state.outlines !== map.hasLayer(polygons.layer)) state.outlines ? polygons.layer.addTo(map) : polygons.layer.remove();
    if (!state.outlines) polygons.point(null);
    byId("outlines-state").hidden = !state.outlines;
  }

  /** @param {number} here @param {number} drawn */
  function sayPolygons(here, drawn) {
    const count = (/** @type {number} */ one) => one.toLocaleString("en");
    const all = `${count(here)} polygon${here === 1 ? "" : "s"} in view`;
    byId("outlines-state").textContent = here === drawn ? `${all}, all drawn.` : `${all}, ${count(drawn)} drawn: zoom in for the smaller ones.`;
  }

  function drawControls() {
    byId("show").value = state.show;
    byId("beside").value = state.beside;
    byId("how-row").hidden = state.beside === "";
    byId("how").value = state.fade ? "fade" : "swipe";
    byId("opacity").value = String(state.opacity);
    byId("opacity-text").textContent = `${state.opacity} %`;
    byId("swipe").value = String(state.swipe);
    byId("imagery-on").checked = state.imagery;
    byId("outlines-on").checked = state.outlines;
    for (const [name, key, band] of /** @type {[string, string, number][]} */ ([["show", state.show, state.showBand], ["beside", state.beside, state.besideBand]])) {
      const layer = layers.get(key);
      const row = byId(`${name}-class-row`);
      row.hidden = layer?.kind !== "proba";
      if (layer?.kind === "proba") fill(byId(`${name}-class`), layer.bands.map((text, i) => [String(i), text]), String(band));
    }
    const own = facts.layers.find((one) => one.kind === "classes");
    const layer = layers.get(state.show) ?? own;
    // A sample is interpreted without the map: there is no legend of it.
    if (!layer || !own) {
      byId("legend").closest("section").hidden = true;
      if (scene) drawBands();
      return;
    }
    const ramp = layer.kind === "measure" || layer.kind === "proba";
    byId("ramp").hidden = !ramp;
    if (ramp) drawRamp(layer, state.showBand, facts.ramp);
    const classes = layer.kind === "classes" ? layer : own;
    drawLegend(classes, state.hidden[classes.key] ?? [], (hidden) => {
      state.hidden[classes.key] = hidden;
      draw();
    }, state.colors[classes.key] ?? {}, (value, color) => {
      state.colors[classes.key] = { ...state.colors[classes.key], [value]: color };
      draw();
    }, () => storeColours(classes));
    if (scene) drawBands();
  }

  /** @param {import("./api.js").Layer} layer */
  async function storeColours(layer) {
    const chosen = state.colors[layer.key] ?? {};
    const classes = layer.classes ?? [];
    const colors = classes.filter((one) => one.value in chosen).map((one) => ({ value: one.value, color: chosen[one.value], before: one.color }));
    const show = (/** @type {{colors: Record<number, [number, number, number]>, version: string}} */ now) => {
      classes.forEach((one) => { one.color = now.colors[one.value]; });
      layer.version = now.version;
    };
    try {
      show(await send(`api/colors/${layer.key}`, { colors }));
      delete state.colors[layer.key];
    } catch (error) {
      // Somebody else's colours; ours stay chosen in place of them.
      const { text, now } = saidBy(error);
      if (now) show(now);
      note(text);
    }
    draw();
  }

  function drawBands() {
    if (!scene) return;
    ["band-r", "band-g", "band-b"].forEach((id, i) => { byId(id).value = String(state.bands[i]); });
    const presets = presetsOf(scene.bands);
    const same = presets.find(([, bands]) => bands.join() === state.bands.join());
    byId("preset").value = same ? same[0] : "";
  }

  function remember() {
    const centre = map.getCenter();
    Object.assign(state, { zoom: map.getZoom(), row: centre.lat, column: centre.lng });
    history.replaceState(null, "", toHash(state));
  }

  /** @param {boolean} all of the whole scene, else of this view */
  async function stretch(all) {
    if (!scene) return;
    const box = map.getBounds();
    const top = Math.max(0, Math.floor(box.getSouth()));
    const left = Math.max(0, Math.floor(box.getWest()));
    const view = { top, left, height: Math.max(1, Math.ceil(box.getNorth() - top)), width: Math.max(1, Math.ceil(box.getEast() - left)) };
    try {
      state.stretch = await ask("api/stretch", { bands: state.bands.join(","), ...(all ? {} : view) });
    } catch (error) {
      note(saidBy(error).text);
    }
    draw();
  }

  /** @param {string} text */
  function note(text) {
    byId("notes").append(make("p", { text }));
  }

  sayLoading([...Object.values(panes), ...(polygons ? [polygons.layer] : [])]);
  document.title = `${facts.title} - Labelscape`;
  byId("title").textContent = facts.title;
  const size = facts.metres === null ? "no coordinates" : `${Number(facts.metres.toPrecision(3))} m pixels, ${facts.crs}`;
  byId("facts").textContent = `${facts.width.toLocaleString("en")} × ${facts.height.toLocaleString("en")}, ${size}`;
  facts.notes.forEach(note);
  byId("keys").append(...keysOf(facts).flatMap(([key, text]) => [make("dt", { text: key }), make("dd", { text })]));
  const options = facts.layers.map((layer) => /** @type {[string, string]} */ ([layer.key, layer.title]));
  fill(byId("show"), [...options.filter(([key]) => key !== "scene"), ["none", "Imagery only"]], state.show);
  fill(byId("beside"), [["", "nothing"], ...options], state.beside);
  // A sample is interpreted on imagery alone: there is nothing to choose.
  for (const id of ["show-row", "opacity-row", "beside-row"]) byId(id).hidden = options.every(([key]) => key === "scene");
  if (scene) {
    byId("imagery").hidden = false;
    fill(byId("preset"), [...presetsOf(scene.bands).map(([name]) => /** @type {[string, string]} */ ([name, name])), ["", "Choose bands"]], "");
    ["band-r", "band-g", "band-b"].forEach((id, i) => fill(byId(id), scene.bands.map((text, b) => [String(b), text]), String(state.bands[i])));
  }

  if (state.zoom === null || state.row === null || state.column === null) fit(map, facts);
  else map.setView([state.row, state.column], state.zoom, { animate: false });
  listen();
  drawScale(map, facts);
  if (scene && !state.stretch.length) await stretch(true);
  else draw();
  if (facts.correct) corrections = await correct(map, facts, note);
  if (facts.judge) judgeKeys = await judge(map, facts, note);
  document.body.dataset.ready = "yes";

  function listen() {
    map.on("move zoom viewreset resize", () => { swipeAt(map, swiped(), state.swipe); drawScale(map, facts); });
    map.on("moveend zoomend", () => { remember(); polygons?.count(); });
    map.on("mousemove", (/** @type {any} */ event) => {
      showPoint(facts, Math.floor(event.latlng.lat), Math.floor(event.latlng.lng), false);
      polygons?.point(event.latlng);
    });
    map.on("mouseout", () => polygons?.point(null));
    map.on("click", (/** @type {any} */ event) => {
      if (corrections.drawing()) return;
      showPoint(facts, Math.floor(event.latlng.lat), Math.floor(event.latlng.lng), true);
      polygons?.point(event.latlng);
    });
    /** @type {(id: string, what: string, how: (value: string) => void) => void} */
    const on = (id, what, how) => byId(id).addEventListener(what, (/** @type {any} */ event) => how(event.target.value));
    on("show", "change", (value) => { state.show = value; state.showBand = 0; draw(); });
    on("show-class", "change", (value) => { state.showBand = Number(value); draw(); });
    on("beside", "change", (value) => { state.beside = value; state.besideBand = 0; draw(); });
    on("how", "change", (value) => { state.fade = value === "fade"; draw(); });
    on("beside-class", "change", (value) => { state.besideBand = Number(value); draw(); });
    on("opacity", "input", (value) => { state.opacity = Number(value); draw(); });
    on("swipe", "input", (value) => { state.swipe = Number(value); swipeAt(map, true, state.swipe); remember(); });
    byId("imagery-on").addEventListener("change", () => { state.imagery = byId("imagery-on").checked; draw(); });
    byId("outlines-row").hidden = !polygons;
    byId("outlines-on").addEventListener("change", () => { state.outlines = byId("outlines-on").checked; draw(); });
    byId("save-picture").addEventListener("click", () => savePicture(map, facts, state));
    byId("stretch-view").addEventListener("click", () => stretch(false));
    byId("stretch-all").addEventListener("click", () => stretch(true));
    on("preset", "change", (value) => {
      const bands = scene && presetsOf(scene.bands).find(([name]) => name === value)?.[1];
      if (bands) { state.bands = bands; stretch(true); }
    });
    ["band-r", "band-g", "band-b"].forEach((id, i) => on(id, "change", (value) => { state.bands[i] = Number(value); stretch(true); }));
    window.addEventListener("hashchange", () => {
      // What the address does not say is as on a page that is opened by it; the stretch takes long to find.
      state = fromHash(location.hash, { ...first(facts), bands: state.bands, stretch: state.stretch }, facts);
      if (state.zoom !== null) map.setView([state.row, state.column], state.zoom, { animate: false });
      draw();
    });
    document.addEventListener("keydown", keys, { capture: true });
  }

  /** @param {KeyboardEvent} event */
  function keys(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea")) return;
    if (target.matches("button") && event.key === "Enter") return;
    if (corrections.key(event) || judgeKeys(event)) {
      // Else the map is panned by the same arrow.
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    const centre = map.getCenter();
    /** @type {Record<string, () => void>} */
    const doing = {
      Enter: () => { showPoint(facts, Math.floor(centre.lat), Math.floor(centre.lng), true); polygons?.point(centre); },
      0: () => fit(map, facts),
      c: () => { state.show = first(facts).show; state.showBand = 0; draw(); },
      f: () => { if (layers.has("confidence")) { state.show = "confidence"; state.showBand = 0; draw(); } },
      p: () => savePicture(map, facts, state),
      i: () => { if (scene) { state.imagery = !state.imagery; draw(); } },
      o: () => { if (polygons) { state.outlines = !state.outlines; draw(); } },
      "[": () => { state.opacity = Math.max(0, state.opacity - 10); draw(); },
      "]": () => { state.opacity = Math.min(100, state.opacity + 10); draw(); },
      s: () => { if (byId("beside-row").hidden) return; state.beside = state.beside ? "" : (options.find(([key]) => key !== state.show)?.[0] ?? ""); draw(); },
      ",": () => { state.swipe = Math.max(0, state.swipe - 25); draw(); },
      ".": () => { state.swipe = Math.min(1000, state.swipe + 25); draw(); },
    };
    doing[event.key]?.();
  }
}

/**
 * A sign while layers wait for their tiles; not for a blink.
 * @param {any[]} layers
 */
function sayLoading(layers) {
  const waiting = new Set();
  /** @type {number | undefined} */
  let soon;
  for (const layer of layers) {
    // At each tile: a layer that was taken away while it loaded tells of no "loading" when it is back.
    layer.on("loading tileloadstart", () => {
      waiting.add(layer);
      soon ??= window.setTimeout(() => { byId("loading").hidden = !waiting.size; }, 300);
    });
    layer.on("load remove", () => {
      waiting.delete(layer);
      if (waiting.size) return;
      clearTimeout(soon);
      soon = undefined;
      byId("loading").hidden = true;
    });
  }
}

/**
 * Presets that these bands have: name and positions.
 * @param {string[]} bands
 * @returns {[string, number[]][]}
 */
function presetsOf(bands) {
  /** @type {[string, number[]][]} */
  const found = [];
  for (const [name, sets] of PRESETS) {
    const set = sets.find((names) => names.every((one) => bands.includes(one)));
    if (set) found.push([name, set.map((one) => bands.indexOf(one))]);
  }
  return found;
}

start().catch((error) => {
  byId("notes").append(make("p", { text: saidBy(error).text }));
});
