/** The form: what a person asks for, read as a wish, and filled from one. */

import { attachedFiles, replaceFiles, takeInputs } from "./attachments.js";
import { byId, element } from "./dom.js";
import { sizesOf } from "./sizes.js";

const NUMBERS = {
  steps: byId("steps"),
  seed: byId("seed"),
  guidance: byId("guidance"),
  temperature: byId("temperature"),
};
const CHOICES = { model: byId("model"), size: byId("size"), states: byId("states") };
const prompt = byId("prompt");
const partials = byId("partials");
let models = [];

/**
 * What the form holds.
 * @returns {import("./request.js").Wish}
 */
export function readWish() {
  const numbers = Object.entries(NUMBERS).map(([name, { value }]) => [name, value === "" ? undefined : Number(value)]);
  const choices = Object.entries(CHOICES).map(([name, field]) => [name, field.value || undefined]);
  const settings = Object.fromEntries([...numbers, ...choices]);
  return { prompt: prompt.value, files: attachedFiles(), partials: Number(partials.value), ...settings };
}

/**
 * Put a wish into the form.
 * @param {import("./request.js").Wish} wish
 */
export function fillForm(wish) {
  if (wish.model && wish.model !== CHOICES.model.value) {
    CHOICES.model.value = wish.model;
    followModel();
  }
  prompt.value = wish.prompt;
  partials.value = wish.partials;
  for (const [name, field] of Object.entries({ ...NUMBERS, ...CHOICES })) field.value = wish[name] ?? "";
  replaceFiles(wish.files);
}

/** Put a seed into the form. */
export function setSeed(seed) {
  NUMBERS.seed.value = seed;
}

/** Offer the models of the service; the first is its default. */
export function offerModels(listed) {
  models = listed;
  CHOICES.model.replaceChildren(...models.map(({ id }) => element("option", { value: id, textContent: id })));
  CHOICES.model.disabled = !models.length;
  followModel();
}

/** Whether the models are known. */
export function hasModels() {
  return models.length > 0;
}

/** The kinds of input that the chosen model takes; all while it isn't known, and the service then says. */
export function modelInputs() {
  return chosenModel()?.inputs ?? ["text", "image", "video", "audio"];
}

/** Width over height of the image that will be made; 1 while no model is known. */
export function aspectRatio() {
  const { width = 1, height = 1 } = CHOICES.size.selectedOptions[0]?.dataset ?? {};
  return Number(width) / Number(height);
}

/** Make the form's own buttons work. `onSize` is called when another shape is chosen. */
export function startForm({ onSize }) {
  CHOICES.model.addEventListener("change", () => {
    followModel();
    onSize();
  });
  CHOICES.size.addEventListener("change", onSize);
  byId("random-seed").addEventListener("click", () => {
    NUMBERS.seed.value = "";
    NUMBERS.seed.focus();
  });
}

function chosenModel() {
  return models.find(({ id }) => id === CHOICES.model.value);
}

/** Show what the chosen model does where nothing is asked for. */
function followModel() {
  const { defaults, inputs } = chosenModel() ?? {};
  if (!defaults) return;
  NUMBERS.steps.placeholder = `${defaults.num_inference_steps} (default)`;
  NUMBERS.guidance.placeholder = `${defaults.guidance} (default)`;
  NUMBERS.temperature.placeholder = `${defaults.answer?.temperature ?? 0} (default)`;
  CHOICES.states.options[0].textContent = `Default (${defaults.states})`;
  CHOICES.size.replaceChildren(...sizesOf(defaults).map(sizeOption));
  takeInputs(inputs);
}

/** The model's own size is left to it: the option has no value. */
function sizeOption({ name, width, height }, place) {
  const option = element("option", {
    value: place ? `${width}x${height}` : "",
    textContent: `${name} · ${width} × ${height}`,
  });
  Object.assign(option.dataset, { width, height });
  return option;
}
