/** What the page asks of the service: its models, and images as they are made. */

import { readEvents } from "./events.js";
import { apiKey } from "./key.js";

/** A refusal of the service, in its own words. */
export class ServiceError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string|null, param?: string|null, retryAfter?: string|null}} details
   */
  constructor(message, { status, code, param, retryAfter } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

/** The address of an endpoint. Relative to the page, which may lie behind a prefix. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * The models of the service, its default first.
 * @throws {ServiceError}
 */
export async function listModels() {
  const response = await ask("v1/models", {});
  return (await response.json()).data;
}

/**
 * Make an image; yields its events as they arrive. Returning early, or aborting, closes the connection, which cancels
 * the work.
 * @param {Object} body of `POST /v1/images/generations`
 * @param {AbortSignal} signal
 * @yields {{type: string, b64_json: string}} partial images, then the completed one
 * @throws {ServiceError} also for a stream that ends before the image is there
 */
export async function* streamImage(body, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  const response = await ask("v1/images/generations", { method: "POST", headers, body: JSON.stringify(body), signal });
  for await (const { name, data } of readEvents(response.body)) {
    const event = JSON.parse(data);
    if (name === "error") throw refusal(event, {});
    yield event;
    if (event.type === "image_generation.completed") return;
  }
  throw new ServiceError("the connection ended before the image was ready");
}

/** Fetch from the service, with the key where there is one. */
async function ask(path, { headers = {}, ...options }) {
  const authorization = apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {};
  const request = { ...options, headers: { ...headers, ...authorization } };
  const response = await fetch(address(path), request).catch((error) => {
    if (options.signal?.aborted) throw error;
    throw new ServiceError("the service can't be reached; is it still running?");
  });
  if (!response.ok) throw await refused(response);
  return response;
}

/** The error of a response; OpenAI's error object where it holds one. */
async function refused(response) {
  const details = { status: response.status, retryAfter: response.headers.get("Retry-After") };
  const body = await response.json().catch(() => null);
  return refusal(body, details);
}

function refusal(body, details) {
  const { message, code, param } = body?.error ?? {};
  return new ServiceError(message || "the service gave no reason", { ...details, code, param });
}
