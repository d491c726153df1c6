"""The recordings that everything is trained on: sentences spoken by espeak-ng.

Test sentences take no part in any choice: no sentence of a test script (one word alone apart) is
in the training or validation data, in either voice.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo_voice.espeak import SAMPLE_RATE, espeak
from demo_voice.vocabulary import PHRASES, Sentence, random_sentence

HOP_LENGTH = 512

Script = tuple[Sentence, ...]
Report = Callable[[int, int], None]

_LENGTHS = (1, 2, 2, 3, 3, 3, 4, 4, 5, 5)


@dataclass(frozen=True, slots=True)
class Clip:
    """A recorded sentence.

    Attributes:
        sentence: What is said.
        starts: When each word begins, in frames.
        offset: Its first frame among all frames of the recordings.
        frames: Its length.
    """

    sentence: Sentence
    starts: tuple[float, ...]
    offset: int
    frames: int

    @property
    def span(self) -> slice:
        """Its frames among all."""
        return slice(self.offset, self.offset + self.frames)


@dataclass(frozen=True, slots=True)
class Clips:
    """Recordings.

    Attributes:
        clips: One for each sentence.
        samples: int16, (frames * HOP_LENGTH,), all of them in a row; memory-mapped.
    """

    clips: tuple[Clip, ...]
    samples: NDArray[np.int16]

    def audio(self, clip: Clip) -> NDArray[np.float32]:
        """The samples of a clip, -1 to 1."""
        span = slice(clip.span.start * HOP_LENGTH, clip.span.stop * HOP_LENGTH)
        return self.samples[span].astype(np.float32) / 32768


@dataclass(frozen=True, slots=True)
class Split:
    """What is said where.

    Attributes:
        train: Sentences to learn from, no two alike.
        validation: Scripts to choose settings on.
        test: Scripts that are looked at once, at the end.
    """

    train: tuple[Sentence, ...]
    validation: tuple[Script, ...]
    test: tuple[Script, ...]


def make_split(
    vocabulary: tuple[str, ...], seed: int, train: int, validation: int, test: int
) -> Split:
    """Draw so many sentences and scripts of these words."""
    random_ = random.Random(seed)
    tests = _scripts(random_, vocabulary, test, taken=set())
    taken = {sentence.words for one in tests for sentence in one}
    validations = _scripts(random_, vocabulary, validation, taken)
    taken |= {sentence.words for one in validations for sentence in one}
    common = [(word,) for word in vocabulary] + [tuple(phrase.split()) for phrase in PHRASES]
    chosen = {Sentence(speaker, words): None for words in common for speaker in (1, 2)}
    while len(chosen) < train:
        sentence = random_sentence(random_, vocabulary, _LENGTHS)
        if sentence.words not in taken:
            chosen[sentence] = None
    return Split(tuple(chosen), validations, tests)


def _scripts(
    random_: random.Random, vocabulary: tuple[str, ...], count: int, taken: set[tuple[str, ...]]
) -> tuple[Script, ...]:
    """Three in five are one sentence of 3 to 5 words; the others dialogues of 2 and 3 words."""
    common = {tuple(phrase.split()) for phrase in PHRASES}
    scripts: list[Script] = []
    seen = taken | common
    while len(scripts) < count:
        if len(scripts) % 5 < 3:
            script = (random_sentence(random_, vocabulary, (3, 4, 5)),)
        else:
            first, second = (random_sentence(random_, vocabulary, (2, 3)) for _ in range(2))
            script = (first, Sentence(3 - first.speaker, second.words))
        words = {sentence.words for sentence in script}
        if len(words) == len(script) and not words & seen:
            seen |= words
            scripts.append(script)
    return tuple(scripts)


def record(sentences: Sequence[Sentence], folder: Path, report: Report) -> None:
    """Let espeak-ng say sentences, and write ``samples.npy`` and ``clips.json``."""
    pieces: list[NDArray[np.int16]] = []
    clips: list[Clip] = []
    offset = 0
    by_speaker = sorted(sentences, key=lambda sentence: sentence.speaker)
    for done, sentence in enumerate(by_speaker):
        report(done, len(by_speaker))
        spoken = espeak().speak(sentence.speaker, sentence.words)
        samples = np.clip(spoken.samples, -0.98, 0.98)
        frames = -(-len(samples) // HOP_LENGTH)
        samples = np.pad(samples, (0, frames * HOP_LENGTH - len(samples)))
        starts = tuple(round(start * SAMPLE_RATE / HOP_LENGTH, 2) for start in spoken.starts)
        clips.append(Clip(sentence, starts, offset, frames))
        pieces.append((samples * 32767).astype(np.int16))
        offset += frames
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "samples.npy", np.concatenate(pieces))
    content = [asdict(clip) for clip in clips]
    (folder / "clips.json").write_text(json.dumps(content), encoding="utf-8")


def open_clips(folder: Path) -> Clips:
    """Recordings that `record` wrote."""
    content = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    clips = tuple(
        Clip(
            Sentence(item["sentence"]["speaker"], tuple(item["sentence"]["words"])),
            tuple(item["starts"]),
            item["offset"],
            item["frames"],
        )
        for item in content
    )
    return Clips(clips, np.load(folder / "samples.npy", mmap_mode="r"))
