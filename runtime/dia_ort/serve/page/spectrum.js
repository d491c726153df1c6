// What there is to see of samples: for each bin of 256, its lowest and highest, and its spectrum.

const BIN = 256;
const FRAME = 1024; // samples that a spectrum is made of
const BANDS = 96;
const LOWEST_HERTZ = 60;
const HIGHEST_HERTZ = 16_000;
const FLOOR = -88; // dB of full scale: shown as nothing
const CEILING = -24;

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

/** Where a frequency stands between the lowest band (0) and the highest (1). */
function melPosition(frequency) {
  return (mel(frequency) - mel(LOWEST_HERTZ)) / (mel(HIGHEST_HERTZ) - mel(LOWEST_HERTZ));
}

/** In place, of a length that is a power of two. */
function fft(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i += 1) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k += 1) {
      const cosine = Math.cos((2 * Math.PI * k) / size);
      const sine = -Math.sin((2 * Math.PI * k) / size);
      for (let a = k; a < n; a += size) {
        const b = a + half;
        const x = real[b] * cosine - imaginary[b] * sine;
        const y = real[b] * sine + imaginary[b] * cosine;
        real[b] = real[a] - x;
        imaginary[b] = imaginary[a] - y;
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}

/** The bins of samples that come bit by bit. */
class Bins {
  #window = Float32Array.from(
    { length: FRAME },
    (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FRAME),
  );
  #frame = new Float32Array(FRAME); // the newest samples, with what is yet to come at its end
  #filled = FRAME - BIN;
  #edges; // of the bands, in lines of the FFT

  constructor(rate) {
    this.loudest = 0; // of all samples
    this.peaks = new Growing(Int16Array, 1 << 11); // lowest, highest, lowest, highest ...
    this.spectra = new Growing(Uint8Array, BANDS << 9); // 0 to 255, the lowest band first
    const low = mel(LOWEST_HERTZ);
    const step = (mel(HIGHEST_HERTZ) - low) / BANDS;
    this.#edges = Array.from(
      { length: BANDS + 1 },
      (_, i) => (hertz(low + i * step) * FRAME) / rate,
    );
  }

  get length() {
    return this.peaks.length / 2;
  }

  append(samples) {
    let start = 0;
    while (start < samples.length) {
      const part = samples.subarray(start, start + FRAME - this.#filled);
      this.#frame.set(part, this.#filled);
      this.#filled += part.length;
      start += part.length;
      if (this.#filled === FRAME) this.#finishBin();
    }
  }

  #finishBin() {
    const bin = this.#frame.subarray(FRAME - BIN);
    const [low, high] = [Math.min(...bin), Math.max(...bin)];
    this.loudest = Math.max(this.loudest, -low, high);
    this.peaks.append([low, high]);
    this.spectra.append(this.#spectrum());
    this.#frame.copyWithin(0, BIN);
    this.#filled = FRAME - BIN;
  }

  #spectrum() {
    const real = this.#frame.map((x, i) => (x / 32768) * this.#window[i]);
    const imaginary = new Float32Array(FRAME);
    fft(real, imaginary);
    const amplitude = (line) => Math.hypot(real[line], imaginary[line]) / (FRAME / 4);
    return Uint8Array.from({ length: BANDS }, (_, band) => {
      const decibels = 20 * Math.log10(this.#loudest(band, amplitude) + 1e-9);
      return 255 * Math.max(0, Math.min(1, (decibels - FLOOR) / (CEILING - FLOOR)));
    });
  }

  /** The loudest line of a band; narrow bands lie between two lines. */
  #loudest(band, amplitude) {
    const [low, high] = [this.#edges[band], this.#edges[band + 1]];
    const middle = (low + high) / 2;
    const line = Math.floor(middle);
    let loudest = amplitude(line) * (line + 1 - middle) + amplitude(line + 1) * (middle - line);
    for (let i = Math.ceil(low); i < high; i += 1) loudest = Math.max(loudest, amplitude(i));
    return loudest;
  }
}
