/** The curl command of a request, for a POSIX shell. */

export const BODY_FILE = "request.json";

/** Characters that JSON allows and a terminal would act on or hide: controls, and those that turn text round. */
const UNSEEN = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/**
 * The command.
 * @param {string} url
 * @param {Object|null} body null where it is read from `BODY_FILE`: a shell takes no line of megabytes
 * @param {{needsKey: boolean}} options the key itself never stands in the command
 */
export function curlCommand(url, body, { needsKey }) {
  const data = body ? `--data ${quoted(asciiControls(JSON.stringify(body)))}` : `--data @${BODY_FILE}`;
  const key = needsKey ? [`-H "Authorization: Bearer $X2I_API_KEY"`] : [];
  return [`curl -sS ${quoted(url)}`, `-H 'Content-Type: application/json'`, ...key, data].join(" \\\n  ");
}

/** A word for the shell: in single quotes nothing has a meaning but the quote itself. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** JSON that spells unseen characters out. */
function asciiControls(json) {
  return json.replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
