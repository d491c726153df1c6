// What was made since the page was opened.

const OUTCOMES = { done: "", cancelled: "cancelled", failed: "broken off" };

class History {
  #list = byId("history");
  #actions;

  /** actions: play(take), reuse(take), save(take, { onStatus, signal }). */
  constructor(actions) {
    this.#actions = actions;
    this.#updateHelp();
  }

  /** The newest one comes first. */
  add(take) {
    const text = create("p", { className: "text" }, colourScript(take.request.input));
    const facts = [
      duration(take.seconds),
      OUTCOMES[take.outcome],
      `seed ${take.request.seed}`,
      take.request.voice === "default" ? "" : take.voiceName,
      take.request.speed === 1 ? "" : `${take.request.speed} × speed`,
      take.madeAt.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
    ];
    const about = create("p", {
      className: "help",
      textContent: facts.filter(Boolean).join(" · "),
    });
    const status = create("p", { className: "help", role: "status" });
    const row = create("li", { className: "take" });
    const play = iconButton(
      "play",
      "Play",
      `Play “${take.title}”`,
      () => this.#actions.play(take),
      "quiet icon",
    );
    row.append(
      play,
      create("div", { className: "what" }, text, about, status),
      create(
        "div",
        { className: "row" },
        this.#downloadButton(take, status),
        iconButton("again", "Use again", `Use again: script and settings of “${take.title}”`, () =>
          this.#actions.reuse(take),
        ),
        iconButton(
          "copy",
          "Copy seed",
          `Copy seed ${take.request.seed}`,
          () => this.#copySeed(take, status),
          "quiet icon roomy",
        ),
        iconButton(
          "delete",
          "Remove",
          `Remove “${take.title}” from the history`,
          () => this.#remove(row),
          "quiet icon roomy",
        ),
      ),
    );
    take.row = row;
    this.#list.prepend(row);
    this.#updateHelp();
  }

  /** Mark the take that the player has. */
  mark(take) {
    for (const row of this.#list.children) row.classList.toggle("current", row === take?.row);
  }

  #downloadButton(take, status) {
    let controller = null;
    const label = `Download “${take.title}”`;
    const button = iconButton("download", "Download", label, async () => {
      if (controller) return controller.abort();
      controller = new AbortController();
      const onStatus = (text) => {
        status.textContent = text;
      };
      button.lastChild.textContent = "Stop";
      button.ariaLabel = `Stop the download of “${take.title}”`;
      await this.#actions.save(take, { onStatus, signal: controller.signal });
      controller = null;
      button.lastChild.textContent = "Download";
      button.ariaLabel = label;
    });
    return button;
  }

  async #copySeed(take, status) {
    try {
      await copyText(String(take.request.seed));
      status.textContent = "The seed is copied";
    } catch {
      status.textContent = "The browser does not let this page copy: the seed stands above";
    }
  }

  #remove(row) {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    this.#updateHelp();
    if (next) next.querySelector("button").focus();
    else byId("script").focus();
  }

  #updateHelp() {
    byId("history-help").textContent = this.#list.children.length
      ? "Kept until this tab is closed or reloaded."
      : "What you make is kept here until this tab is closed or reloaded.";
  }
}
