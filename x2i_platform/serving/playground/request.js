/** A wish, which is what the form holds, as the body of a request. */

import { partOf } from "./media.js";

/**
 * @typedef {Object} Wish what a person asks for; what is undefined is left to the model
 * @property {string} prompt
 * @property {File[]} files
 * @property {string} [model]
 * @property {string} [size] WIDTHxHEIGHT
 * @property {number} [steps]
 * @property {number} [seed]
 * @property {number} [guidance]
 * @property {string} [states] `prompt`, `answer` or `both`
 * @property {number} [temperature] of the answer
 * @property {number} partials images to show while one is made
 */

/** Whether there is nothing to draw. */
export function isBlank(wish) {
  return !wish.prompt.trim() && !wish.files.length;
}

/**
 * The body of `POST /v1/images/generations`, without what concerns the stream.
 * @param {Wish} wish
 */
export async function requestBody(wish) {
  return {
    ...(await content(wish)),
    model: wish.model,
    size: wish.size,
    seed: wish.seed,
    num_inference_steps: wish.steps,
    guidance_scale: wish.guidance,
    states: wish.states,
    answer: wish.temperature === undefined ? undefined : { temperature: wish.temperature },
  };
}

/** Words alone are a prompt; with files they are a message, files first, as multimodal LLMs are trained. */
async function content({ prompt, files }) {
  if (!files.length) return { prompt };
  const words = prompt.trim() ? [{ type: "text", text: prompt }] : [];
  return { messages: [{ role: "user", content: [...(await Promise.all(files.map(partOf))), ...words] }] };
}
