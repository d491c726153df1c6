// The knobs. What they say is kept for this tab.

const START_HELP = {
  auto: "At once if speech is made faster than it is spoken. Else it waits until there is enough.",
  now: "Sounds soonest. If speech is made slower than it is spoken, it stops to wait for more.",
  whole: "No stops, and the longest wait. Play starts it earlier.",
};
const KNOBS = ["cfg_scale", "temperature", "top_p", "cfg_filter_top_k"];

class Settings {
  #form = byId("settings");

  constructor() {
    this.reset();
    for (const [name, value] of Object.entries(kept.get("settings") || {})) this.#set(name, value);
    this.#form.addEventListener("input", () => this.#show());
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    byId("reset").addEventListener("click", () => {
      this.reset();
      this.#show();
      announce("Settings are reset");
    });
    this.#show();
  }

  reset() {
    this.#form.reset();
    for (const name of KNOBS) this.#set(name, config.defaults[name]);
    byId("max_tokens").placeholder = String(config.max_tokens);
  }

  get start() {
    return byId("start").value;
  }

  get format() {
    return byId("format").value;
  }

  /** The fields of a request; a seed is always among them, so that the take can be made again. */
  read() {
    if (byId("random").checked) this.#set("seed", crypto.getRandomValues(new Uint32Array(1))[0]);
    const request = { seed: Number(byId("seed").value), speed: byId("speed").valueAsNumber };
    for (const name of KNOBS) request[name] = byId(name).valueAsNumber;
    if (byId("max_tokens").value) request.max_tokens = byId("max_tokens").valueAsNumber;
    this.#show();
    return request;
  }

  /** As they were for a take, the seed too. */
  use(request) {
    this.#set("random", false);
    for (const name of ["seed", "speed", ...KNOBS]) this.#set(name, request[name]);
    this.#set("max_tokens", request.max_tokens ?? "");
    this.#show();
  }

  /** The first knob that is set wrong, and what it wants; null if all are right. */
  findMistake() {
    const seed = byId("seed");
    const isSeed = /^\d+$/.test(seed.value.trim()) && Number.isSafeInteger(Number(seed.value));
    if (!byId("random").checked && !isSeed) {
      return {
        field: seed,
        text: "The seed is to be a whole number from 0 to 9007199254740991.",
      };
    }
    const field = this.#form.querySelector("input:invalid");
    if (!field) return null;
    byId("sampling").open = true;
    const label = this.#form
      .querySelector(`label[for="${field.id}"]`)
      .firstChild.textContent.trim();
    return { field, text: `${label} is to be a whole number, 1 or more.` };
  }

  #set(name, value) {
    const field = this.#form.elements[name];
    if (!field) return;
    if (field.type === "checkbox") field.checked = value;
    else field.value = value;
  }

  #show() {
    const values = {};
    for (const field of this.#form.elements) {
      if (field.name) values[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    kept.set("settings", values);
    for (const output of this.#form.querySelectorAll("output")) {
      const slider = byId(output.htmlFor.value);
      setSlider(slider, slider.value);
      output.value = slider.id === "speed" ? `${slider.value} ×` : slider.value;
    }
    byId("seed").readOnly = values.random;
    byId("seed").placeholder = values.random ? "none yet" : "";
    byId("start-help").textContent = START_HELP[values.start];
    byId("format-help").textContent =
      values.format === "wav"
        ? "What you heard, as it is."
        : "The server speaks it again with the same seed, which takes as long again. WAV needs no server: it is what you heard.";
  }
}
