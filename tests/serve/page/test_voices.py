"""Voices on the page: from a file, from the microphone, and no more."""

import numpy as np
import pytest
import soundfile

from support.page import RATE, button

expect = pytest.importorskip("playwright.sync_api").expect


def make_wav(path, seconds=2.0):
    times = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(440 * times) * np.sin(9 * times), RATE)
    return path


def test_a_voice_is_uploaded_as_wav_selected_and_deleted(page, client, tmp_path):
    button(page, "Add").click()
    soundfile.write(tmp_path / "Ann Lee.flac", *soundfile.read(make_wav(tmp_path / "a.wav")))
    page.locator("#file").set_input_files(tmp_path / "Ann Lee.flac")
    expect(page.get_by_label("Name")).to_have_value("Ann-Lee")
    expect(page.locator("#preview-text")).to_contain_text("2.0 s")
    assert page.locator("#listen").evaluate("(audio) => audio.src").startswith("blob:")
    page.get_by_label("What is said in it").fill("[S1] hello.")
    button(page, "Save the voice").click()
    expect(page.get_by_role("radio", name="Ann-Lee 2.0 s · “[S1] hello.”")).to_be_checked()
    voices = client.get("/v1/audio/voices").json()["voices"]
    (stored,) = (voice for voice in voices if voice["id"] == "Ann-Lee")
    assert stored["transcript"] == "[S1] hello."
    assert stored["origin"] == "Ann-Lee.wav"

    delete = button(page, "Delete the voice Ann-Lee")
    delete.click()
    button(page, "Keep it").click()
    delete.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(delete).to_have_count(0)
    expect(page.get_by_label("Default")).to_be_checked()
    voices = client.get("/v1/audio/voices").json()["voices"]
    assert "Ann-Lee" not in {voice["id"] for voice in voices}


def test_a_voice_is_recorded(page, client):
    button(page, "Add").click()
    button(page, "Record").click()
    expect(page.locator("#recorded")).to_contain_text("0:01.", timeout=5000)
    button(page, "Stop").click()
    expect(page.locator("#preview-text")).to_contain_text("Recording, 1.")
    page.get_by_label("Name").fill("me")
    button(page, "Save the voice").click()
    expect(page.get_by_role("radio", name="me 1.")).to_be_checked()
    assert client.delete("/v1/audio/voices/me").status_code == 200


# The browser asks, until the test says yes.
ASKING = """
const { getUserMedia } = MediaDevices.prototype;
const answer = new Promise((resolve) => { window.allow = resolve; });
window.tracks = [];
MediaDevices.prototype.getUserMedia = async function (wanted) {
  await answer;
  const stream = await getUserMedia.call(this, wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
"""
STATES = """async () => {
  const isLive = (track) => track.readyState === "live";
  for (let i = 0; i < 100 && (!tracks.length || tracks.some(isLive)); i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return tracks.map((track) => track.readyState);
}"""  # of all microphones, when none is live, or after 2 s


def test_a_double_click_records_once(open_page):
    page = open_page(before=ASKING)
    button(page, "Add").click()
    button(page, "Record").dblclick()
    page.evaluate("allow()")
    expect(page.locator("#recorded")).to_contain_text("0:01.", timeout=5000)
    button(page, "Stop").click()
    expect(page.locator("#preview-text")).to_contain_text("Recording, 1.")
    assert page.evaluate(STATES) == ["ended"]


def test_a_dialog_that_was_closed_does_not_record(open_page):
    page = open_page(before=ASKING)
    button(page, "Add").click()
    button(page, "Record").click()
    button(page, "Close").click()
    button(page, "Add").click()
    page.evaluate("allow()")
    assert page.evaluate(STATES) == ["ended"]
    expect(page.locator("#recording")).to_be_hidden()
    button(page, "Record").click()
    expect(page.locator("#recording")).to_be_visible()


def test_what_is_no_voice_is_refused_with_advice(page, tmp_path):
    button(page, "Add").click()
    report = page.locator("#voice-problem")
    button(page, "Save the voice").click()
    expect(report).to_contain_text("Choose a file or record something first")
    (tmp_path / "text.wav").write_text("no sound")
    page.locator("#file").set_input_files(tmp_path / "text.wav")
    expect(report).to_contain_text("nothing that this browser can read")
    page.locator("#file").set_input_files(make_wav(tmp_path / "short.wav", 0.4))
    expect(report).to_contain_text("needs at least 1 s")
    page.locator("#file").set_input_files(make_wav(tmp_path / "long.wav", 31))
    expect(page.locator("#preview-text")).to_contain_text("only the first 30 s are taken")
    page.get_by_label("Name").fill("no name")
    button(page, "Save the voice").click()
    expect(report).to_contain_text("Give it a name")
    expect(page.get_by_label("Name")).to_be_focused()


def test_a_refused_microphone_says_what_to_do(open_page):
    error = "new DOMException('', 'NotAllowedError')"
    page = open_page(
        before=f"MediaDevices.prototype.getUserMedia = async () => {{ throw {error}; }};"
    )
    button(page, "Add").click()
    button(page, "Record").click()
    expect(page.locator("#voice-problem")).to_contain_text("Allow it beside the address")
