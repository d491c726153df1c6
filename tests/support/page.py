"""What the tests of the page share: a headless Chromium, and what people do in it."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

HELLO = "[S1] hello."
LONG = "[S1] " + " ".join(["hello world. this is dia. good morning. thank you."] * 40)
SPEECH = "**/v1/audio/speech"
RATE = 44100
WAIT = 15_000  # milliseconds until something that does not come fails a test

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")

# Notes what reaches the speakers: each buffer, when it starts, and where it leads.
EAR = """
window.heard = [];
const { start } = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (when = 0, ...rest) {
  const samples = Array.from(this.buffer.getChannelData(0), (x) => Math.round(x * 32768));
  const { currentTime: now } = this.context;
  window.heard.push({ when, now, samples, rate: this.buffer.sampleRate, target: this.leadsTo });
  return start.call(this, when, ...rest);
};
const { connect } = AudioNode.prototype;
AudioNode.prototype.connect = function (target, ...rest) {
  this.leadsTo = target.constructor.name;
  return connect.call(this, target, ...rest);
};
"""


@contextmanager
def open_chromium():
    """The browser that ``DIA_ORT_CHROMIUM`` names, else one on the path, else Playwright's own.

    Skips the tests if there is none.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=WAIT)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    path = os.environ.get("DIA_ORT_CHROMIUM") or found
    with playwright.sync_playwright() as driver:
        if not (path or Path(driver.chromium.executable_path).exists()):
            pytest.skip("there is no Chromium: install one, or name it in DIA_ORT_CHROMIUM")
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page, and what was noticed of it.

    Attributes:
        page: Playwright's.
        complaints: What the console has said, but for answers that are errors.
        requests: All addresses that were asked.
    """

    def __init__(self, page):
        self.page = page
        self.complaints = []
        self.requests = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, message):
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)


def button(parent, name):
    return parent.get_by_role("button", name=name, exact=True)


def script(page):
    return page.get_by_role("textbox", name="Script")


def problem(page):
    return page.locator("#problem")


def choose_seed(page, seed):
    page.get_by_label("Random").uncheck()
    page.get_by_label("Seed", exact=True).fill(str(seed))


def speak(page, text=HELLO, seed=3):
    """Have a short script spoken to its end."""
    choose_seed(page, seed)
    script(page).fill(text)
    button(page, "Speak").click()
    page.get_by_text("Finished, ").and_(page.locator("#state")).wait_for()


def spoken_by_api(client, text=HELLO, seed=3):
    fields = {"input": text, "seed": seed, "response_format": "pcm", "sample_rate": RATE}
    return np.frombuffer(client.post("/v1/audio/speech", json=fields).content, "<i2")
