from pathlib import Path

import pytest

import dia_ort
from dia_ort.demo_words import DEMO_WORDS, unknown_words


@pytest.mark.parametrize(
    ("script", "unknown"),
    [
        ("[S1] Hello world! [S2] this is dia.", []),
        ("hello [pause 1s] world", []),
        ("[S1] Good weather, isn't it? Good weather.", ["weather", "isn't", "it"]),
        ("yes (laughs) no (clears throat)", ["(laughs)", "(clears throat)"]),
        ("one 2 three-four", ["2", "three-four"]),
    ],
)
def test_what_the_demo_does_not_know(script, unknown):
    assert unknown_words(script) == unknown


def test_the_page_lists_the_words():
    page = Path(dia_ort.__file__).with_name("serve") / "page" / "index.html"
    shown = page.read_text(encoding="utf-8").partition("The demo model knows ")[2]
    listed = shown.partition(":")[2].partition("</p>")[0].strip(" .").replace("zero to ten", "")
    numbers = DEMO_WORDS[: DEMO_WORDS.index("ten") + 1]
    assert {*listed.strip(", ").split(", "), *numbers} == set(DEMO_WORDS)
