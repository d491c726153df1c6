"""What the model learns from: scripts, their codes in the delay pattern, and what is said when."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo_voice.clips import Clip
from demo_voice.dia import DELAY_PATTERN

EOS, PAD, BOS = 1024, 1025, 1026

_TRAILING_FRAMES = 8
"""The near silence at the end of a recording; the full stop stands for it."""

_VOICES = 0.5
"""Part of the scripts that begin with a voice, of those that can."""

_STRANGERS = 0.1
"""Part of the sentences with a word that is not said."""

_WINDOW = 1.3
"""Attention may be this far from the letter that is being said, in letters."""


@dataclass(frozen=True, slots=True)
class Example:
    """A script of one or more recordings.

    Attributes:
        text: Bytes, the speaker tags as 1 and 2.
        codes: int16, (codebooks, frames).
        letters: Which byte of the text is being said, float32, (frames + 1,); the last one is
            when the speech has ended.
        given: So many frames are a voice to go on in: nothing is learned from them.
    """

    text: bytes
    codes: NDArray[np.int16]
    letters: NDArray[np.float32]
    given: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side.

    Attributes:
        text: int64, (batch, letters).
        text_mask: bool as int64, of the same shape.
        inputs: int64, (batch, steps, codebooks): what the model has heard.
        targets: int64, of the same shape: what comes next; PAD where nothing is to be learned.
        guide: float32, (batch, steps, letters): 1 where attention should be.
    """

    text: Tensor
    text_mask: Tensor
    inputs: Tensor
    targets: Tensor
    guide: Tensor

    def to(self, device: str) -> "Batch":
        """On a device."""
        parts = (self.text, self.text_mask, self.inputs, self.targets, self.guide)
        return Batch(*(part.to(device) for part in parts))


def join(clips: Sequence[Clip], codes: NDArray[np.int16], random: np.random.Generator) -> Example:
    """A script of these recordings, as the runtime writes one.

    A tag stands where the speaker changes, and at times before another sentence of the same one (a
    voice's transcript is followed by a script with its own tags) and at the end. Some scripts begin
    with a voice, whose audio is given; see :func:`_assign_tags`.

    Args:
        clips: In order.
        codes: (codebooks, frames) of all recordings.
        random: Draws all that.
    """
    tags, given = _assign_tags([clip.sentence.speaker for clip in clips], random)
    text, letters, last = bytearray(), [], 0
    for clip, tag in zip(clips, tags, strict=True):
        text += b" " if text else b""
        if tag != last or random.random() < 0.5:
            text += bytes([tag]) + b" "
        spelled, begins = _spell(clip.sentence.words, random)
        first = len(text)
        text += spelled.encode()
        letters.append(_letters(clip, [first + begin for begin in begins], len(text) - 1))
        last = tag
    letters.append(np.array([len(text) - 1], np.float32))
    if random.random() < 0.5:
        text += b" " + bytes([3 - last])
    return Example(
        bytes(text),
        np.concatenate([codes[:, clip.span] for clip in clips], axis=1),
        np.concatenate(letters),
        sum(clip.frames for clip in clips[:given]),
    )


def _assign_tags(speakers: Sequence[int], random: np.random.Generator) -> tuple[list[int], int]:
    """The tag of each recording, and how many of the first ones are a voice to go on in.

    A tag sounds like the voice that is given for it, and as usual if none is. So a voice has every
    speaker of the script, and in half of the voices the tags are exchanged. Where only one speaks,
    the tag that is not in the voice stands for that speaker as usual, and either may come.
    """
    given = 1 + max(speakers.index(speaker) for speaker in set(speakers))
    if given == len(speakers) or random.random() >= _VOICES:
        return list(speakers), 0
    if random.random() < 0.5:
        return list(speakers), given
    tags = [3 - speaker for speaker in speakers]
    if given == 1:
        tags[1:] = random.integers(1, 3, len(tags) - 1).tolist()
    return tags, given


def _spell(words: Sequence[str], random: np.random.Generator) -> tuple[str, list[int]]:
    """A sentence as people type it, and where its words begin.

    Some have a capital, some no full stop, and some a word that nobody says, so that words which
    the model does not know are left out.
    """
    text, begins = "", []
    stranger = int(random.integers(len(words) + 1)) if random.random() < _STRANGERS else -1
    for number in range(len(words) + 1):
        if number == stranger:
            letters = random.choice(list(ascii_lowercase), random.integers(2, 10))
            text += "".join(letters) + " "
        if number < len(words):
            begins.append(len(text))
            text += words[number] + " "
    if random.random() < 0.3:
        text = text.capitalize()
    end = str(random.choice([".", "!", "?", ""], p=(0.8, 0.06, 0.06, 0.08)))
    return text.rstrip() + end, begins


def _letters(clip: Clip, begins: Sequence[int], stop: int) -> NDArray[np.float32]:
    """Which byte is being said in each frame.

    Args:
        clip: The recording.
        begins: The first byte of each word.
        stop: The sentence's last byte.
    """
    words = clip.sentence.words
    frames: list[float] = []
    places: list[float] = []
    ends = [*clip.starts[1:], clip.frames - _TRAILING_FRAMES]
    for word, begin, start, end in zip(words, begins, clip.starts, ends, strict=True):
        frames += [start, max(start, end - 1e-3)]
        places += [begin, begin + len(word)]
    frames += [clip.frames - _TRAILING_FRAMES, clip.frames]
    places += [stop, stop]
    return np.interp(np.arange(clip.frames) + 0.5, frames, places).astype(np.float32)


def collate(
    examples: Sequence[Example],
    random: np.random.Generator,
    *,
    text_dropout: float,
    corruption: float,
) -> Batch:
    """Examples side by side.

    Args:
        examples: The examples.
        random: Of what is dropped and corrupted.
        text_dropout: Part of the examples whose text is empty, for classifier-free guidance.
        corruption: The highest part of the past codes that are those of others.
    """
    size, letters = len(examples), max(len(example.text) for example in examples)
    text = np.zeros((size, letters), np.int64)
    mask = np.zeros((size, letters), np.int64)
    grids = [delayed(example.codes) for example in examples]
    steps = max(len(grid) for grid in grids)
    grid = np.full((size, steps, len(DELAY_PATTERN)), PAD, np.int64)
    guide = np.zeros((size, steps - 1, letters), np.float32)
    for row, example in enumerate(examples):
        grid[row, : len(grids[row])] = grids[row]
        mask[row, : len(example.text)] = 1
        if random.random() >= text_dropout:
            text[row, : len(example.text)] = list(example.text)
            distance = np.abs(np.arange(letters) - example.letters[:, None])
            guide[row, : len(distance)] = distance <= _WINDOW
    inputs = _corrupt(grid[:, :-1], random, corruption)
    targets = grid[:, 1:].copy()
    for row, example in enumerate(examples):
        for channel, delay in enumerate(DELAY_PATTERN):
            targets[row, : delay + example.given, channel] = PAD
    parts = (text, mask, inputs, targets, guide)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def delayed(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    """Codes, (codebooks, frames), as the model reads and writes them, (steps, codebooks).

    Channel c is DELAY_PATTERN[c] steps late: BOS until then, EOS after it, then PAD.
    """
    frames = codes.shape[1]
    grid = np.full((frames + 2 + DELAY_PATTERN[-1], len(DELAY_PATTERN)), PAD, np.int64)
    for channel, delay in enumerate(DELAY_PATTERN):
        grid[: delay + 1, channel] = BOS
        grid[delay + 1 : delay + 1 + frames, channel] = codes[channel]
        grid[delay + 1 + frames, channel] = EOS
    return grid


def _corrupt(
    grid: NDArray[np.int64], random: np.random.Generator, most: float
) -> NDArray[np.int64]:
    """Replace codes by those of other moments: single ones, and all of a step.

    With its past in doubt the model listens to the text; with a true past it babbles fluently.
    """
    rate = random.random((len(grid), 1, 1), np.float32) * np.float32(most)
    hit = random.random(grid.shape, np.float32) < rate
    hit |= random.random((*grid.shape[:2], 1), np.float32) < rate
    others = random.permuted(grid.reshape(-1, grid.shape[-1]), axis=0).reshape(grid.shape)
    return np.where(hit & (grid < EOS) & (others < EOS), others, grid)
