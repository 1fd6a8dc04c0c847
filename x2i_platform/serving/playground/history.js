/** The images of this visit, newest first. They are kept by this page alone and are gone when it is left. */

import { byId, element } from "./dom.js";

/**
 * @typedef {Object} Made an image and what it was made of
 * @property {import("./request.js").Wish} wish with the seed that was drawn
 * @property {string} url of the image, within this page
 * @property {Blob} blob
 * @property {number} width of the image in pixels
 * @property {number} height
 * @property {string} format such as `png`
 * @property {number} seconds it took
 * @property {string} [answer] of the MLLM
 * @property {{url: string, body: Object|null, needsKey: boolean}} command what curl is told
 */

/** So many are kept: a megabyte or two each. */
const MAX_KEPT = 40;
const list = byId("history-list");
const kept = [];

/**
 * Add an image. `onPick` is called with it when a person picks it.
 * @param {Made} made
 */
export function addToHistory(made, { onPick }) {
  kept.push(made);
  list.prepend(entry(made, onPick));
  byId("history").hidden = false;
  if (kept.length <= MAX_KEPT) return;
  URL.revokeObjectURL(kept.shift().url);
  list.lastElementChild.remove();
}

/** Mark the image that is on the stage, or none. */
export function markShown(made) {
  for (const button of list.querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.made === made));
}

function entry(made, onPick) {
  const words = made.wish.prompt.trim() || made.wish.files.map((file) => file.name).join(", ");
  const picture = element("img", { src: made.url, alt: "" });
  const button = element("button", { type: "button", title: words, made }, picture);
  button.setAttribute("aria-label", `Bring back: ${words.slice(0, 200)}, seed ${made.wish.seed}`);
  button.addEventListener("click", () => onPick(made));
  return element("li", {}, button);
}
