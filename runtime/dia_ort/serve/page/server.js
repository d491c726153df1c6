// Calls to the server, the API key, and whether the server is ready.

/** There was no answer. */
class Unreachable extends Error {}

/** The answer ended before it was whole. */
class ConnectionLost extends Error {}

class ServerError extends Error {
  constructor(status, details, retryAfter = null, requestId = null) {
    super(sentence(details.message || "the server gave no reason"));
    Object.assign(this, { status, code: details.code || null, retryAfter, requestId });
  }

  static async from(response) {
    const body = await response.json().catch(() => ({}));
    const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
    const retryAfter = Number.isNaN(seconds) ? null : seconds;
    const id = response.headers.get("X-Request-ID");
    return new ServerError(response.status, body.error || {}, retryAfter, id);
  }
}

/** Ask the server. Addresses are relative, so that the page works below a path too. */
async function call(path, { method = "GET", json, form, signal } = {}) {
  const headers = {};
  const key = kept.get("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json) headers["Content-Type"] = "application/json";
  const body = json ? JSON.stringify(json) : form;
  const response = await fetch(path, { method, headers, body, signal, cache: "no-store" }).catch(
    (error) => {
      throw error.name === "AbortError" ? error : new Unreachable();
    },
  );
  if (response.ok) return response;
  if (response.status === 401) askForKey();
  throw await ServerError.from(response);
}

/** The bytes of an answer, as they come. */
async function* readBytes({ body }) {
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ConnectionLost();
    });
    if (done) return;
    yield value;
  }
}

const STATES = {
  ready: "Ready",
  "warming up": "Warming up",
  draining: "Shutting down",
  dead: "Stopped working",
  unreachable: "Not reachable",
};
const POLL_READY = 60_000;
const POLL_OTHERWISE = 5_000;

let serverState = "unknown";
let nextCheck = 0;

/** Look whether the server is ready, and again after a while: seldom if all is well. */
async function checkServer() {
  clearTimeout(nextCheck);
  serverState = await fetch("ready", { cache: "no-store" })
    .then((response) => response.json())
    .then(({ status }) => (status in STATES ? status : "unreachable"))
    .catch(() => "unreachable");
  const shown = byId("server");
  shown.dataset.state = serverState;
  shown.textContent = STATES[serverState];
  if (!document.hidden) {
    nextCheck = setTimeout(checkServer, serverState === "ready" ? POLL_READY : POLL_OTHERWISE);
  }
  return serverState;
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("show-key").hidden = false;
}

function startServer(onKey) {
  document.addEventListener("visibilitychange", () => document.hidden || checkServer());
  checkServer();
  byId("show-key").hidden = !config.needs_key;
  if (config.needs_key && !kept.get("key")) askForKey();
  byId("show-key").addEventListener("click", () => {
    askForKey();
    byId("key").focus();
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    kept.set("key", byId("key").value.trim());
    byId("key").value = "";
    byId("key-form").hidden = true;
    announce("The key is kept until this tab is closed");
    onKey();
  });
}
