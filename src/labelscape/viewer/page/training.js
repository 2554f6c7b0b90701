// @ts-check
/** Loss and scores of a training run, drawn anew whenever its files change. */

import { ask } from "./api.js";
import { byId, make } from "./dom.js";

/**
 * @typedef {{step: number, [key: string]: number}} Row
 * @typedef {{name: string, running: boolean, step: number, steps: number, changed: number, rows: Row[],
 *   scores: Record<string, number>, picture: string | null}} Run
 * @typedef {{name: string, points: [number, number][]}} Curve
 */

const CHARTS = [
  ["Loss", ["loss", "loss_first", "loss_mate"]],
  ["Validation mIoU", ["val_miou", "val_miou_mate"]],
  ["Learning rate", ["rate"]],
];
const WORDS = /** @type {Record<string, string>} */ ({ loss_first: "first task", loss_mate: "second task", val_miou_mate: "second task" });
const [HIGH, LEFT, DOWN] = [300, 60, 30];
// As wide as the page: a drawing that is scaled down has letters too small to read.
const WIDE = Math.max(320, Math.min(1000, document.documentElement.clientWidth - 32));

/** @param {Run[]} runs */
function draw(runs) {
  const charts = CHARTS.map(([title, keys]) => chart(String(title), /** @type {string[]} */ (keys), runs)).filter((one) => one !== null);
  byId("charts").replaceChildren(...charts);
  byId("rows").replaceChildren(...runs.map(row));
  byId("pictures").replaceChildren(...runs.filter((one) => one.picture).map(picture));
  const running = runs.filter((one) => one.running);
  const last = Math.max(0, ...runs.map((one) => one.changed));
  const when = last ? `, last written ${new Date(last * 1000).toLocaleTimeString()}` : "";
  if (!runs.length) byId("live").textContent = "Waiting for the first values; they come within a minute of the first step.";
  else byId("live").textContent = running.length ? `Training${when}. Values come with each saved state.` : `Finished${when}.`;
  document.body.dataset.ready = "yes";
}

/** @param {Run} run */
function picture(run) {
  const text = `${run.name}: labels of the validation blocks, and their newest map`;
  return make("figure", {}, [make("figcaption", { text }), make("img", { class: "blocks", src: String(run.picture), alt: text })]);
}

/** @param {Run} run */
function row(run) {
  const last = /** @type {(key: string) => string} */ (key) => {
    const found = run.rows.filter((one) => key in one);
    return found.length ? short(found[found.length - 1][key]) : "";
  };
  const scores = Object.entries(run.scores).map(([name, value]) => `${name} ${(100 * value).toFixed(1)} %`).join(", ");
  const steps = `${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}`;
  const texts = [steps, last("loss"), last("val_miou"), run.running ? "after the last step" : scores];
  return make("tr", {}, [make("th", { scope: "row", text: run.name }), ...texts.map((text) => make("td", { text }))]);
}

/** @param {string} title @param {string[]} keys @param {Run[]} runs */
function chart(title, keys, runs) {
  /** @type {Curve[]} */
  const curves = runs.flatMap((run) => keys.map((key) => ({
    name: [run.name, WORDS[key]].filter(Boolean).join(", "),
    points: run.rows.filter((one) => Number.isFinite(one[key])).map((one) => /** @type {[number, number]} */ ([one.step, one[key]])),
  }))).filter((one) => one.points.length);
  if (!curves.length) return null;
  const points = curves.flatMap((one) => one.points);
  const right = Math.max(...points.map((one) => one[0]), 1);
  const top = Math.max(...points.map((one) => one[1]), 1e-12);
  const low = Math.min(0, ...points.map((one) => one[1]));
  const x = (/** @type {number} */ step) => LEFT + ((WIDE - LEFT - 10) * step) / right;
  const y = (/** @type {number} */ value) => HIGH - DOWN - ((HIGH - DOWN - 10) * (value - low)) / (top - low);
  const ends = curves.map((one) => `${one.name} ${short(one.points[one.points.length - 1][1])}`).join("; ");
  const svg = shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${title} by step, now: ${ends}` });
  for (const share of [0, 0.5, 1]) {
    const value = low + share * (top - low);
    svg.append(shape("line", { class: "axis", x1: LEFT, x2: WIDE - 10, y1: y(value), y2: y(value) }), label(LEFT - 6, y(value) + 4, short(value), "end"));
    svg.append(label(x(share * right), HIGH - 8, Math.round(share * right).toLocaleString("en"), share === 0 ? "start" : share === 1 ? "end" : "middle"));
  }
  curves.forEach((curve, i) => {
    const line = curve.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const [only] = curve.points;
    // A line of one point is not drawn.
    svg.append(curve.points.length > 1 ? shape("polyline", { class: `curve c${i % 6}`, points: line }) : shape("circle", { class: `curve c${i % 6}`, cx: x(only[0]), cy: y(only[1]), r: 3 }));
    svg.append(shape("line", { class: `curve c${i % 6}`, x1: WIDE - 220, x2: WIDE - 196, y1: 20 + 18 * i, y2: 20 + 18 * i }), label(WIDE - 188, 24 + 18 * i, curve.name, "start"));
  });
  return make("figure", {}, [make("figcaption", { text: title }), svg]);
}

/** @param {string} tag @param {Record<string, string | number>} attributes */
function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

/** @param {number} x @param {number} y @param {string} text @param {string} anchor */
function label(x, y, text, anchor) {
  const made = shape("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

/** @param {number} value */
function short(value) {
  // Rates are small: 0.000584 would be cut off beside the chart.
  if (value && Math.abs(value) < 0.001) return value.toExponential(1);
  return Number(value.toPrecision(3)).toString();
}

const facts = await ask("api/runs");
document.title = `${facts.title} - Labelscape`;
byId("title").textContent = `Training: ${facts.title}`;
draw(facts.runs);
const stream = new EventSource("api/stream");
stream.addEventListener("message", (event) => draw(JSON.parse(event.data)));
stream.addEventListener("error", () => {
  byId("live").textContent = "The server does not answer; the page shows the last values.";
});
