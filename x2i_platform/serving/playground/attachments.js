/** The files of the prompt: added by button, drop or paste, shown as chips that can be taken away. */

import { byId, element, icon } from "./dom.js";
import { acceptedTypes, inWords, kindOf, problemOf } from "./media.js";

const list = byId("chips");
const field = byId("files");
const overlay = byId("drop");
let files = [];
let inputs = ["text", "image", "video", "audio"];
let refuse = () => {};

/** The files, in the order in which they were added. */
export function attachedFiles() {
  return [...files];
}

/** Put other files in place of these. */
export function replaceFiles(others) {
  files = [...others];
  show();
}

/** Say which kinds the model takes. Files that are there stay; `problemWithFiles` tells. */
export function takeInputs(kinds) {
  inputs = kinds;
  field.accept = acceptedTypes(inputs);
  byId("attach").hidden = !field.accept;
}

/** Why the files can't be sent to this model, in one line, or undefined. */
export function problemWithFiles() {
  return files.map((file) => problemOf(file, inputs)).find(Boolean);
}

/** Add files; those that can't be used are left out, and the reason for the last one is told. */
export function addFiles(added) {
  if (!added.length) return;
  for (const file of added) {
    const problem = problemOf(file, inputs, files.length);
    if (problem) refuse(problem);
    else files.push(file);
  }
  show();
}

/** Make button, drop and paste work. `onRefused` is told, in one line, why a file can't be used. */
export function startAttachments({ onRefused }) {
  refuse = onRefused;
  byId("attach").addEventListener("click", () => field.click());
  field.addEventListener("change", () => {
    addFiles(field.files);
    field.value = ""; // so that the same file can be chosen again after it was removed
  });
  document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
  takeDrops();
}

function takeDrops() {
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    overlay.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) overlay.hidden = true; // it left the window
  });
  document.addEventListener("drop", (event) => {
    overlay.hidden = true;
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    addFiles(event.dataTransfer.files);
  });
}

function show() {
  for (const image of list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  list.replaceChildren(...files.map(chip));
  list.hidden = !files.length;
}

function chip(file) {
  const name = element("span", { className: "chip-name", textContent: file.name, title: file.name });
  const size = element("span", { className: "chip-size", textContent: inWords(file.size) });
  const label = `Remove ${file.name}`;
  const remove = element("button", { type: "button", className: "icon-button", title: label, ariaLabel: label });
  remove.append(icon("close"));
  remove.addEventListener("click", () => removeFile(file));
  return element("li", { className: "chip" }, thumbnail(file), name, size, remove);
}

function thumbnail(file) {
  const kind = kindOf(file);
  const symbol = element("span", { className: "chip-image" }, icon(kind));
  if (kind !== "image") return symbol;
  const image = element("img", { className: "chip-image", alt: "", src: URL.createObjectURL(file) });
  image.addEventListener("error", () => image.replaceWith(symbol)); // browsers don't show TIFF
  return image;
}

/** Focus goes to the next chip, or to the button that adds files: it must not fall back to the page's begin. */
function removeFile(file) {
  const place = files.indexOf(file);
  files.splice(place, 1);
  show();
  const left = list.querySelectorAll("button");
  (left[Math.min(place, left.length - 1)] ?? byId("attach")).focus();
}
