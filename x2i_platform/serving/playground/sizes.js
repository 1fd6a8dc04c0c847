/** The sizes that a model is offered at: its own, and others of about as many pixels. */

const STEP = 16;
const MAX_SIDE = 2048;

/** Names and proportions, beside the model's own. */
const SHAPES = [
  ["Square", 1, 1],
  ["Landscape", 3, 2],
  ["Portrait", 2, 3],
  ["Wide", 16, 9],
  ["Tall", 9, 16],
];
const SCALES = [
  ["Half the side", 0.5],
  ["Twice the side", 2],
];

/**
 * Choices of size.
 * @param {{width: number, height: number}} defaults of a model, in pixels
 * @returns {{name: string, width: number, height: number}[]} the model's own first; no size twice
 */
export function sizesOf({ width, height }) {
  const area = width * height;
  const shapes = SHAPES.map(([name, a, b]) => sized(name, Math.sqrt((area * a) / b), Math.sqrt((area * b) / a)));
  const scales = SCALES.map(([name, scale]) => sized(name, width * scale, height * scale));
  const all = [{ name: "Default", width, height }, ...shapes, ...scales].filter(isDrawable);
  return all.filter((size, place) => all.findIndex((other) => sameSize(size, other)) === place);
}

/** A size in whole latents: its sides are multiples of 16 pixels. */
function sized(name, width, height) {
  return { name, width: Math.round(width / STEP) * STEP, height: Math.round(height / STEP) * STEP };
}

function isDrawable({ width, height }) {
  return [width, height].every((side) => side >= STEP && side <= MAX_SIDE);
}

function sameSize(one, other) {
  return one.width === other.width && one.height === other.height;
}
