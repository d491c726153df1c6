// A new voice: a sound from a file or the microphone, a name, and what is said in it.

const VOICE_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;

class VoiceDialog {
  #dialog = byId("voice-dialog");
  #recorder = new Recorder();
  #isStarting = false; // the browser may ask for the microphone, and people take their time
  #isWanted = false;
  #samples = null;
  #onSaved;

  constructor(onSaved) {
    this.#onSaved = onSaved;
    const [least, most] = config.voice_seconds;
    byId("voice-length").textContent =
      `${least} to ${most} seconds of clear speech, best 5 to 10, without music or noise.`;
    byId("choose").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", () => this.#takeFile(byId("file").files[0]));
    byId("record").addEventListener("click", () =>
      this.#recorder.isOn ? this.#stop() : this.#record(),
    );
    byId("voice-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.#dialog.addEventListener("close", () => this.#leave());
    this.#dialog.addEventListener("dragover", (event) => event.preventDefault());
    this.#dialog.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#takeFile(event.dataTransfer.files[0]);
    });
  }

  open() {
    this.#report("");
    this.#dialog.showModal();
  }

  async #leave() {
    this.#isWanted = false;
    if (this.#recorder.isOn) await this.#recorder.stop();
    byId("listen").pause();
    byId("voice-form").reset();
    this.#show(null);
    this.#showRecording(false);
  }

  async #takeFile(file) {
    if (!file) return;
    byId("file").value = "";
    byId("voice-name").value ||= file.name
      .replace(/\.\w+$/, "")
      .replace(/[^A-Za-z0-9_-]+/g, "-")
      .replace(/^[-_]+|-+$/g, "")
      .slice(0, 64);
    await this.#take(file, file.name);
  }

  async #record() {
    this.#isWanted = true;
    if (this.#isStarting) return;
    this.#isStarting = true;
    this.#report("");
    const most = config.voice_seconds[1];
    try {
      await this.#recorder.start((level, seconds) => {
        byId("level").value = level;
        byId("recorded").textContent = `${clock(seconds)} of at most ${most} s`;
        if (seconds >= most) this.#stop();
      });
    } catch (error) {
      this.#report(explainMicrophone(error));
      return;
    } finally {
      this.#isStarting = false;
    }
    if (!this.#isWanted) {
      await this.#recorder.stop(); // the dialog was closed
      return;
    }
    this.#show(null);
    this.#showRecording(true);
    announce("Recording");
  }

  async #stop() {
    if (!this.#recorder.isOn) return;
    const recording = await this.#recorder.stop();
    this.#showRecording(false);
    await this.#take(recording, "Recording");
    announce("Recorded");
  }

  #showRecording(isOn) {
    byId("recording").hidden = !isOn;
    byId("record").classList.toggle("on", isOn);
    byId("record").querySelector("span").textContent = isOn ? "Stop" : "Record";
    setIcon(byId("record"), isOn ? "stop" : "record");
  }

  /** Turn any sound into what is sent. */
  async #take(blob, name) {
    this.#report("");
    this.#show(null);
    let samples;
    try {
      samples = await decodeFile(blob);
    } catch {
      this.#report(
        `${name} is nothing that this browser can read as sound. Take a WAV, MP3, FLAC or Ogg file, or record.`,
      );
      return;
    }
    const [least, most] = config.voice_seconds;
    const seconds = samples.length / config.sample_rate;
    if (seconds < least) {
      this.#report(
        `${name} lasts ${duration(seconds)}, and a voice needs at least ${least} s. Take a longer one.`,
      );
      return;
    }
    let text = `${name}, ${duration(seconds)}`;
    if (seconds > most) {
      samples = samples.subarray(0, most * config.sample_rate);
      text = `${name} lasts ${duration(seconds)}: only the first ${most} s are taken. Write down those alone.`;
    }
    this.#show(samples, text);
  }

  #show(samples, text = "") {
    URL.revokeObjectURL(byId("listen").src);
    this.#samples = samples;
    byId("preview").hidden = !samples;
    byId("preview-text").textContent = text;
    if (samples) byId("listen").src = URL.createObjectURL(encodeWav(samples, config.sample_rate));
    else byId("listen").removeAttribute("src");
  }

  #report(text, field = null) {
    byId("voice-problem").hidden = !text;
    byId("voice-problem").textContent = text;
    field?.focus();
  }

  async #save() {
    const name = byId("voice-name").value.trim();
    if (this.#recorder.isOn) await this.#stop();
    if (!this.#samples)
      return this.#report("Choose a file or record something first.", byId("choose"));
    if (!VOICE_NAME.test(name)) {
      return this.#report(
        "Give it a name: letters (a to z), digits, - and _, the first of them a letter or digit.",
        byId("voice-name"),
      );
    }
    const wav = encodeWav(this.#samples, config.sample_rate);
    if (wav.size > config.max_upload_bytes) {
      return this.#report("It is larger than what this server takes. Take a shorter one.");
    }
    const form = new FormData();
    form.append("name", name);
    form.append("audio_sample", wav, `${name}.wav`);
    const transcript = byId("transcript").value.trim();
    if (transcript) form.append("transcript", transcript);
    await this.#send(form);
  }

  async #send(form) {
    const button = byId("save-voice");
    button.disabled = true;
    button.textContent = "Saving …";
    try {
      const response = await call("v1/audio/voices", { method: "POST", form });
      const voice = await response.json();
      this.#dialog.close();
      announce(`The voice ${voice.name} is there, and selected`);
      await this.#onSaved(voice);
    } catch (error) {
      const { title, advice } = explain(error);
      this.#report(`${title}. ${advice}`);
    } finally {
      button.disabled = false;
      button.textContent = "Save the voice";
    }
  }
}
