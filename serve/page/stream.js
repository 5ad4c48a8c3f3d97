// Requests to the server, its server-sent events, and what went wrong in plain words.

/** What the person is told. `status` is that of the reply, 0 if there was none. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A reply with a good status. Throws Problem, or AbortError if `signal` stopped it. */
export async function request(path, { key, body, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached. Check that it runs, then ask again.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/**
 * The events of a streamed reply: {progress} for a comment with the state of the vote, {chunk} for a chunk in OpenAI's
 * shape. Throws Problem if the server reports an error, or the connection breaks before the end.
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await nextPart(reader);
      if (done) throw new Problem(0, "The connection broke before the vote was decided. Ask again.");
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const line of blocks.flatMap((block) => block.split("\n"))) {
        if (line === "data: [DONE]") return;
        if (line.startsWith(": {")) yield { progress: JSON.parse(line.slice(2)) };
        if (line.startsWith("data: ")) yield { chunk: checked(JSON.parse(line.slice(6))) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

async function nextPart(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { done: true };
  }
}

function checked(chunk) {
  if (chunk.error) throw new Problem(0, `The vote ended early: ${chunk.error.message}.`);
  return chunk;
}

async function problemOf(response) {
  let message = "";
  try {
    message = (await response.json()).error.message;
  } catch {
    message = response.statusText; // a proxy between us and the server answered
  }
  const seconds = Number(response.headers.get("Retry-After"));
  const again = seconds > 0 ? `Try again in ${seconds} second${seconds === 1 ? "" : "s"}.` : "Try again.";
  const words = {
    401: "This server wants an API key that it knows.",
    413: "The question is too long for this server.",
    429: `The server is busy. ${again}`,
    502: `The student could not draw a sample: ${message}.`,
    503: `The student does not answer. ${again} (${message})`,
    504: `Time was up before any sample was finished: ${message}.`,
  };
  const status = response.status;
  const other = status < 500 ? `The server refused this: ${message}.` : `The server has a problem: ${message}.`;
  return new Problem(status, words[status] ?? other);
}
