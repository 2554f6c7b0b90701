// @ts-check
/** Places one after the other: fly to each, answer by mouse or by the keys 1 to 9, go on with the arrows. */

import * as L from "./leaflet.js";
import { ask, saidBy, send } from "./api.js";
import { byId, chip, make } from "./dom.js";

/** @type {Record<string, string>} */
const HEADS = { differences: "Differences", blocks: "Worst blocks" };
/** @type {Record<string, string>} */
const SAYS = { right: "the class is right", mixed: "several classes", unsure: "cannot tell", certain: "certain", likely: "likely" };

/**
 * @param {any} map
 * @param {import("./api.js").MapFacts} facts
 * @param {(text: string) => void} note
 * @returns {Promise<(event: KeyboardEvent) => boolean>} takes a key where it is one of its own
 */
export async function judge(map, facts, note) {
  const judging = /** @type {import("./api.js").Judging} */ (facts.judge);
  /** @type {import("./api.js").Place[]} */
  const places = await ask("api/places");
  const answered = !(judging.kind in HEADS);
  const outline = L.polygon([], { color: "#ffd400", weight: 3, fill: false, interactive: false }).addTo(map);
  let at = Math.max(0, places.findIndex((one) => !isDone(one)));
  byId("judge").hidden = false;
  byId("judge-title").textContent = HEADS[judging.kind] ?? `Judge: ${judging.file}`;
  byId("judge-open").hidden = !answered;

  function draw() {
    const place = places[at];
    const done = places.filter(isDone).length;
    const count = `${(at + 1).toLocaleString("en")} of ${places.length.toLocaleString("en")}`;
    byId("judge-state").textContent = !places.length ? "There is nothing to show here." : answered ? `Place ${count}; ${done.toLocaleString("en")} answered` : `Place ${count}, ${judging.kind === "blocks" ? "most errors" : "the largest"} first`;
    byId("judge-place").textContent = place?.title ?? "";
    byId("judge-choices").replaceChildren(...(answered && place ? choices(place) : []));
    if (!place) return;
    outline.setLatLngs(place.rings.map((rings) => rings.map((ring) => ring.map(([x, y]) => [y, x]))));
  }

  function fly() {
    const place = places[at];
    if (!place) return;
    const [left, top, right, bottom] = place.bounds;
    // Some ground around it: a class is seldom told from its inside alone.
    const room = Math.max(20, (right - left) / 2, (bottom - top) / 2);
    map.fitBounds([[top - room, left - room], [bottom + room, right + room]], { animate: false });
  }

  /** @param {import("./api.js").Place} place */
  function choices(place) {
    const classes = judging.classes.map((one, i) => button(i < 9 ? String(i + 1) : "", one.name, place.class === one.name, () => say({ class: one.name, word: judging.kind === "sample" ? place.word : null }), chip(one.color)));
    const words = judging.words.map((word) => button(keyOf(word), SAYS[word] ?? word, place.word === word, () => say({ class: judging.kind === "sample" ? place.class : null, word }, judging.kind === "sample")));
    return [...classes, ...words, button("x", "no answer", !isDone(place), () => say({ class: null, word: null }, true))];
  }

  /** @param {string} key @param {string} text @param {boolean} pressed @param {() => void} act @param {Node} [picture] */
  function button(key, text, pressed, act, picture) {
    const parts = [...(picture ? [picture] : []), make("span", { text }), ...(key ? [make("kbd", { text: key })] : [])];
    const made = make("button", { type: "button", "aria-pressed": String(pressed), ...(key ? { "data-key": key } : {}) }, parts);
    made.disabled = !facts.edit;
    made.addEventListener("click", act);
    return made;
  }

  /** @param {import("./api.js").Answer} answer @param {boolean} [stay] */
  async function say(answer, stay) {
    const place = places[at];
    if (!facts.edit || !place) return;
    try {
      const now = await send(`api/places/${place.id}`, { new: answer, before: { class: place.class, word: place.word } });
      Object.assign(place, now);
      if (!stay) return go(1);
    } catch (error) {
      const { text, now } = saidBy(error);
      if (now) Object.assign(place, now);
      note(text);
    }
    draw();
  }

  /** @param {number} step */
  function go(step) {
    at = Math.min(places.length - 1, Math.max(0, at + step));
    draw();
    fly();
  }

  function nextOpen() {
    const order = [...places.slice(at + 1), ...places.slice(0, at + 1)];
    const next = order.find((one) => !isDone(one));
    go(next ? places.indexOf(next) - at : 0);
  }

  byId("judge-back").addEventListener("click", () => go(-1));
  byId("judge-on").addEventListener("click", () => go(1));
  byId("judge-open").addEventListener("click", nextOpen);
  if (answered && !facts.edit) note("Answers are not stored: the server was started without --edit.");
  draw();
  // Two maps are first looked at as a whole.
  if (judging.kind !== "differences") fly();
  return (event) => {
    const found = byId("judge-choices").querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (found) found.click();
    else if (event.key === "ArrowRight") go(1);
    else if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "n" && answered) nextOpen();
    else return false;
    return true;
  };
}

/** @param {import("./api.js").Answer} place */
function isDone(place) {
  return Boolean(place.class || place.word);
}

/** @param {string} word */
function keyOf(word) {
  return /** @type {Record<string, string>} */ ({ right: "r", mixed: "m", unsure: "u", certain: "e", likely: "l" })[word] ?? "";
}
