"""Speaking, listening and what is kept of it, in a real browser."""

import re
from itertools import pairwise

import av
import numpy as np
import pytest
import soundfile

from support.page import HELLO, LONG, RATE, button, choose_seed, script, speak, spoken_by_api

expect = pytest.importorskip("playwright.sync_api").expect


def test_speech_is_heard_sample_for_sample_and_without_gaps(page, client):
    dialogue = "[S1] hello world. [S2] this is dia."
    speak(page, dialogue)
    expect(button(page, "Play")).to_be_visible()  # heard to its end
    heard = page.evaluate("window.heard")
    assert {piece["target"] for piece in heard} == {"AudioDestinationNode"}
    assert {piece["rate"] for piece in heard} == {RATE}
    samples = np.concatenate([piece["samples"] for piece in heard])
    assert np.abs(samples).max() > 1000
    np.testing.assert_array_equal(samples, spoken_by_api(client, dialogue))
    assert len(heard) > 2
    for piece, following in pairwise(heard):
        end = piece["when"] + len(piece["samples"]) / RATE
        too_late = following["now"] > end  # the server was slower than speech
        assert following["when"] == pytest.approx(end, abs=1e-6) or too_late


def test_waveform_and_spectrogram_are_drawn(page):
    blank = {name: page.locator(name).screenshot() for name in ("#wave", "#spectrogram")}
    speak(page)
    for name, before in blank.items():
        expect(page.locator(name)).to_have_attribute("aria-label", re.compile(r"\d s of “\[S1\]"))
        assert page.locator(name).screenshot() != before
    expect(page.locator("#stat-factor")).to_have_text(re.compile(r"^\d+\.\d\d$"))
    assert page.locator("#stat-seed").inner_text() == "3"


def test_speech_can_be_paused_and_sought(page):
    speak(page, "[S1] one two three four five. [S2] six seven eight nine ten. [S1] hello world.")
    button(page, "Pause").click()
    position = page.get_by_label("Position")
    position.press("Home")
    expect(position).to_have_value("0")
    position.press("ArrowRight")
    expect(position).not_to_have_value("0")
    before = position.input_value()
    button(page, "Play").click()
    expect(position).not_to_have_value(before)
    button(page, "Pause").click()
    box = page.locator("#plot").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    middle = float(position.get_attribute("max")) / 2
    assert float(position.input_value()) == pytest.approx(middle, abs=0.03)


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_a_cancelled_speech_keeps_what_is_there_and_frees_the_server(page, server, way):
    script(page).fill(LONG)
    button(page, "Speak").click()
    expect(page.locator("#state")).to_contain_text("Speaking, part 1 of")
    expect(page.locator("#stat-rest")).to_contain_text("about")
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        button(page, "Cancel").click()
    expect(page.locator("#state")).to_contain_text("Cancelled")
    expect(page.get_by_role("listitem")).to_contain_text("cancelled")
    for _ in range(50):
        if not server.service.admission.num_open:
            break
        page.wait_for_timeout(100)
    assert server.service.admission.num_open == 0


def test_a_take_can_be_played_while_another_one_is_made(page):
    speak(page)
    script(page).fill(LONG)
    button(page, "Speak").click()
    expect(page.locator("#state")).to_contain_text("Speaking, part 1 of")
    page.get_by_role("listitem").get_by_role("button", name="Play").click()
    expect(page.locator("#state")).to_contain_text("From the history")
    made = page.locator("#stat-made").inner_text()
    page.wait_for_timeout(500)
    expect(page.locator("#stat-made")).to_have_text(made)
    button(page, "Cancel").click()
    expect(page.get_by_role("listitem")).to_have_count(2)
    expect(page.locator("#state")).to_contain_text("From the history")


def test_the_script_is_coloured_by_speaker(page):
    script(page).fill("Ann: hello.\nBob: (laughs) no. [pause 1s] (foo)")
    kinds = page.locator("#mirror span").evaluate_all("all => all.map((x) => x.className.trim())")
    assert kinds == ["s1 tag", "s1", "s2 tag", "s2", "s2 sound", "s2", "s2 pause", "s2", "s2 aside"]
    expect(page.locator("#script-hint")).to_contain_text("(foo)")


def test_tags_and_sounds_go_in_at_the_cursor(page):
    field = script(page)
    field.fill("hello world.")
    button(page, "[S2]").click()
    button(page, "Sounds").click()
    button(page, "(laughs)").click()
    page.keyboard.type("no.")
    expect(field).to_have_value("hello world.\n[S2] (laughs) no.")
    button(page, "Examples").click()
    button(page, "Counting").click()
    expect(field).to_have_value(re.compile("six seven"))


def test_a_take_is_played_saved_and_used_again(page, client):
    speak(page)
    row = page.get_by_role("listitem")
    with page.expect_download() as download:
        row.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "dia-3.wav"
    samples, rate = soundfile.read(download.value.path(), dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(samples, spoken_by_api(client))

    page.get_by_label("Download as").select_option("FLAC")
    with page.expect_download() as download:
        row.get_by_role("button", name="Download").click()
    expect(row).to_contain_text("Saved as FLAC, spoken again")
    with av.open(download.value.path()) as flac:
        again = np.concatenate([frame.to_ndarray()[0] for frame in flac.decode(audio=0)])
    np.testing.assert_array_equal(again, samples)

    script(page).fill("")
    choose_seed(page, 9)
    row.get_by_role("button", name="Use again").click()
    expect(script(page)).to_have_value(HELLO)
    expect(page.get_by_label("Seed", exact=True)).to_have_value("3")
    page.evaluate("window.heard = []")
    row.get_by_role("button", name="Play").click()
    expect(button(page, "Pause")).to_be_visible()
    assert page.evaluate("window.heard.length")
