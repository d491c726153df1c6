// Speech as it is made: server-sent events with samples and progress.

const STATUSES = {
  queue_full: 429,
  queue_timeout: 503,
  stopping: 503,
  invalid_script: 422,
  invalid_setting: 422,
};

/** The JSON of each event. */
async function* readEvents(response) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of readBytes(response)) {
    text += decoder.decode(bytes, { stream: true });
    const events = text.split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}

/**
 * Have a script spoken.
 *
 * request: fields of /v1/audio/speech; those of the stream are added here.
 * onProgress(event), onAudio(Int16Array): called as they come.
 * Returns the last event. Throws ServerError, Unreachable, ConnectionLost, or an AbortError.
 */
async function streamSpeech(request, { signal, onProgress, onAudio }) {
  const json = {
    ...request,
    stream_format: "sse",
    progress: true,
    response_format: "pcm",
    sample_rate: config.sample_rate,
  };
  const response = await call("v1/audio/speech", { method: "POST", json, signal });
  const decoder = new PcmDecoder();
  for await (const event of readEvents(response)) {
    if (event.type === "speech.progress") onProgress(event);
    if (event.type === "speech.audio.delta") onAudio(decoder.decode(event.audio));
    if (event.type === "speech.audio.done") return event;
    if (event.type === "error") {
      const status = STATUSES[event.error.code] ?? 500;
      throw new ServerError(status, event.error, null, response.headers.get("X-Request-ID"));
    }
  }
  throw new ConnectionLost();
}

/** Have a script spoken into a file of another format; onBytes(count) as they come. */
async function fetchSpeech(request, format, { signal, onBytes }) {
  const json = { ...request, response_format: format };
  const response = await call("v1/audio/speech", { method: "POST", json, signal });
  const parts = [];
  let count = 0;
  for await (const bytes of readBytes(response)) {
    parts.push(bytes);
    onBytes((count += bytes.length));
  }
  return new Blob(parts, { type: response.headers.get("Content-Type") });
}
