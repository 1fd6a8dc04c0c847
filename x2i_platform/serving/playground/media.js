/** Files that can be part of a prompt: what they are, which are taken, and how they are sent. */

const MB = 1024 ** 2;

/** What the service takes, by kind (docs/prompts.md): most bytes, and the words for it. */
const KINDS = {
  image: { maxBytes: 30 * MB, name: "pictures" },
  video: { maxBytes: 128 * MB, name: "videos" },
  audio: { maxBytes: 128 * MB, name: "sound" },
};

/** Media types by the endings of names. Browsers know some of them by no type, or by another. */
const TYPES = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
  gif: "image/gif",
  bmp: "image/bmp",
  tif: "image/tiff",
  tiff: "image/tiff",
  mp4: "video/mp4",
  mov: "video/quicktime",
  mkv: "video/x-matroska",
  webm: "video/webm",
  avi: "video/x-msvideo",
  ts: "video/mp2t",
  wav: "audio/wav",
  flac: "audio/flac",
  ogg: "audio/ogg",
  mp3: "audio/mpeg",
  m4a: "audio/mp4",
};
const KNOWN_TYPES = new Set(Object.values(TYPES));
/** Most parts of a prompt, its words among them. */
const MAX_FILES = 63;

/** The media type of a file, or undefined: its ending tells, then what the browser says. */
function mediaType(file) {
  const said = file.type.split(";")[0].toLowerCase();
  const byName = TYPES[file.name.split(".").pop().toLowerCase()];
  // A recording of a browser is a .webm of sound alone: here the browser knows better.
  return said.startsWith("audio/") && byName === "video/webm"
    ? said
    : (byName ?? (KNOWN_TYPES.has(said) ? said : undefined));
}

/** `image`, `video` or `audio`; undefined for what is none. */
export function kindOf(file) {
  return mediaType(file)?.split("/")[0];
}

/** What a file field offers: media types of the kinds in `inputs`. */
export function acceptedTypes(inputs) {
  const endings = Object.keys(TYPES).filter((ending) => inputs.includes(TYPES[ending].split("/")[0]));
  return endings.map((ending) => `.${ending}`).join(",");
}

/**
 * Why a file can't be used, in one line; undefined if it can.
 * @param {File} file
 * @param {string[]} inputs kinds that the model takes
 * @param {number} numBefore files that are there already
 */
export function problemOf(file, inputs, numBefore = 0) {
  const kind = kindOf(file);
  if (!kind) return `${file.name} is no picture, video or sound that can be read.`;
  if (!inputs.includes(kind)) return `${file.name}: this model takes no ${KINDS[kind].name}.`;
  if (!file.size) return `${file.name} is empty.`;
  const { maxBytes, name } = KINDS[kind];
  if (file.size > maxBytes) return `${file.name} has ${inWords(file.size)}; ${name} may have ${inWords(maxBytes)}.`;
  if (numBefore >= MAX_FILES) return `${file.name} is one too many; ${MAX_FILES} files can be sent.`;
  return undefined;
}

/** Bytes as people write them. */
export function inWords(bytes) {
  return bytes < MB ? `${Math.ceil(bytes / 1024)} kB` : `${(bytes / MB).toFixed(1)} MB`;
}

/**
 * A file as a part of a message.
 * @param {File} file one that `problemOf` has nothing against
 */
export async function partOf(file) {
  const url = await dataUrl(file);
  const kind = kindOf(file);
  if (kind !== "audio") return { type: `${kind}_url`, [`${kind}_url`]: { url } };
  const [, format, data] = /^data:audio\/([^;]+);base64,(.*)$/s.exec(url);
  return { type: "input_audio", input_audio: { data, format } };
}

/** The bytes of a file as a data URL of its media type. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name} can't be read any more; add it again.`)));
    reader.readAsDataURL(new Blob([file], { type: mediaType(file) }));
  });
}
