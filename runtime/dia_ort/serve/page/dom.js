// What the server told the page, and short ways to the document.

const config = JSON.parse(document.getElementById("config").textContent);

const byId = (id) => document.getElementById(id);

/** A new element with properties (not attributes) and children. */
function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const use = document.createElementNS(namespace, "use");
  use.setAttribute("href", `#icon-${name}`);
  const svg = document.createElementNS(namespace, "svg");
  svg.append(use);
  return svg;
}

/** A button with an icon, words that are hidden where there is no room, and a longer name. */
function iconButton(name, words, label, action, className = "quiet") {
  const button = create(
    "button",
    { type: "button", className },
    icon(name),
    create("span", { textContent: words }),
  );
  button.ariaLabel = label;
  button.title = label;
  button.addEventListener("click", action);
  return button;
}

function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#icon-${name}`);
}

/** Move a slider, and colour its track up to there. */
function setSlider(slider, value) {
  slider.value = value;
  const { min, max, valueAsNumber } = slider;
  slider.style.setProperty(
    "--filled",
    `${Number(max) > Number(min) ? (100 * (valueAsNumber - min)) / (max - min) : 0}%`,
  );
}

/** Tell screen readers, once. */
function announce(text) {
  byId("announcer").textContent = text;
}

/** Minutes, seconds and tenths: 1:05.3. */
function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return `${Math.floor(tenths / 600)}:${rest}`;
}

/** Seconds in words that are quick to read: 2.4 s, 45 s, 3 min 5 s. */
function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** The beginning of a text, on one line. */
function shorten(text, length = 60) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1).trimEnd()}…` : line;
}

/** With a capital letter and a full stop. */
const sentence = (text) =>
  `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** What this tab keeps: text only, and gone when the tab is closed. */
const kept = {
  get(name) {
    try {
      return JSON.parse(sessionStorage.getItem(`dia.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`dia.${name}`, JSON.stringify(value));
    } catch {
      // Storage is full or not allowed: the page works without.
    }
  },
};

/** Offer bytes as a file. */
function saveFile(blob, name) {
  const url = URL.createObjectURL(blob);
  create("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Clipboards are for secure contexts: on another machine's plain HTTP there is only this.
  const field = create("textarea", { value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
}
