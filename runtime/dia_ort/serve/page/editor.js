// The script: a text field over a mirror of itself that has the colours.

const MARK = /\[ ?[Ss] ?[12] ?\]|\[ ?pause\b[^[\]]{0,40}\]|\([A-Za-z]+(?: [A-Za-z]+){0,2}\)/gi;
const NAME = /^\**([^\s*:()[\]\d][^*:()[\]\n]{0,39}?)[* ]{0,4}:\**(?=\s|$)/gmu;
const SOUNDS = new Set(config.non_verbals);

/**
 * The pieces of a script: their text, their kind ("tag", "pause", "sound", "aside", or "" for what
 * is said), and the speaker. Names before colons are tags if there are several, as on the server.
 */
function* readScript(text) {
  const names = text.search(/\[S[12]\]/i) < 0 ? [...text.matchAll(NAME)] : [];
  const isDialogue = names.length > 1;
  const people = [...new Set(names.map((name) => name[1].toLowerCase()))];
  const marks = [...text.matchAll(MARK), ...(isDialogue ? names : [])].sort(
    (a, b) => a.index - b.index,
  );
  let [speaker, end] = ["s1", 0];
  for (const mark of marks) {
    yield { text: text.slice(end, mark.index), kind: "", speaker };
    end = mark.index + mark[0].length;
    let kind = "tag";
    if (isDialogue && mark[1]) speaker = people.indexOf(mark[1].toLowerCase()) % 2 ? "s2" : "s1";
    else if (mark[0].startsWith("(")) kind = SOUNDS.has(mark[0]) ? "sound" : "aside";
    else if (/pause/i.test(mark[0])) kind = "pause";
    else speaker = mark[0].includes("2") ? "s2" : "s1";
    yield { text: mark[0], kind, speaker };
  }
  yield { text: text.slice(end), kind: "", speaker };
}

/** A script in colours. */
function colourScript(text) {
  const fragment = new DocumentFragment();
  for (const piece of readScript(text)) {
    if (piece.text) {
      fragment.append(
        create("span", {
          className: `${piece.speaker} ${piece.kind}`,
          textContent: piece.text,
        }),
      );
    }
  }
  return fragment;
}

class Editor {
  #field = byId("script");

  constructor() {
    this.#field.value = kept.get("script") ?? Object.values(EXAMPLES)[0];
    this.#field.addEventListener("input", () => this.#show());
    for (const button of document.querySelectorAll("[data-insert]")) {
      button.addEventListener("click", () => this.#insert(button.dataset.insert));
    }
    for (const sound of config.non_verbals) {
      const button = create("button", {
        type: "button",
        className: "chip sound",
        textContent: sound,
      });
      button.addEventListener("click", () => this.#insert(sound));
      byId("sounds").append(button);
    }
    for (const [name, text] of Object.entries(EXAMPLES)) {
      const button = create("button", {
        type: "button",
        className: "chip",
        textContent: name,
      });
      button.addEventListener("click", () => this.#type(text, 0, this.text.length));
      byId("examples").append(button);
    }
    for (const opener of document.querySelectorAll(".chip.open")) {
      opener.addEventListener("click", () => openTray(opener));
    }
    byId("script-words").hidden = config.model !== "demo";
    this.#show();
  }

  get text() {
    return this.#field.value;
  }

  set text(text) {
    this.#field.value = text;
    this.#show();
  }

  /** Characters, as the server counts them. */
  get length() {
    return [...this.text].length;
  }

  focus() {
    this.#field.focus();
  }

  /** A tag or a sound at the cursor, with the white space that it needs around it. */
  #insert(mark) {
    const { selectionStart: start, selectionEnd: end } = this.#field;
    const [before, after] = [this.text.slice(0, start), this.text.slice(end)];
    let space = /\S$/.test(before) ? " " : "";
    if (/^\[S/.test(mark) && /\S *$/.test(before.split("\n").at(-1))) space = "\n";
    this.#type(`${space}${mark}${/^\s/.test(after) ? "" : " "}`, start, end);
  }

  /** In place of a part, as if it were typed: it can be undone. */
  #type(text, start, end) {
    this.focus();
    this.#field.setSelectionRange(start, end);
    if (!document.execCommand("insertText", false, text)) {
      this.#field.setRangeText(text, start, end, "end");
      this.#show();
    }
  }

  #show() {
    kept.set("script", this.text);
    byId("mirror").replaceChildren(colourScript(this.text), "\n"); // a last empty line has a height
    const isTooLong = this.length > config.max_input;
    const count = `${this.length.toLocaleString("en")} / ${config.max_input.toLocaleString("en")}`;
    byId("count").textContent = isTooLong ? `${count} characters: too long` : `${count} characters`;
    byId("count").classList.toggle("bad", isTooLong);
    const pieces = [...readScript(this.text)];
    const asides = new Set(pieces.filter(({ kind }) => kind === "aside").map(({ text }) => text));
    byId("script-hint").hidden = !asides.size;
    byId("script-hint").textContent =
      `Dia was not taught ${[...asides].slice(0, 3).join(", ")}, and may read it aloud or stumble. What it knows is under Sounds.`;
  }
}

/** Open one tray and close the others, or close it. */
function openTray(opener) {
  for (const other of document.querySelectorAll(".chip.open")) {
    const isOpen = other === opener && other.ariaExpanded !== "true";
    other.ariaExpanded = String(isOpen);
    byId(other.getAttribute("aria-controls")).hidden = !isOpen;
  }
}
