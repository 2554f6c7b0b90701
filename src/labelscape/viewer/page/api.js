// @ts-check
/** Requests to the server, and the shapes of its answers. */

/**
 * @typedef {{value: number, name: string, color: [number, number, number], pixels: number | null,
 *   hectares: number | null}} MapClass
 * @typedef {{key: string, kind: "classes" | "measure" | "proba" | "scene", title: string, bands: string[],
 *   top: number, unit: string, usual: number[], exact: boolean, version: string, recolour: boolean, classes?: MapClass[]}} Layer
 * @typedef {{title: string, width: number, height: number, levels: number, crs: string,
 *   metres: number | null, digits: number, edit: boolean, correct: boolean, north: number | null, ramp: [number, number, number][], notes: string[],
 *   layers: Layer[], judge: Judging | null, outlines: string | null}} MapFacts
 * @typedef {{kind: "review" | "sample" | "differences" | "blocks", file: string,
 *   classes: {name: string, color: [number, number, number]}[], words: string[]}} Judging
 * @typedef {{id: number, class: string, rings: [number, number][][][]}} Correction
 * @typedef {{class: string | null, word: string | null}} Answer
 * @typedef {{id: number, title: string, rings: [number, number][][][], bounds: [number, number, number, number],
 *   mapped?: string} & Answer} Place
 * @typedef {{row: number, column: number, xy: [number, number] | null, lonlat: [number, number] | null,
 *   values: Record<string, number[] | null>, polygon: Record<string, string | number> | null}} Point
 */

/**
 * @param {string} path
 * @param {Record<string, string | number>} [query]
 * @returns {Promise<any>} the JSON of an answer; rejected with the server's own sentence
 */
export async function ask(path, query = {}) {
  const words = Object.entries(query).map(([key, value]) => [key, String(value)]);
  const answer = await fetch(`${path}?${new URLSearchParams(words)}`);
  return read(answer);
}

/**
 * @param {string} path
 * @param {unknown} body
 * @returns {Promise<any>}
 */
export async function send(path, body) {
  const headers = { "content-type": "application/json" };
  return read(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

/**
 * What a rejected request says, and with 409 what is there now.
 * @param {any} error
 * @returns {{text: string, now: any}}
 */
export function saidBy(error) {
  return { text: String(error?.message ?? error), now: error?.now ?? null };
}

/** @param {Response} answer */
async function read(answer) {
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let said = `The server answered ${answer.status}.`;
  let now = null;
  try {
    const told = JSON.parse(text);
    said = told.error ?? said;
    now = told.now ?? null;
  } catch {
    // Not JSON: the number is all there is to say.
  }
  throw Object.assign(new Error(said), { status: answer.status, now });
}
