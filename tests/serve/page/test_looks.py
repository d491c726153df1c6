"""Whether all can use the page: on any screen, in both themes, by keyboard and screen reader."""

import re

import numpy as np
import pytest

from dia_ort import Voice
from support.page import button, choose_seed, problem, script, speak

expect = pytest.importorskip("playwright.sync_api").expect

TOUCH = {"viewport": {"width": 320, "height": 640}, "has_touch": True}


def open_everything(page):
    """All parts that are folded away; the voice's dialog is opened last."""
    button(page, "Sounds").click()
    page.locator("#sampling summary").click()
    problem(page).evaluate(
        "(box) => { box.hidden = false; box.textContent = 'Something is wrong.'; }"
    )


def background(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.fixture
def long_word(voices_folder):
    """A voice whose transcript has nowhere to break."""
    voices_folder.mkdir(exist_ok=True)
    path = voices_folder / "long.voice"
    Voice(np.ones((50, 9), int), "[S1] https://example.org/" + "a" * 90).save(path)
    yield
    path.unlink()


@pytest.mark.usefixtures("long_word")
def test_nothing_sticks_out(page):
    expect(page.get_by_text("example.org/aaa")).to_be_visible()
    speak(page)
    script(page).fill("[S1] (laughs) " + "no" * 60)
    open_everything(page)
    button(page, "Add").click()
    for width in (1440, 768, 375, 320):
        page.set_viewport_size({"width": width, "height": 800})
        outside = page.evaluate(
            """() => [...document.querySelectorAll("body *")]
              .filter((x) => x.checkVisibility() && !x.closest("svg, .unseen, .skip, pre"))
              .filter((x) => x.getBoundingClientRect().right > innerWidth + 0.5)
              .map((x) => x.outerHTML.slice(0, 100))"""
        )
        assert outside == [], width
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_finger_finds_all_controls(open_page):
    page = open_page(**TOUCH)
    speak(page)
    page.locator("#sampling summary").click()
    small = page.locator(
        "button, select, summary, input:not([type=radio], [type=checkbox])"
    ).evaluate_all(
        """(all) => all.filter((x) => x.checkVisibility() && !x.matches("[type=range]"))
          .filter((x) => x.offsetHeight < 40 || x.offsetWidth < 40).map((x) => x.outerHTML)"""
    )
    assert small == []


def test_the_editor_and_its_colours_lie_upon_each_other(page):
    script(page).fill("[S1] hello world. (laughs)\n\n[S2] " + "good morning " * 60 + "\n\n")
    boxes = [page.locator(name).bounding_box() for name in ("#script", "#mirror")]
    assert boxes[0] == boxes[1]
    heights = [
        page.locator(name).evaluate("(x) => x.scrollHeight") for name in ("#script", "#mirror")
    ]
    assert heights[0] == heights[1]


def test_the_keyboard_is_enough(page):
    choose_seed(page, 3)
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the script")).to_be_focused()
    page.keyboard.press("Enter")
    expect(script(page)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("[S1] hello world.")
    page.keyboard.press("Tab")
    expect(button(page, "Speak")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("Finished")
    expect(button(page, "Speak")).to_be_focused()
    expect(button(page, "Play")).to_be_visible()
    page.keyboard.press("Tab")
    expect(button(page, "Play")).to_be_focused()
    page.keyboard.press("Space")
    expect(button(page, "Pause")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Position")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Add a voice")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Add")).to_be_focused()


def test_what_happens_is_told_to_screen_readers(page):
    told = page.evaluate_handle(
        """() => {
          const told = [];
          const box = document.getElementById("announcer");
          new MutationObserver(() => told.push(box.textContent)).observe(box, { childList: true });
          return told;
        }"""
    )
    speak(page)
    texts = told.evaluate("(told) => told")
    assert texts[-1].startswith("Finished, ")
    assert len(texts) <= 4, "it is chatty"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(color_scheme=scheme)
    speak(page)
    script(page).fill("[S1] hello world. (laughs) [S2] this is dia. [pause 0.5s] (foo)")
    open_everything(page)
    expect(button(page, "Play")).to_be_visible()
    for part in ("page", "dialog"):
        if part == "dialog":
            button(page, "Add").click()
        found = axe.run(page).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_the_theme_is_the_devices_until_the_button_says_otherwise(open_page):
    page = open_page(color_scheme="dark")
    speak(page)
    assert background(page) < 60
    picture = page.locator("#spectrogram").screenshot()
    theme = button(page, "Dark theme")
    expect(theme).to_have_attribute("aria-pressed", "true")
    theme.click()
    assert background(page) > 200
    page.wait_for_timeout(100)
    assert page.locator("#spectrogram").screenshot() != picture
    page.reload()
    assert background(page) > 200
    theme.click()
    expect(theme).to_have_attribute("aria-pressed", "true")
    page.emulate_media(color_scheme="light")
    expect(theme).to_have_attribute("aria-pressed", "false")
