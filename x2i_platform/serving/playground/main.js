/** The playground: ties form, service, stage and history together. One image is made at a time. */

import { ServiceError, address, listModels, streamImage } from "./api.js";
import { addFiles, problemWithFiles, startAttachments } from "./attachments.js";
import { BODY_FILE } from "./curl.js";
import { byId } from "./dom.js";
import { aspectRatio, fillForm, hasModels, modelInputs, offerModels, readWish, setSeed, startForm } from "./form.js";
import { addToHistory, markShown } from "./history.js";
import { apiKey, askForKey, startKey } from "./key.js";
import { isBlank, requestBody } from "./request.js";
import * as stage from "./stage.js";

const ENDPOINT = "v1/images/generations";
const form = byId("form");
const generate = byId("generate");
const cancel = byId("cancel");
/** The controller of the image that is being made, or null. */
let running = null;
/** The image on the stage, or null. */
let shown = null;

/** Do something that may need a key: where the service wants one, ask for it and do it again. */
async function withKey(action, signal) {
  for (;;) {
    try {
      return await action();
    } catch (problem) {
      if (!(problem instanceof ServiceError) || problem.status !== 401) throw problem;
      stage.showError(problem);
      await askForKey(signal);
      stage.clearError();
    }
  }
}

async function loadModels() {
  try {
    offerModels(await withKey(listModels));
    stage.setShape(aspectRatio());
  } catch (problem) {
    stage.showError(problem);
  }
}

/** Why the wish can't be sent, in one line, or undefined. */
function problemOf(wish) {
  return isBlank(wish) ? "Write a prompt, or add a picture, a video or a sound." : problemWithFiles();
}

async function start() {
  if (running || !form.reportValidity()) return;
  const wish = readWish();
  const problem = problemOf(wish);
  if (problem) {
    stage.showError({ message: problem });
    byId("prompt").focus();
    return;
  }
  running = new AbortController();
  showRunning(true);
  show(null);
  stage.showWorking();
  try {
    await draw(wish, running.signal);
  } catch (failure) {
    if (running.signal.aborted) stage.showCancelled();
    else stage.showFailed(failure);
  }
  running = null;
  showRunning(false);
  if (!hasModels()) await loadModels(); // the service wasn't there when the page was opened
}

/** Make an image and show it as it becomes one. Throws what the service refuses. */
async function draw(wish, signal) {
  const started = performance.now();
  const body = await requestBody(wish);
  const streamed = { ...body, stream: true, partial_images: wish.partials };
  let steps;
  const completed = await withKey(async () => {
    for await (const event of streamImage(streamed, signal)) {
      if (event.type === "image_generation.completed") return event;
      steps = event.steps;
      stage.showPartial(event);
    }
  }, signal);
  const seconds = (performance.now() - started) / 1000;
  finish(await madeOf(completed, { wish, body, seconds, steps: steps ?? wish.steps }));
}

/**
 * What the stage and the history show of a completed image.
 * @returns {Promise<import("./history.js").Made>}
 */
async function madeOf(event, { wish, body, seconds, steps }) {
  const blob = stage.imageOf(event);
  const { width, height } = await sizeOf(blob);
  const { seed, model, version, digest, revised_prompt: answer, output_format: format } = event;
  const repeated = { ...wish, seed };
  const command = {
    url: address(ENDPOINT),
    body: wish.files.length ? null : { ...body, seed },
    needsKey: Boolean(apiKey()),
  };
  const url = URL.createObjectURL(blob);
  return { wish: repeated, url, blob, width, height, format, seconds, steps, answer, model, version, digest, command };
}

/** Width and height of an image in pixels. */
async function sizeOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  bitmap.close(); // it holds four bytes a pixel
  return { width, height };
}

function finish(made) {
  addToHistory(made, { onPick: restore });
  show(made);
  stage.announce(`The image is ready: ${made.seconds.toFixed(1)} s, seed ${made.wish.seed}.`);
}

/** Bring an image back with everything that makes it again. */
function restore(made) {
  fillForm(made.wish);
  if (running) return; // the stage is taken
  show(made);
  stage.announce(`Prompt and settings are back, seed ${made.wish.seed}.`);
}

function show(made) {
  shown = made;
  markShown(made);
  byId("use-image").hidden = !modelInputs().includes("image");
  if (made) stage.showResult(made);
}

/** Swap the two buttons; who pressed one stands on the other, so that the keyboard isn't lost. */
function showRunning(isRunning) {
  const [gone, here] = isRunning ? [generate, cancel] : [cancel, generate];
  const hadFocus = document.activeElement === gone;
  here.hidden = false;
  gone.hidden = true;
  if (hadFocus) here.focus();
}

async function copyCommand() {
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    stage.announce("The command is in the clipboard.");
  } catch {
    // Without TLS a browser may not give the clipboard.
    getSelection().selectAllChildren(byId("curl"));
    stage.announce("The command is selected; copy it with Ctrl or Cmd and C.");
  }
}

/** Save the body of the request that made the image on the stage: curl sends it again. */
async function saveBody() {
  const body = await requestBody(shown.wish);
  const url = URL.createObjectURL(new Blob([JSON.stringify(body)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: BODY_FILE }).click();
  URL.revokeObjectURL(url);
}

function useAsInput() {
  const name = `x2i-${shown.wish.seed}.${shown.format}`;
  addFiles([new File([shown.blob], name, { type: shown.blob.type })]);
  byId("prompt").focus();
}

function onKey(event) {
  if (event.key === "Escape" && running) running.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.contains(event.target)) {
    event.preventDefault();
    start();
  }
}

function connect() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  cancel.addEventListener("click", () => running?.abort());
  byId("reuse-seed").addEventListener("click", () => {
    setSeed(shown.wish.seed);
    stage.announce(`The next image has seed ${shown.wish.seed} too.`);
  });
  byId("use-image").addEventListener("click", useAsInput);
  byId("copy-curl").addEventListener("click", copyCommand);
  byId("save-request").addEventListener("click", saveBody);
  document.addEventListener("keydown", onKey);
}

startAttachments({ onRefused: (message) => stage.showError({ message }) });
startForm({ onSize: () => shown || running || stage.setShape(aspectRatio()) });
startKey({ onChange: loadModels });
connect();
loadModels();
