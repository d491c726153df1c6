"""The words of the demonstration voice, and sentences of them."""

import random
from dataclasses import dataclass
from pathlib import Path

MORE_WORDS = tuple((Path(__file__).parent / "more_words.txt").read_text(encoding="utf-8").split())
"""With those of the demo, the vocabulary of the large recipe."""

PHRASES = (
    "hello world",
    "this is dia",
    "my name is dia",
    "thank you",
    "good morning",
    "this is my test",
    "hello dia",
    "welcome",
    "yes",
    "no",
    "yes thank you",
    "no thank you",
    "this is my world",
    "one two three",
    "good morning world",
    "go go go",
    "stop",
    "is this dia",
)
"""What people try first: said often, so that they are learned best."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one speaker says in one breath.

    Attributes:
        speaker: 1 or 2, for [S1] or [S2].
        words: In order.
    """

    speaker: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words, with a full stop at the end."""
        return f"{' '.join(self.words)}."


def random_sentence(
    random_: random.Random, vocabulary: tuple[str, ...], lengths: tuple[int, ...]
) -> Sentence:
    """A sentence of random words; its length is drawn from those given."""
    words = tuple(random_.choice(vocabulary) for _ in range(random_.choice(lengths)))
    return Sentence(random_.choice((1, 2)), words)


def text_of(script: tuple[Sentence, ...]) -> str:
    """Sentences as a text for Dia: a tag where the speaker changes."""
    parts, speaker = [], 0
    for sentence in script:
        tag = f"[S{sentence.speaker}] " if sentence.speaker != speaker else ""
        parts.append(tag + sentence.text)
        speaker = sentence.speaker
    return " ".join(parts)
