"""What the built-in demo can say: it was trained on these words, and on nothing else."""

import re

DEMO_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("hello", "yes", "no", "this", "is", "dia", "test", "good", "morning", "thank", "you"),
    *("welcome", "red", "green", "blue", "go", "stop", "my", "name", "world", "open"),
)

_TAG = re.compile(r"\[[^\]]*\]")
_WORD = re.compile(r"\([^)]*\)|\w+(?:['\u2019-]\w+)*")


def unknown_words(script: str) -> list[str]:
    """The words and non-verbals of a script that the demo does not know, each once, in order."""
    words = _WORD.findall(_TAG.sub(" ", script))
    return list(dict.fromkeys(word for word in words if word.lower() not in DEMO_WORDS))
