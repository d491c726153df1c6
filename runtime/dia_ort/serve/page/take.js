// A take: what was asked for, and the speech that came of it.

class Take {
  constructor(request, voiceName) {
    this.request = request;
    this.voiceName = voiceName;
    this.madeAt = new Date();
    this.rate = config.sample_rate;
    this.samples = new Growing(Int16Array);
    this.bins = new Bins(this.rate);
    this.outcome = null; // "done", "cancelled" or "failed" when no more comes
    this.expected = 0; // seconds, as the server estimates
    this.elapsed = 0; // seconds, since it began to speak
    this.first = null; // when audio first came, and how many seconds
  }

  append(samples) {
    this.samples.append(samples);
    this.bins.append(samples);
    this.first ??= { at: performance.now(), seconds: this.seconds };
  }

  get seconds() {
    return this.samples.length / this.rate;
  }

  get isOver() {
    return this.outcome !== null;
  }

  /** How long all of it will be, as far as one knows. */
  get span() {
    return this.isOver ? this.seconds : Math.max(this.expected, this.seconds);
  }

  /** Seconds of speech that are made in a second, once it can be told; else 0. */
  get pace() {
    if (!this.first) return 0;
    const waited = (performance.now() - this.first.at) / 1000;
    return waited < 0.3 ? 0 : (this.seconds - this.first.seconds) / waited;
  }

  get title() {
    return shorten(this.request.input, 40);
  }

  wav() {
    return encodeWav(this.samples.items, this.rate);
  }
}
