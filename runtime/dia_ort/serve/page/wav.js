// Samples as they come and go: 16 bits, little-endian, one channel.

/** A typed array that grows at its end. */
class Growing {
  #items;

  constructor(Type, capacity = 1 << 16) {
    this.#items = new Type(capacity);
    this.length = 0;
  }

  append(items) {
    const length = this.length + items.length;
    if (length > this.#items.length) {
      const larger = new this.#items.constructor(Math.max(length, 2 * this.#items.length));
      larger.set(this.items);
      this.#items = larger;
    }
    this.#items.set(items, this.length);
    this.length = length;
  }

  /** All of them: a view, as of now. */
  get items() {
    return this.#items.subarray(0, this.length);
  }
}

/** Puts samples together from base64 whose pieces may end within one. */
class PcmDecoder {
  #odd = new Uint8Array(0);

  decode(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(this.#odd.length + text.length);
    bytes.set(this.#odd);
    for (let i = 0; i < text.length; i += 1) bytes[this.#odd.length + i] = text.charCodeAt(i);
    const whole = bytes.length & ~1;
    this.#odd = bytes.slice(whole);
    const view = new DataView(bytes.buffer, 0, whole);
    return Int16Array.from({ length: whole / 2 }, (_, i) => view.getInt16(2 * i, true));
  }
}

function toInt16(samples) {
  return Int16Array.from(samples, (x) => Math.round(Math.max(-1, Math.min(1, x)) * 32767));
}

function toFloat32(samples) {
  return Float32Array.from(samples, (x) => x / 32768);
}

/** A WAV file of 16-bit samples. */
function encodeWav(samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const write = (offset, text) => {
    for (let i = 0; i < 4; i += 1) header.setUint8(offset + i, text.charCodeAt(i));
  };
  write(0, "RIFF");
  header.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVE");
  write(12, "fmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  write(36, "data");
  header.setUint32(40, 2 * samples.length, true);
  return new Blob([header, samples.slice()], { type: "audio/wav" });
}

/** Any sound that the browser can read, as 16-bit samples of one channel at the page's rate. */
async function decodeFile(blob) {
  const context = new OfflineAudioContext(1, 1, config.sample_rate); // decoding resamples to it
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  const mixed = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    buffer.getChannelData(channel).forEach((x, i) => {
      mixed[i] += x / buffer.numberOfChannels;
    });
  }
  return toInt16(mixed);
}
