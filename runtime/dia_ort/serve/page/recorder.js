// The microphone.

class Recorder {
  #stream = null;
  #media = null;
  #context = null;
  #timer = 0;

  get isOn() {
    return this.#media !== null;
  }

  /** Begin; onLevel(0 to 1, seconds) while it lasts. Throws what getUserMedia throws. */
  async start(onLevel) {
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const audio = { echoCancellation: false, noiseSuppression: false };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio });
    this.#context = new AudioContext();
    const analyser = new AnalyserNode(this.#context, { fftSize: 2048 });
    this.#context.createMediaStreamSource(this.#stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.#media = new MediaRecorder(this.#stream);
    this.#media.start();
    const begun = performance.now();
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
      const decibels = 10 * Math.log10(power + 1e-9);
      onLevel(Math.max(0, Math.min(1, 1 + decibels / 60)), (performance.now() - begun) / 1000);
    }, 100);
  }

  /** End, and give the recording in whatever format the browser makes. */
  async stop() {
    const media = this.#media;
    this.#media = null;
    const parts = [];
    media.addEventListener("dataavailable", (event) => parts.push(event.data));
    await new Promise((resolve) => {
      media.addEventListener("stop", resolve);
      media.stop();
    });
    clearInterval(this.#timer);
    for (const track of this.#stream.getTracks()) track.stop();
    this.#context.close();
    return new Blob(parts, { type: media.mimeType });
  }
}
