// Brings the parts together: speaking, listening, and what is seen of both.

const MOST_FAULTS = 5; // that are listed
const WAITING = {
  auto: "Playing begins when it will run through. Play starts it now.",
  now: "Waiting for more speech.",
  whole: "Playing begins when all is made. Play starts it now.",
};

class App {
  #running = null; // { take, controller } while speech is made

  constructor() {
    this.editor = new Editor();
    this.settings = new Settings();
    this.voices = new Voices((error, onRetry) => this.#fail(error, onRetry));
    this.player = new Player(() => this.#showPlayer());
    this.picture = new Picture((seconds) => this.player.seek(seconds));
    this.history = new History({
      play: (take) => this.#replay(take),
      reuse: (take) => this.#reuse(take),
      save: (take, options) => this.#save(take, options),
    });
    byId("speak").addEventListener("click", () => this.speak());
    byId("cancel").addEventListener("click", () => this.cancel());
    byId("play").addEventListener("click", () => this.#togglePlay());
    byId("seek").addEventListener("input", () => this.player.seek(byId("seek").valueAsNumber));
    byId("seek").addEventListener("keydown", (event) => this.#seekByKey(event));
    document.addEventListener("keydown", (event) => this.#onKey(event));
    startServer(() => {
      hideProblem();
      this.voices.load();
    });
    this.voices.load();
    startTheme(() => this.picture.recolour());
    byId("model").textContent = config.model;
    byId("version").textContent = config.version;
    this.#showFrames();
  }

  async speak() {
    if (this.#running || !this.#isComplete()) return;
    hideProblem();
    this.player.unlock();
    const voice = this.voices.selected;
    const request = { input: this.editor.text, voice, ...this.settings.read() };
    const take = new Take(request, this.voices.nameOf(voice));
    const controller = new AbortController();
    this.#running = { take, controller };
    this.#begin(take);
    try {
      const result = await streamSpeech(request, {
        signal: controller.signal,
        onProgress: (event) => this.#onProgress(take, event),
        onAudio: (samples) => this.#onAudio(take, samples),
      });
      take.elapsed = result.elapsed;
      take.faults = result.faults;
      this.#end(take, "done");
    } catch (error) {
      this.#end(take, controller.signal.aborted ? "cancelled" : "failed");
      if (!controller.signal.aborted) this.#fail(error, () => this.speak());
    }
  }

  cancel() {
    this.#running?.controller.abort();
  }

  /** Whether there is all that a request needs; if not, say so. */
  #isComplete() {
    const refuse = (title, advice, field) => {
      showProblem({ title, advice });
      field.focus();
      return false;
    };
    if (!this.editor.text.trim()) {
      return refuse(
        "There is nothing to speak",
        "Write a script first, or take one of the examples.",
        this.editor,
      );
    }
    if (this.editor.length > config.max_input) {
      const most = config.max_input.toLocaleString("en");
      return refuse(
        "The script is too long",
        `This server takes ${most} characters. Speak it in parts.`,
        this.editor,
      );
    }
    const mistake = this.settings.findMistake();
    return mistake ? refuse("One of the settings is not right", mistake.text, mistake.field) : true;
  }

  #begin(take) {
    byId("speak").ariaDisabled = "true";
    byId("speak").querySelector("span").textContent = "Speaking …";
    byId("cancel").hidden = false;
    byId("faults").hidden = true;
    this.player.load(take);
    this.player.play(this.settings.start);
    this.picture.show(take);
    this.history.mark(null);
    this.#showState("Asking the server");
    this.#showStats(take);
    byId("progress").hidden = false;
    byId("progress").removeAttribute("value");
  }

  #onProgress(take, event) {
    take.expected = event.expected_seconds;
    take.elapsed = event.elapsed;
    if (!this.#isShown(take)) return;
    if (event.state === "queued") {
      const ahead = event.queue_position;
      this.#showState(
        ahead ? `In the queue, ${ahead} ahead of you` : "In the queue, next to speak",
      );
    } else {
      const chunk = event.chunks > 1 ? `, part ${event.chunk + 1} of ${event.chunks}` : "";
      this.#showState(`Speaking${chunk}`);
    }
    this.#showStats(take);
    this.player.update();
  }

  #onAudio(take, samples) {
    take.append(samples);
    if (!this.#isShown(take)) return;
    this.#showStats(take);
    this.player.update();
    this.#showPlayer();
    this.picture.draw();
  }

  #end(take, outcome) {
    take.outcome = outcome;
    this.#running = null;
    byId("speak").ariaDisabled = null;
    byId("speak").querySelector("span").textContent = "Speak";
    if (document.activeElement === byId("cancel")) byId("speak").focus();
    byId("cancel").hidden = true;
    if (take.seconds) this.history.add(take);
    if (this.#isShown(take)) this.#showEnd(take);
  }

  #showEnd(take) {
    const what = {
      done: "Finished",
      cancelled: "Cancelled",
      failed: take.seconds ? "Broken off" : "Not spoken",
    }[take.outcome];
    this.#showState(take.seconds ? `${what}, ${duration(take.seconds)}` : what);
    this.#showTake(take);
    this.history.mark(take);
    this.player.update();
  }

  /** Whether it is the one that is looked at; while one is made, another one may be played. */
  #isShown(take) {
    return this.player.take === take;
  }

  /** What is seen of a take that is over. */
  #showTake(take) {
    byId("progress").hidden = true;
    this.#showStats(take);
    this.#showFaults(take.faults ?? []);
    this.picture.draw();
    this.#showPlayer();
  }

  #showFaults(faults) {
    const lines = faults.slice(0, MOST_FAULTS);
    if (faults.length > MOST_FAULTS) lines.push(`and ${faults.length - MOST_FAULTS} more`);
    byId("faults").hidden = !faults.length;
    byId("faults").replaceChildren(
      create("b", { textContent: "This may have come out badly" }),
      create("ul", {}, ...lines.map((line) => create("li", { textContent: line }))),
      create("p", { textContent: "Another seed, or a script of 5 to 20 seconds, often helps." }),
    );
  }

  #fail(error, onRetry) {
    if (error instanceof ServerError && error.status === 503) {
      checkServer().then(() => showProblem(explain(error), onRetry));
      return;
    }
    if (error.code === "voice_not_found") this.voices.load("default");
    if (error instanceof Unreachable || error instanceof ConnectionLost) checkServer();
    showProblem(explain(error), onRetry);
  }

  #replay(take) {
    this.player.load(take);
    this.picture.show(take);
    this.history.mark(take);
    hideProblem();
    this.#showState(`From the history, ${duration(take.seconds)}`);
    this.#showTake(take);
    this.player.play();
  }

  #reuse(take) {
    this.editor.text = take.request.input;
    this.settings.use(take.request);
    this.voices.select(take.request.voice);
    this.editor.focus();
    announce("Script, voice and settings are those of this take, its seed too");
  }

  async #save(take, { onStatus, signal }) {
    const format = this.settings.format;
    const name = `dia-${take.request.seed}`;
    if (format === "wav") {
      saveFile(take.wav(), `${name}.wav`);
      return onStatus("Saved as WAV: what you heard, as it is");
    }
    const shown = format.toUpperCase();
    const doing = `The server speaks ${take.outcome === "done" ? "it" : "all of it"} again, as ${shown}`;
    onStatus(`${doing} …`);
    let shownAt = 0;
    const onBytes = (count) => {
      if (performance.now() - shownAt < 2000) return; // it is read out
      shownAt = performance.now();
      onStatus(`${doing}: ${Math.ceil(count / 1000)} kB so far`);
    };
    try {
      saveFile(await fetchSpeech(take.request, format, { signal, onBytes }), `${name}.${format}`);
      onStatus(`Saved as ${shown}, spoken again with the same seed`);
    } catch (error) {
      onStatus(signal.aborted ? "The download is stopped" : "");
      if (!signal.aborted) this.#fail(error, null);
    }
  }

  #togglePlay() {
    if (this.player.isSounding || (this.player.isPlaying && this.player.policy === "now"))
      this.player.pause();
    else this.player.play();
  }

  /** The arrows move by a fiftieth, where the slider itself would move by the least it can. */
  #seekByKey(event) {
    const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    this.player.seek(this.player.position + way * Math.max(0.1, this.player.take.seconds / 50));
  }

  #onKey(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape" && this.#running) this.cancel();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.speak();
    }
  }

  #showState(text) {
    if (byId("state").textContent === text) return;
    byId("state").textContent = text;
    announce(text);
  }

  #showStats(take) {
    const { seconds, expected, elapsed } = take;
    const isKnown = seconds > 0 && elapsed > 0;
    const factor = elapsed / seconds;
    byId("stat-made").textContent = seconds ? duration(seconds) : "–";
    byId("stat-expected").textContent =
      expected && !take.isOver ? `of about ${duration(expected)}` : "";
    byId("stat-factor").textContent = isKnown ? factor.toFixed(2) : "–";
    byId("stat-pace").textContent = isKnown
      ? `${(1 / factor).toFixed(factor < 0.1 ? 0 : 1)} × real time`
      : "";
    byId("stat-seed").textContent = take.request.seed;
    const rest = Math.max(0, expected - seconds) * factor;
    byId("stat-rest").textContent = isKnown && !take.isOver ? `about ${duration(rest)}` : "–";
    if (seconds && expected) byId("progress").value = Math.min(1, seconds / expected);
  }

  #showPlayer() {
    const { take, isSounding, isPlaying, isWaiting, policy } = this.player;
    const hasSound = Boolean(take?.seconds);
    const mayPause = isSounding || (isPlaying && policy === "now");
    byId("play").disabled = !hasSound;
    byId("play").ariaLabel = mayPause ? "Pause" : isWaiting ? "Play now" : "Play";
    setIcon(byId("play"), mayPause ? "pause" : "play");
    byId("seek").disabled = !hasSound;
    byId("seek").max = take ? Math.max(take.span, take.seconds) : 0;
    byId("length").textContent = clock(take?.seconds ?? 0);
    byId("buffering").textContent = hasSound && isWaiting ? WAITING[policy] : "";
    byId("seek").ariaValueText = `${clock(this.player.position)} of ${clock(take?.seconds ?? 0)}`;
    this.#showPosition();
  }

  #showPosition() {
    const { take, position } = this.player;
    setSlider(byId("seek"), position);
    byId("time").textContent = clock(position);
    this.picture.movePlayHead(position, Boolean(take?.seconds));
  }

  /** The play head moves with every frame. */
  #showFrames() {
    requestAnimationFrame(() => this.#showFrames());
    if (this.player.isSounding) this.#showPosition();
  }
}

/** Light or dark: the device's, unless the button says otherwise. */
function startTheme(onChange) {
  const device = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : device.matches);
  const show = () => {
    byId("theme").ariaPressed = String(isDark());
    onChange();
  };
  root.dataset.theme = kept.get("theme") ?? "";
  device.addEventListener("change", show);
  byId("theme").addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    root.dataset.theme = (wanted === "dark") === device.matches ? "" : wanted;
    kept.set("theme", root.dataset.theme);
    show();
  });
  show();
}

new App();
