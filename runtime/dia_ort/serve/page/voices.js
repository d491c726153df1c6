// The voices: which one speaks, and one less.

class Voices {
  #box = byId("voices");
  #voices = [];
  #onProblem;

  constructor(onProblem) {
    this.#onProblem = onProblem;
    this.dialog = new VoiceDialog((voice) => this.load(voice.id));
    byId("add-voice").hidden = !config.voice_upload;
    byId("add-voice").addEventListener("click", () => this.dialog.open());
    byId("voices-hint").hidden = config.model !== "demo";
    byId("voices-hint").textContent =
      "The demo model has heard two voices, low and high, and goes on in no others.";
    this.#box.addEventListener("change", () => kept.set("voice", this.selected));
    this.#show("default");
  }

  get selected() {
    return this.#box.querySelector("input:checked")?.value ?? "default";
  }

  select(id) {
    const input = [...this.#box.querySelectorAll("input")].find((each) => each.value === id);
    if (input && !input.disabled) input.checked = true;
  }

  nameOf(id) {
    return this.#voices.find((voice) => voice.id === id)?.name ?? id;
  }

  /** Ask the server which ones there are. */
  async load(selected = kept.get("voice") ?? this.selected) {
    if (config.needs_key && !kept.get("key")) return;
    try {
      const response = await call("v1/audio/voices");
      this.#voices = (await response.json()).voices;
      this.#show(selected);
    } catch (error) {
      this.#onProblem(error, () => this.load(selected));
    }
  }

  #show(selected) {
    const voices = this.#voices.length
      ? this.#voices
      : [{ id: "default", name: "default", kind: "default" }];
    this.#box.replaceChildren(...voices.map((voice, index) => this.#row(voice, index)));
    this.select("default");
    this.select(selected);
    kept.set("voice", this.selected);
  }

  #row(voice, index) {
    const id = `voice-${index}`;
    const isBroken = voice.kind === "broken";
    const input = create("input", {
      type: "radio",
      name: "voice",
      id,
      value: voice.id,
      disabled: isBroken,
    });
    let about = "Another one for each seed";
    if (isBroken) about = `Cannot be used: ${shorten(voice.origin, 120)}`;
    else if (voice.kind !== "default") {
      const words = voice.transcript ? `“${shorten(voice.transcript, 80)}”` : "no transcript";
      about = voice.seconds ? `${duration(voice.seconds)} · ${words}` : words;
    }
    const name = voice.kind === "default" ? "Default" : voice.name;
    const label = create(
      "label",
      { htmlFor: id },
      create("b", { textContent: name }),
      create("span", { textContent: about }),
    );
    const row = create("div", { className: "voice" }, input, label);
    if (["stored", "broken"].includes(voice.kind) && config.voice_upload) {
      row.append(
        iconButton(
          "delete",
          "Delete",
          `Delete the voice ${voice.name}`,
          () => this.#delete(voice),
          "quiet icon",
        ),
      );
    }
    return row;
  }

  async #delete(voice) {
    const question = `The voice ${voice.name} cannot be brought back, and nobody on this server can use it any more.`;
    if (!(await confirmDeletion(`Delete ${voice.name}?`, question))) return;
    try {
      await call(`v1/audio/voices/${encodeURIComponent(voice.id)}`, { method: "DELETE" });
      announce(`The voice ${voice.name} is deleted`);
    } catch (error) {
      this.#onProblem(error, null);
    }
    await this.load();
    this.#box.querySelector("input:checked").focus();
  }
}

/** Ask before something is deleted. */
function confirmDeletion(title, text) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").onclick = () => dialog.close("yes");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {
      once: true,
    });
  });
}
