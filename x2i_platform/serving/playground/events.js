/** Server-sent events, read from the body of a response: EventSource can neither POST nor send a key. */

/**
 * The events of a stream, as they arrive.
 * @param {ReadableStream<Uint8Array>} stream
 * @yields {{name: string, data: string}} data of several lines is joined by line ends, as the standard has it
 */
export async function* readEvents(stream) {
  let name = "message";
  let data = [];
  for await (const line of lines(stream)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
    else if (line === "") {
      if (data.length) yield { name, data: data.join("\n") };
      name = "message";
      data = [];
    } // a line that begins with a colon is a comment, which keeps the connection alive
  }
}

/** Whole lines; they end with LF, CR or both. A line of megabytes comes in many pieces, and each is looked at once. */
async function* lines(stream) {
  let begun = [];
  let afterReturn = false;
  for await (const text of texts(stream)) {
    const [first, ...others] = (afterReturn && text[0] === "\n" ? text.slice(1) : text).split(/\r\n|\n|\r/);
    afterReturn = text.endsWith("\r");
    begun.push(first);
    for (const next of others) {
      yield begun.join("");
      begun = [next];
    }
  }
}

/** The pieces of a stream as text. However the reader stops, the stream is let go, so that the service sees it. */
async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {}); // a stream that failed can't be cancelled any more
  }
}
