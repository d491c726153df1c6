// What went wrong, in words, and what to do about it.

/**
 * The title and advice for an error, and how many seconds to wait before it is tried again.
 * Throws what is none of the server's or the network's.
 */
function explain(error) {
  if (error instanceof ConnectionLost) {
    return {
      title: "The connection was lost",
      advice: "What came before is kept. Look whether the server runs, and try again.",
    };
  }
  if (error instanceof Unreachable) {
    return {
      title: "The server cannot be reached",
      advice: "Look whether it runs and whether this device is connected, and try again.",
    };
  }
  if (!(error instanceof ServerError)) throw error;
  const { status, code, message, retryAfter: wait, requestId } = error;
  switch (status) {
    case 401:
      return {
        title: kept.get("key") ? "The API key is not the right one" : "The server wants an API key",
        advice: "Enter it at the top of this page, and try again.",
      };
    case 403:
      return { title: "This server does not allow that", advice: message };
    case 404:
      return {
        title:
          code === "voice_not_found" ? "There is no such voice" : "The server does not have that",
        advice: message,
      };
    case 409:
      return {
        title: "The name is taken",
        advice: "Give another one, or delete the voice that has it.",
      };
    case 413:
      return {
        title: "That is too long for this server",
        advice: `${message} Make it shorter, or do it in parts.`,
      };
    case 415:
      return { title: "The server cannot read this sound", advice: message };
    case 422:
      return { title: "The server cannot speak this as it stands", advice: message };
    case 429:
      return {
        title: "Too many are waiting",
        advice: code === "queue_full" ? "The queue is full. Try again in a moment." : message,
        wait,
      };
    case 503:
      return { ...explainUnavailable(code, message), wait };
    default:
      return {
        title: "The server failed",
        advice: `${message} Try again. If it fails again, its log has more${requestId ? `, under ${requestId}` : ""}.`,
      };
  }
}

function explainUnavailable(code, message) {
  if (code === "queue_timeout") {
    return { title: "The server was too busy", advice: "Nobody made room in time. Try again." };
  }
  if (serverState === "warming up") {
    return {
      title: "The server is still warming up",
      advice: "It begins to speak in a moment.",
    };
  }
  if (serverState === "draining" || code === "stopping") {
    return {
      title: "The server is shutting down",
      advice: "It takes nothing new. Try again when it has started again.",
    };
  }
  return { title: "The server is not ready", advice: message };
}

function explainMicrophone(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The browser does not let this page use the microphone. Allow it beside the address, or choose a file.";
    case "NotFoundError":
      return "There is no microphone. Plug one in, or choose a file.";
    case "SecurityError":
      return "Browsers record only over https or on the server's own machine. Choose a file instead.";
    default:
      return "The microphone cannot be used: another program may have it. Close that, or choose a file.";
  }
}

let countdown = 0;

function hideProblem() {
  clearInterval(countdown);
  byId("problem").hidden = true;
  byId("problem-text").replaceChildren();
  byId("problem").querySelector("button")?.remove();
}

/** Show it, with a button that tries again (if there is anything to try), after the wait at first. */
function showProblem({ title, advice, wait = 0 }, onRetry = null) {
  hideProblem();
  const box = byId("problem");
  box.hidden = false;
  byId("problem-text").append(
    create("b", { textContent: title }),
    create("p", { textContent: advice }),
  );
  if (onRetry) box.append(retryButton(wait || 0, onRetry)); // not in the alert: it counts down
  box.scrollIntoView({ block: "nearest" });
}

function retryButton(wait, onRetry) {
  const button = create("button", { type: "button", className: "quiet" });
  button.addEventListener("click", () => {
    hideProblem();
    onRetry();
  });
  const end = performance.now() + 1000 * wait;
  const show = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval(countdown);
  };
  if (wait) countdown = setInterval(show, 250);
  show();
  return button;
}
