// @ts-check
/** Small helpers for elements. Text from files goes in as text alone, never as HTML. */

/**
 * @param {string} id
 * @returns {any} the element, which index.html has
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes] `text` is its text
 * @param {Node[]} [children]
 * @returns {any}
 */
export function make(tag, attributes = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} options value and text
 * @param {string} chosen
 */
export function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, text })));
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0]?.[0] ?? "");
}

/**
 * A square of one colour; the page's policy forbids style attributes, not canvases.
 * @param {[number, number, number]} color
 */
export function chip(color) {
  const canvas = make("canvas", { class: "chip", width: "16", height: "16", "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = `rgb(${color.join(" ")})`;
  pen.fillRect(0, 0, 16, 16);
  return canvas;
}
