/** The API key: asked for when the service wants one, kept for this tab alone, and never shown again. */

import { byId } from "./dom.js";

const STORED = "x2i-key";
const form = byId("key-form");
const field = byId("key");
const change = byId("key-change");
let kept = stored();
/** The one wait for a key that everything which needs it shares, or null. */
let waiting = null;

/** The key, or an empty text. */
export function apiKey() {
  return kept;
}

/**
 * Show the field and wait until a key is given.
 * @param {AbortSignal} [signal] ends the wait
 * @returns {Promise<void>} rejected if aborted
 */
export async function askForKey(signal) {
  waiting ??= Promise.withResolvers();
  open();
  const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  await Promise.race([waiting.promise, aborted]);
}

/** Make the field work. `onChange` is called when a key is given or forgotten while nothing waits for one. */
export function startKey({ onChange }) {
  change.hidden = !kept;
  change.addEventListener("click", () => (form.hidden ? open() : close()));
  byId("key-forget").addEventListener("click", () => {
    keep("");
    close();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keep(field.value.trim());
    close();
    if (waiting) waiting.resolve();
    else onChange();
    waiting = null;
  });
}

function open() {
  form.hidden = false;
  change.hidden = false;
  change.setAttribute("aria-expanded", "true");
  byId("key-forget").hidden = !kept;
  field.focus();
}

function close() {
  field.value = "";
  form.hidden = true;
  change.setAttribute("aria-expanded", "false");
  byId("prompt").focus();
}

function keep(key) {
  kept = key;
  try {
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
  } catch {
    // A browser that keeps nothing: the key holds until the page is left.
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}
