// The server's API. Every failure is thrown as a Trouble: one line that says what to do.

export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const GONE = "The server does not respond. Is gptworks serve still running? Start it again, then press Run.";

let key = "";

/** Keep the API key in memory while this page is open. It is never stored. */
export function useKey(value) {
  key = value;
}

async function call(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = body
    ? { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : { headers };
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...options, signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Trouble(GONE);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let message = "";
  try {
    message = (await answer.json()).error.message;
  } catch {
    message = `The server responded with ${answer.status} ${answer.statusText}`;
  }
  if (answer.status === 429) message += ` Wait ${answer.headers.get("Retry-After") ?? "a few"} s, then press Run again.`;
  return new Trouble(message, answer.status);
}

/** The served models: id, kind, context, parameters, labels. */
export async function models() {
  return (await (await call("v1/models")).json()).data;
}

export async function classify(body, signal) {
  return (await call("v1/classify", body, signal)).json();
}

/**
 * Stream a completion or, if the body has messages, a chat answer.
 *
 * Yields {text, tokens: [{text, logprob, top}], reason} for every chunk that has a choice.
 */
export async function* stream(body, signal) {
  const chat = "messages" in body;
  const answer = await call(chat ? "v1/chat/completions" : "v1/completions", { ...body, stream: true }, signal);
  let ended = false;
  for await (const event of events(answer.body)) {
    if (event.error) throw new Trouble(event.error.message);
    const choice = event.choices?.[0];
    if (!choice) continue;
    ended ||= Boolean(choice.finish_reason);
    yield {
      text: (chat ? choice.delta?.content : choice.text) ?? "",
      tokens: chat ? ofChat(choice.logprobs) : ofCompletion(choice.logprobs),
      reason: choice.finish_reason ?? null,
    };
  }
  if (!ended) throw new Trouble("The connection closed before the answer was complete. Press Run to try again.");
}

/** The JSON objects of a server-sent event stream, up to [DONE]. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const data = line.startsWith("data:") ? line.slice(5).trim() : "";
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } catch (error) {
    throw error.name === "AbortError" || error instanceof Trouble ? error : new Trouble(GONE);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function ofCompletion(logprobs) {
  return (logprobs?.tokens ?? []).map((text, i) => ({
    text,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs?.[i] ?? {})
      .map(([text, logprob]) => ({ text, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}

function ofChat(logprobs) {
  return (logprobs?.content ?? []).map(({ token, logprob, top_logprobs }) => ({
    text: token,
    logprob,
    top: (top_logprobs ?? []).map(({ token, logprob }) => ({ text: token, logprob })),
  }));
}
