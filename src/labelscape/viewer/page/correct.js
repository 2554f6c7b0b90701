// @ts-check
/** Draw polygons of the right class; they are stored at once, and others' appear within seconds. */

import * as L from "./leaflet.js";
import { ask, saidBy, send } from "./api.js";
import { byId, fill } from "./dom.js";

const EVERY = 5000;
const HELP = "Click or press Space for corners, double-click or Enter to close, Backspace takes one back, Escape ends.";

/**
 * @param {any} map
 * @param {import("./api.js").MapFacts} facts
 * @param {(text: string) => void} note
 * @returns {Promise<{key: (event: KeyboardEvent) => boolean, drawing: () => boolean}>}
 */
export async function correct(map, facts, note) {
  const classes = facts.layers.find((one) => one.key === "class")?.classes ?? [];
  const colors = new Map(classes.map((one) => [one.name, `rgb(${one.color.join(" ")})`]));
  const group = L.layerGroup().addTo(map);
  const line = L.polyline([], { color: "#ffd400", weight: 3, interactive: false }).addTo(map);
  /** @type {import("./api.js").Correction[]} */
  let items = [];
  /** @type {number | null} */
  let chosen = null;
  /** @type {[number, number][] | null} column and row */
  let ring = null;
  /** @type {(() => Promise<unknown>)[]} what takes back each change, the last one last */
  const undo = [];
  byId("correct").hidden = false;
  fill(byId("correct-class"), classes.map((one) => [one.name, one.name]), "");

  function draw() {
    group.clearLayers();
    for (const item of items) {
      const path = item.rings.map((rings) => rings.map((one) => one.map(([x, y]) => [y, x])));
      const strong = item.id === chosen;
      const color = colors.get(item.class) ?? "#ffd400";
      const shape = L.polygon(path, { color: strong ? "#fff" : color, fillColor: color, weight: strong ? 4 : 2, fillOpacity: 0.35 });
      shape.on("click", (/** @type {any} */ event) => {
        if (ring) return;
        L.DomEvent.stop(event);
        chosen = item.id;
        byId("correct-class").value = item.class;
        draw();
      });
      group.addLayer(shape);
    }
    byId("correct-delete").hidden = chosen === null;
    byId("correct-undo").disabled = !undo.length;
    byId("correct-draw").setAttribute("aria-pressed", String(ring !== null));
    byId("map").classList.toggle("drawing", ring !== null);
    const count = `${items.length.toLocaleString("en")} polygon${items.length === 1 ? "" : "s"} in corrections.gpkg.`;
    byId("correct-state").textContent = ring ? `${HELP} ${ring.length} corners.` : count;
    line.setLatLngs((ring ?? []).map(([x, y]) => [y, x]));
  }

  async function refresh() {
    items = await ask("api/corrections");
    if (!items.some((one) => one.id === chosen)) chosen = null;
    draw();
  }

  /** @param {() => Promise<unknown>} act */
  async function doing(act) {
    try {
      await act();
    } catch (error) {
      note(saidBy(error).text);
    }
    await refresh();
  }

  /** @param {string} name @param {[number, number][]} corners */
  async function add(name, corners) {
    const made = await send("api/corrections", { class: name, ring: corners });
    undo.push(() => recode(made.id, null, name));
    return made;
  }

  /** @param {number} id @param {string | null} name @param {string | null} before null: it is deleted, and comes back */
  async function recode(id, name, before) {
    await send(`api/corrections/${id}`, { class: name, before });
  }

  function close() {
    const corners = ring;
    if (!corners || corners.length < 3) return;
    const name = byId("correct-class").value;
    // Shown before it is stored: the first one waits until the file is made.
    items = [...items, { id: -1, class: name, rings: [[corners]] }];
    end();
    byId("correct-state").textContent = "Storing the polygon.";
    doing(() => add(name, corners));
  }

  function begin() {
    ring = [];
    chosen = null;
    map.doubleClickZoom.disable();
    draw();
  }

  function end() {
    ring = null;
    // The second click of a double one must not zoom.
    setTimeout(() => map.doubleClickZoom.enable(), 300);
    draw();
  }

  /** @param {number} row @param {number} column */
  function corner(row, column) {
    if (!ring) return;
    const last = ring[ring.length - 1];
    if (last && last[0] === column && last[1] === row) return;
    ring.push([column, row]);
    draw();
  }

  map.on("click", (/** @type {any} */ event) => {
    if (ring) corner(event.latlng.lat, event.latlng.lng);
    else if (chosen !== null) {
      chosen = null;
      draw();
    }
  });
  map.on("dblclick", close);
  byId("correct-draw").addEventListener("click", () => (ring ? end() : begin()));
  byId("correct-undo").addEventListener("click", () => {
    const back = undo.pop();
    if (back) doing(back);
  });
  byId("correct-delete").addEventListener("click", () => {
    const item = items.find((one) => one.id === chosen);
    if (!item) return;
    doing(async () => {
      await recode(item.id, null, item.class);
      // The server has kept it whole, with holes and parts, under the same number.
      undo.push(() => recode(item.id, item.class, null));
    });
  });
  byId("correct-class").addEventListener("change", () => {
    const item = items.find((one) => one.id === chosen);
    const name = byId("correct-class").value;
    if (item && item.class !== name) {
      doing(async () => {
        await recode(item.id, name, item.class);
        undo.push(() => recode(item.id, item.class, name));
      });
    }
  });
  await refresh();
  setInterval(() => {
    if (!document.hidden && !ring) refresh().catch(() => undefined);
  }, EVERY);

  return {
    drawing: () => ring !== null,
    key: (event) => {
      const centre = map.getCenter();
      /** @type {Record<string, () => void>} */
      const own = { d: () => (ring ? end() : begin()), z: () => byId("correct-undo").click() };
      /** @type {Record<string, () => void>} */
      const drawing = { " ": () => corner(centre.lat, centre.lng), Enter: close, Escape: end, Backspace: () => { ring?.pop(); draw(); } };
      const act = own[event.key] ?? (ring ? drawing[event.key] : undefined);
      act?.();
      return act !== undefined;
    },
  };
}
