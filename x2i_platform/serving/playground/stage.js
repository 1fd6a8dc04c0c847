/** The stage: the image while it is made and when it is there, what it was made with, and what went wrong. */

import { curlCommand } from "./curl.js";
import { byId, element } from "./dom.js";

const canvas = byId("canvas");
const image = byId("image");
const progress = byId("progress");
const step = byId("step");
const status = byId("status");
const error = byId("error");
const result = byId("result");
/** Images of at most so many pixels a side are drawn large without smoothing: those of miniature models. */
const SMALL_SIDE = 160;
let startedAt = 0;
let clock;
/** The address of the partial image that is shown; it is freed when the next one comes. */
let partialUrl = "";

/** Shape the empty stage like the image to come. */
export function setShape(aspectRatio) {
  canvas.style.aspectRatio = String(aspectRatio);
}

/** Clear the stage for the next image. */
export function showWorking() {
  clearError();
  show("working");
  hideImage();
  startedAt = performance.now();
  progress.removeAttribute("value"); // without a value the bar says only that something goes on
  status.textContent = "Working…";
  tick("Waiting for the service");
  canvas.scrollIntoView({ block: "nearest" });
}

/** A partial image. `step` of `steps` are done. */
export function showPartial(event) {
  showImage((partialUrl = imageUrl(event)), "What the image looks like so far");
  progress.max = event.steps;
  progress.value = event.step;
  tick(`Step ${event.step} of ${event.steps}`);
}

/**
 * A finished image with its facts and its request.
 * @param {import("./history.js").Made} made
 */
export function showResult(made) {
  clearError();
  show("done");
  freePartial();
  setShape(made.width / made.height);
  showImage(made.url, made.wish.prompt.trim() || "The image made of your files");
  byId("facts").replaceChildren(...Object.entries(factsOf(made)).flatMap(fact));
  byId("answer").hidden = !made.answer;
  byId("answer-text").textContent = made.answer ?? "";
  Object.assign(byId("download"), { href: made.url, download: `x2i-${made.wish.seed}.${made.format}` });
  showCommand(made);
}

/** Say that the person stopped it. The last partial image stays. */
export function showCancelled() {
  show(partialUrl ? "cancelled" : "empty");
  status.textContent = "Cancelled. The service has been told to stop.";
}

/** Say what went wrong, in the service's words. The last partial image stays. */
export function showFailed(problem) {
  show(partialUrl ? "cancelled" : "empty");
  status.textContent = "";
  showError(problem);
}

/** A polite word to everybody, screen readers included. */
export function announce(text) {
  status.textContent = text;
}

/** What went wrong, without touching the stage. */
export function showError({ message, status: code, retryAfter }) {
  const details = [code && `HTTP ${code}`, retryAfter && `try again in ${retryAfter} s`].filter(Boolean).join(" · ");
  error.replaceChildren(element("p", { textContent: message }));
  if (details) error.append(element("p", { className: "details", textContent: details }));
  error.scrollIntoView({ block: "nearest" }); // on a phone the stage may be what is in view
}

/** Forget what went wrong. */
export function clearError() {
  error.replaceChildren();
}

/** `empty`, `working`, `cancelled` or `done`; what belongs to no other state is hidden. */
function show(state) {
  canvas.dataset.state = state;
  canvas.setAttribute("aria-busy", String(state === "working"));
  byId("empty").hidden = state !== "empty";
  byId("working").hidden = state !== "working";
  result.hidden = state !== "done";
  if (state === "working") return;
  clearInterval(clock);
  if (state === "empty") hideImage();
}

function tick(what) {
  clearInterval(clock);
  const say = () => {
    step.textContent = `${what} · ${Math.floor((performance.now() - startedAt) / 1000)} s`;
  };
  say();
  clock = setInterval(say, 1000);
}

function showImage(url, alt) {
  image.src = url;
  image.alt = alt;
  image.hidden = false;
  image.onload = () => {
    image.dataset.small = String(Math.max(image.naturalWidth, image.naturalHeight) <= SMALL_SIDE);
  };
}

function hideImage() {
  image.hidden = true;
  image.removeAttribute("src");
  freePartial();
}

/** The address of a new image; the partial one before it is freed. */
function imageUrl(event) {
  freePartial();
  return URL.createObjectURL(imageOf(event));
}

function freePartial() {
  URL.revokeObjectURL(partialUrl);
  partialUrl = "";
}

/** The file of an image in an event. */
export function imageOf({ b64_json: base64, output_format: format }) {
  return new Blob([Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0))], { type: `image/${format}` });
}

function factsOf({ wish, width, height, model, version, digest, seconds, steps }) {
  const size = `${width} × ${height}`;
  const time = `${seconds.toFixed(1)} s`;
  const all = {
    Seed: wish.seed,
    Size: size,
    Steps: steps,
    Time: time,
    Model: model,
    Version: version,
    Digest: digest?.slice(0, 19),
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined && value !== null));
}

function fact([name, value]) {
  return [element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: String(value) }))];
}

/** The curl command; where there are files, its body is a file too. */
function showCommand({ command }) {
  byId("curl").textContent = curlCommand(command.url, command.body, command);
  byId("curl-file").hidden = Boolean(command.body);
  byId("curl-key").hidden = !command.needsKey;
}
