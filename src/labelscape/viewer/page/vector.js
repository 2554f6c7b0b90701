// @ts-check
/** Mapbox Vector Tiles (specification 2.1), read without a library: one layer of polygons. */

/**
 * @typedef {{id: number, fields: Record<string, string | number>, rings: Int32Array[],
 *   box: [number, number, number, number]}} Feature
 *   rings are x, y in turn, in units of the tile, the first corner not repeated; box is left, top, right, bottom
 */

export const EXTENT = 4096;

/**
 * @param {ArrayBuffer} data
 * @returns {Feature[]}
 */
export function decode(data) {
  /** @type {Feature[]} */
  const found = [];
  for (const layer of messages(new Uint8Array(data)).get(3) ?? []) {
    const parts = messages(/** @type {Uint8Array} */ (layer));
    const keys = (parts.get(3) ?? []).map(text);
    const values = (parts.get(4) ?? []).map(value);
    for (const one of parts.get(2) ?? []) {
      const feature = messages(/** @type {Uint8Array} */ (one));
      const tags = numbers(feature.get(2)?.[0]);
      /** @type {Record<string, string | number>} */
      const fields = Object.create(null);
      for (let i = 0; i + 1 < tags.length; i += 2) fields[keys[tags[i]]] = values[tags[i + 1]];
      found.push({ id: Number(feature.get(1)?.[0] ?? 0), fields, ...shape(numbers(feature.get(4)?.[0])) });
    }
  }
  return found;
}

/**
 * Is a place inside a polygon? Holes are outside.
 * @param {Feature} feature
 * @param {number} x
 * @param {number} y
 */
export function holds(feature, x, y) {
  const [left, top, right, bottom] = feature.box;
  if (x < left || x > right || y < top || y > bottom) return false;
  let inside = false;
  for (const ring of feature.rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const [ax, ay, bx, by] = [ring[i], ring[i + 1], ring[j], ring[j + 1]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    }
  }
  return inside;
}

/**
 * The fields of a message by their numbers: bytes, or whole numbers.
 * @param {Uint8Array} bytes
 * @returns {Map<number, (Uint8Array | number)[]>}
 */
function messages(bytes) {
  /** @type {Map<number, (Uint8Array | number)[]>} */
  const found = new Map();
  const pen = { at: 0 };
  while (pen.at < bytes.length) {
    const key = varint(bytes, pen);
    const kind = key % 8;
    /** @type {Uint8Array | number} */
    let one;
    if (kind === 0) one = varint(bytes, pen);
    else {
      const size = kind === 1 ? 8 : kind === 5 ? 4 : varint(bytes, pen);
      one = bytes.subarray(pen.at, pen.at + size);
      pen.at += size;
    }
    const number = Math.floor(key / 8);
    const others = found.get(number);
    if (others) others.push(one);
    else found.set(number, [one]);
  }
  return found;
}

/** @param {Uint8Array} bytes @param {{at: number}} pen */
function varint(bytes, pen) {
  let found = 0;
  // Not by shifts, which are of 32 bits.
  for (let unit = 1; pen.at < bytes.length; unit *= 128) {
    const byte = bytes[pen.at++];
    found += (byte & 127) * unit;
    if (byte < 128) break;
  }
  return found;
}

/** @param {Uint8Array | number | undefined} packed */
function numbers(packed) {
  /** @type {number[]} */
  const found = [];
  if (!(packed instanceof Uint8Array)) return found;
  const pen = { at: 0 };
  while (pen.at < packed.length) found.push(varint(packed, pen));
  return found;
}

/** @param {number[]} words commands and steps @returns {Pick<Feature, "rings" | "box">} */
function shape(words) {
  /** @type {Int32Array[]} */
  const rings = [];
  /** @type {[number, number, number, number]} */
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  /** @type {number[]} */
  let ring = [];
  let [x, y, i] = [0, 0, 0];
  while (i < words.length) {
    const command = words[i] & 7;
    const count = words[i++] >> 3;
    if (command === 7) {
      rings.push(Int32Array.from(ring));
      ring = [];
      continue;
    }
    for (let n = 0; n < count && i + 1 < words.length; n++, i += 2) {
      x += signed(words[i]);
      y += signed(words[i + 1]);
      ring.push(x, y);
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    }
  }
  return { rings, box };
}

/** @param {number} word */
function signed(word) {
  return word % 2 ? -(word + 1) / 2 : word / 2;
}

/** @param {Uint8Array | number} bytes */
function text(bytes) {
  return new TextDecoder().decode(/** @type {Uint8Array} */ (bytes));
}

/** @param {Uint8Array | number} bytes @returns {string | number} */
function value(bytes) {
  const parts = messages(/** @type {Uint8Array} */ (bytes));
  const [words, real, whole] = [parts.get(1)?.[0], parts.get(3)?.[0], parts.get(6)?.[0]];
  if (words instanceof Uint8Array) return text(words);
  if (real instanceof Uint8Array) return new DataView(real.buffer, real.byteOffset, 8).getFloat64(0, true);
  return signed(Number(whole ?? 0));
}
