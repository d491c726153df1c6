// The waveform and the spectrogram of a take, on two canvases with one time axis.

const COLOURS = 6; // --spectrum-0 to --spectrum-5 in the style sheet, from nothing to loud
const FREQUENCIES = { 500: "0.5", 1000: "1", 2000: "2", 4000: "4", 8000: "8", 16000: "16 kHz" };
const QUIET = 0.1 * 32768; // what is not louder is not drawn larger
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800];

class Picture {
  #plot = byId("plot");
  #wave = byId("wave");
  #spectrogram = byId("spectrogram");
  #take = null;
  #span = 0; // seconds that the whole width stands for
  #frame = 0;
  #palette = null;

  constructor(onSeek) {
    for (const [frequency, label] of Object.entries(FREQUENCIES)) {
      const span = create("span", { textContent: label });
      span.style.bottom = `${100 * melPosition(frequency)}%`;
      byId("frequencies").append(span);
    }
    new ResizeObserver(() => this.draw()).observe(this.#plot);
    const seek = (event) => {
      const { left, width } = this.#wave.getBoundingClientRect();
      const along = Math.max(0, Math.min(1, (event.clientX - left) / width));
      if (this.#span) onSeek(along * this.#span);
    };
    this.#plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.#plot.setPointerCapture(event.pointerId);
      seek(event);
    });
    this.#plot.addEventListener("pointermove", (event) => {
      if (this.#plot.hasPointerCapture(event.pointerId)) seek(event);
    });
  }

  show(take) {
    this.#take = take;
    this.#span = 0;
    this.draw();
  }

  /** The colours are others now. */
  recolour() {
    this.#palette = null;
    this.draw();
  }

  /** With the next frame, and once for all calls before it. */
  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#take) this.#drawNow();
    });
  }

  movePlayHead(seconds, isShown) {
    const line = byId("play-head");
    line.hidden = !isShown || !this.#span;
    line.style.left = `${this.#span ? Math.min(100, (100 * seconds) / this.#span) : 0}%`;
  }

  /** What a whole width stands for: it grows in leaps while the end is not known. */
  #setSpan() {
    const { span, isOver } = this.#take;
    if (isOver || this.#span < this.#take.seconds || !this.#span) {
      this.#span = isOver ? span : 1.15 * span;
    }
  }

  #drawNow() {
    this.#setSpan();
    this.#palette ??= readPalette(this.#plot);
    byId("empty").hidden = this.#take.bins.length > 0;
    this.#drawWave(fit(this.#wave));
    this.#drawSpectrogram(fit(this.#spectrogram));
    this.#labelTimes();
    this.#describe();
  }

  #drawWave({ context, width, height, scale }) {
    const middle = height / 2;
    const peaks = this.#take.bins.peaks.items;
    const unit = (0.92 * middle) / Math.max(QUIET, this.#take.bins.loudest);
    context.fillStyle = this.#palette.line;
    context.fillRect(0, Math.round(middle), width, scale);
    context.fillStyle = this.#palette.wave;
    for (const { from, to, left, right } of this.#columns(width)) {
      let [low, high] = [0, 0];
      for (let i = from; i < to; i += 1) {
        low = Math.min(low, peaks[2 * i]);
        high = Math.max(high, peaks[2 * i + 1]);
      }
      context.fillRect(
        left,
        middle - high * unit,
        right - left,
        Math.max(scale, (high - low) * unit),
      );
    }
  }

  #drawSpectrogram({ context, width, height }) {
    const columns = this.#columns(width);
    if (!columns.length) return;
    const image = new ImageData(columns.length, BANDS);
    const pixels = new Uint32Array(image.data.buffer);
    const spectra = this.#take.bins.spectra.items;
    columns.forEach(({ from, to }, x) => {
      for (let band = 0; band < BANDS; band += 1) {
        let loudest = 0;
        for (let i = from; i < to; i += 1) loudest = Math.max(loudest, spectra[i * BANDS + band]);
        pixels[(BANDS - 1 - band) * columns.length + x] = this.#palette.spectrum[loudest];
      }
    });
    const small = create("canvas", { width: columns.length, height: BANDS });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, columns.at(-1).right, height);
  }

  #labelTimes() {
    const least = (64 * this.#span) / this.#plot.clientWidth; // a label's room, in seconds
    const step = TICKS.find((tick) => tick >= least) ?? 3600;
    const labels = [];
    for (let i = 0; i * step < this.#span - least / 2; i += 1) {
      const label = create("span", {
        textContent: step < 60 ? `${+(i * step).toFixed(1)} s` : clock(i * step).slice(0, -2),
      });
      label.style.left = `${(100 * i * step) / this.#span}%`;
      labels.push(label);
    }
    byId("times").replaceChildren(...labels);
  }

  /** The columns that there is something in: bins each stands for, and where it is, in pixels. */
  #columns(width) {
    const { bins, rate } = this.#take;
    const filled = Math.min(width, (width * (bins.length * BIN)) / rate / this.#span);
    const count = Math.min(bins.length, Math.ceil(filled));
    return Array.from({ length: count }, (_, i) => {
      const from = Math.floor((i * bins.length) / count);
      const to = Math.max(from + 1, Math.floor(((i + 1) * bins.length) / count));
      return { from, to, left: (i * filled) / count, right: ((i + 1) * filled) / count };
    });
  }

  #describe() {
    const { seconds, isOver, title } = this.#take;
    const what = isOver
      ? `${duration(seconds)} of “${title}”`
      : "being drawn as the speech is made";
    this.#wave.ariaLabel = `Waveform: ${what}`;
    this.#spectrogram.ariaLabel = `Spectrogram: ${what}`;
  }
}

/** A cleared canvas with as many pixels as the screen has there. */
function fit(canvas) {
  const scale = Math.min(2, devicePixelRatio || 1);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) =>
    Math.round(x * scale),
  );
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, scale };
}

/** The colours of the style sheet, as they are in this theme. */
function readPalette(box) {
  const probe = create("span");
  box.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const stops = Array.from({ length: COLOURS }, (_, i) =>
    read(`spectrum-${i}`)
      .match(/[\d.]+/g)
      .map(Number),
  );
  const palette = {
    wave: read("wave"),
    line: read("line"),
    spectrum: Uint32Array.from({ length: 256 }, (_, value) => {
      const along = (value / 255) * (COLOURS - 1);
      const stop = Math.min(COLOURS - 2, Math.floor(along));
      const mix = (channel) =>
        Math.round(
          stops[stop][channel] + (along - stop) * (stops[stop + 1][channel] - stops[stop][channel]),
        );
      return (255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0); // as pixels lie in memory
    }),
  };
  probe.remove();
  return palette;
}
