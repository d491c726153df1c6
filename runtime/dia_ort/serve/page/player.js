// Plays a take, also while it is being made: pieces of it, each begun where the last one ends.

const PIECE = 0.5; // seconds in one buffer
const AHEAD = 10; // seconds that are handed to the browser: it may let this page sleep for a while
const LEAST = 0.2; // seconds to begin with if speech is made faster than it is spoken,
const LEAST_IF_SLOW = 1.5; // and if not
const MARGIN = 1.1; // the pace so far says only about what the rest will take

/**
 * Whether playing from a position (in seconds) may begin: "now" with the first sound, "auto" if it
 * will then run through, "whole" when all is made.
 */
function mayStart(take, position, policy) {
  const ahead = take.seconds - position;
  if (take.isOver) return ahead > 0;
  if (policy === "whole") return false;
  if (policy === "now") return ahead >= LEAST;
  if (!take.pace) return false;
  if (ahead < (take.pace > MARGIN ? LEAST : LEAST_IF_SLOW)) return false;
  const rest = Math.max(0, take.expected - take.seconds);
  return (rest / take.pace) * MARGIN <= ahead + rest;
}

class Player {
  #context = null;
  #sources = new Set();
  #position = 0; // in samples, where it stands while nothing sounds
  #begun = 0; // when sample 0 would have sounded, on the context's clock
  #scheduled = 0; // samples up to here were handed over
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
    this.take = null;
    this.policy = "auto";
    this.isPlaying = false; // somebody wants to hear it
    this.isSounding = false; // and there is something to hear
    setInterval(() => this.update(), 100);
  }

  load(take) {
    this.#silence();
    this.isPlaying = false;
    this.take = take;
    this.#position = 0;
    this.#onChange();
  }

  /** Call it in a click or a key press: browsers want that before they sound. */
  unlock() {
    this.#context ??= new AudioContext({ sampleRate: config.sample_rate });
    this.#context.resume();
  }

  play(policy = "now") {
    this.unlock();
    this.policy = policy;
    this.isPlaying = true;
    if (this.take.isOver && this.#position >= this.take.samples.length) this.#position = 0;
    this.update();
    this.#onChange();
  }

  pause() {
    this.#position = this.#now();
    this.#silence();
    this.isPlaying = false;
    this.#onChange();
  }

  seek(seconds) {
    this.#silence();
    const last = this.take.samples.length;
    this.#position = Math.max(0, Math.min(last, Math.round(seconds * this.take.rate)));
    this.update();
    this.#onChange();
  }

  /** What is heard at this moment, in seconds. */
  get position() {
    return this.take ? this.#now() / this.take.rate : 0;
  }

  get isWaiting() {
    return this.isPlaying && !this.isSounding;
  }

  /** Go on: after more audio came, or time has passed. */
  update() {
    if (!this.isPlaying) return;
    const { samples, isOver, rate } = this.take;
    if (this.isSounding && this.#now() >= this.#scheduled) {
      this.#position = this.#scheduled;
      this.#silence();
      this.#onChange();
    }
    if (isOver && this.#position >= samples.length && !this.isSounding) {
      this.isPlaying = false;
      this.#onChange();
      return;
    }
    if (!this.isSounding) {
      if (!mayStart(this.take, this.#position / rate, this.policy)) return;
      const start = Math.ceil((this.#context.currentTime + 0.05) * rate); // between no two samples
      this.#begun = (start - this.#position) / rate;
      this.#scheduled = this.#position;
      this.isSounding = true;
      this.#onChange();
    }
    this.#schedule();
  }

  #schedule() {
    const { samples, rate } = this.take;
    const limit = Math.min(samples.length, this.#now() + AHEAD * rate);
    while (this.#scheduled < limit) {
      const end = Math.min(samples.length, this.#scheduled + PIECE * rate);
      const piece = toFloat32(samples.items.subarray(this.#scheduled, end));
      const buffer = this.#context.createBuffer(1, piece.length, rate);
      buffer.copyToChannel(piece, 0);
      const source = new AudioBufferSourceNode(this.#context, { buffer });
      source.connect(this.#context.destination);
      source.start(this.#begun + this.#scheduled / rate);
      source.addEventListener("ended", () => this.#sources.delete(source));
      this.#sources.add(source);
      this.#scheduled = end;
    }
  }

  #now() {
    if (!this.isSounding) return this.#position;
    const along = (this.#context.currentTime - this.#begun) * this.take.rate;
    return Math.max(this.#position, Math.min(this.#scheduled, Math.round(along)));
  }

  #silence() {
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.isSounding = false;
  }
}
