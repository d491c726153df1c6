"""How well a model speaks: figures over scripts that took no part in its making."""

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from demo_voice.acoustics import Features, Samples, align, features, pitch
from demo_voice.clips import HOP_LENGTH, Clips, Script
from demo_voice.espeak import espeak
from demo_voice.recogniser import Recogniser, word_errors
from demo_voice.training import Report
from demo_voice.vocabulary import Sentence, text_of

_CHANGED_WORDS = (1, 1, 1, 1, 1, 2, 2, 2, 2)
"""How many words each of the nine wrong sentences has that the right one has not."""

_PITCH_CLIPS = 100
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Speech:
    """What came of a script.

    Attributes:
        samples: float32, (samples,), at 44.1 kHz.
        ended: Whether the speech ended by itself.
    """

    samples: Samples
    ended: bool = True


Speak = Callable[[Script, int], Speech]
"""Speaks the script of a number, which is its seed as well."""


@dataclass(frozen=True, slots=True)
class Score:
    """What is found about one script.

    Attributes:
        script: What was to be said.
        heard: What the recogniser heard.
        words: How many words were to be said.
        errors: Words to put in, leave out or replace.
        nearest: Whether it is nearer to its own reference than to nine others, by `align`.
        ended: Whether the speech ended by itself.
        turns: How many turns have the pitch of their speaker.
        of_turns: Of how many.
        duration: Over that of the reference.
    """

    script: str
    heard: str
    words: int
    errors: int
    nearest: bool
    ended: bool
    turns: int
    of_turns: int
    duration: float


@dataclass(frozen=True, slots=True)
class Reference:
    """A script as espeak-ng says it.

    Attributes:
        script: The script.
        samples: float32, (samples,).
        turns: The first frame of each turn, and the number of frames.
        candidates: The features of ``samples``, and of nine wrong sentences.
    """

    script: Script
    samples: Samples
    turns: tuple[int, ...]
    candidates: tuple[Features, ...]


class Judge:
    """Compares speech with espeak-ng's own.

    Args:
        clips: Recordings that the recogniser's templates, and the pitch that lies between the two
            speakers, are taken from.
        scripts: What will be said.
    """

    def __init__(self, clips: Clips, scripts: Sequence[Script]) -> None:
        self._recogniser = Recogniser(clips)
        words = list(dict.fromkeys(word for clip in clips.clips for word in clip.sentence.words))
        self._references = [_refer(script, words, seed) for seed, script in enumerate(scripts)]
        self._between = _between_speakers(clips)

    def score(self, numbers: Sequence[int], speak: Speak, report: Report) -> list[Score]:
        """Have scripts of these numbers spoken, and listen to each while the next is spoken."""
        with ThreadPoolExecutor(max_workers=1) as listener:
            scores = []
            for done, number in enumerate(numbers):
                reference = self._references[number]
                speech = speak(reference.script, number)
                scores.append(listener.submit(self._listen, speech, reference))
                report(done + 1, len(numbers))
            return [score.result() for score in scores]

    def reference(self, number: int) -> Samples:
        """A script as espeak-ng says it, float32, (samples,)."""
        return self._references[number].samples

    def _listen(self, speech: Speech, reference: Reference) -> Score:
        said = tuple(word for sentence in reference.script for word in sentence.words)
        heard = self._recogniser.words(speech.samples)
        spectra = features(speech.samples)
        ways = [align(spectra, candidate) for candidate in reference.candidates]
        path = ways[0][1]
        right = 0
        for turn, sentence in enumerate(reference.script):
            inside = (path[:, 1] >= reference.turns[turn]) & (
                path[:, 1] < reference.turns[turn + 1]
            )
            start, *_, stop = [*path[inside, 0], path[inside, 0][-1] + 1]
            height = pitch(speech.samples[start * HOP_LENGTH : stop * HOP_LENGTH])
            right += is_speaker(sentence.speaker, height, self._between)
        return Score(
            script=text_of(reference.script),
            heard=" ".join(heard),
            words=len(said),
            errors=word_errors(said, heard),
            nearest=bool(np.argmin([distance for distance, _ in ways]) == 0),
            ended=speech.ended,
            turns=right,
            of_turns=len(reference.script),
            duration=len(speech.samples) / len(reference.samples),
        )


def is_speaker(speaker: int, height: float, between: float) -> bool:
    """Whether a pitch is a speaker's: the second's is the higher; nan, no voice, is nobody's."""
    return height > between if speaker == 2 else height < between


def summarize(scores: Sequence[Score]) -> dict[str, float]:
    """The figures of a table's row; the interval holds 95% of resampled sets of sentences."""
    errors = np.array([score.errors for score in scores])
    words = np.array([score.words for score in scores])
    draws = np.random.default_rng(0).integers(0, len(scores), (_RESAMPLES, len(scores)))
    rates = errors[draws].sum(1) / words[draws].sum(1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return {
        "sentences": len(scores),
        "words": int(words.sum()),
        "word_errors": int(errors.sum()),
        "word_error_rate": float(errors.sum() / words.sum()),
        "word_error_rate_low": float(low),
        "word_error_rate_high": float(high),
        "nearest": sum(score.nearest for score in scores),
        "ended": sum(score.ended for score in scores),
        "turns": sum(score.turns for score in scores),
        "of_turns": sum(score.of_turns for score in scores),
        "duration": float(np.median([score.duration for score in scores])),
    }


def table(rows: dict[str, list[Score]]) -> str:
    """The rows in Markdown."""
    columns = "word errors (95% interval) | nearest of ten | ended by itself | speaker's pitch"
    lines = [f"| | {columns} | duration |", "| --- | --- | --- | --- | --- | --- |"]
    for name, scores in rows.items():
        row = summarize(scores)
        rate, low, high = (
            f"{row[key]:.1%}"
            for key in ("word_error_rate", "word_error_rate_low", "word_error_rate_high")
        )
        lines.append(
            f"| {name} | {rate} ({low} to {high}) | {row['nearest']} of {row['sentences']} "
            f"| {row['ended']} | {row['turns']} of {row['of_turns']} | {row['duration']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def as_records(scores: Sequence[Score]) -> list[dict[str, object]]:
    """Each script, for a file."""
    return [asdict(score) for score in scores]


def say(script: Script) -> list[Samples]:
    """The turns of a script as espeak-ng says them."""
    return [espeak().speak(sentence.speaker, sentence.words).samples for sentence in script]


def _refer(script: Script, vocabulary: Sequence[str], seed: int) -> Reference:
    turns = say(script)
    samples = np.concatenate(turns)
    total = len(features(samples))
    ends = np.cumsum([0, *(len(turn) for turn in turns)]) // HOP_LENGTH
    candidates = [
        samples,
        *(np.concatenate(say(wrong)) for wrong in _wrong(script, vocabulary, seed)),
    ]
    return Reference(
        script,
        samples,
        (*(int(end) for end in ends[:-1]), total),
        tuple(features(candidate) for candidate in candidates),
    )


def _wrong(script: Script, vocabulary: Sequence[str], seed: int) -> list[Script]:
    """Nine scripts that differ in a word or two."""
    draw = random.Random(seed)
    scripts = []
    for changes in _CHANGED_WORDS:
        words = [list(sentence.words) for sentence in script]
        places = [(i, j) for i, sentence in enumerate(words) for j in range(len(sentence))]
        for i, j in draw.sample(places, min(changes, len(places))):
            words[i][j] = draw.choice([word for word in vocabulary if word != words[i][j]])
        pairs = zip(script, words, strict=True)
        scripts.append(tuple(Sentence(old.speaker, tuple(new)) for old, new in pairs))
    return scripts


def _between_speakers(clips: Clips) -> float:
    """The pitch in the middle between the two, in Hz."""
    medians = []
    for speaker in (1, 2):
        own = [clip for clip in clips.clips if clip.sentence.speaker == speaker]
        heights = [pitch(clips.audio(clip)) for clip in own[-_PITCH_CLIPS:]]
        medians.append(float(np.nanmedian(heights)))
    return math.sqrt(medians[0] * medians[1])
