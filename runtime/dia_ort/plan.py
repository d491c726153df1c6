"""From a script to chunks that are spoken one by one.

Dia speaks well for some 5 to 20 seconds at a time: with less it babbles, with more it hurries, and
its text and its decoder have an end. So a script is cut at its pauses, and between them where it
hurts least: between turns, sentences, clauses, and words if a clause is too long on its own.
Within a word it is cut only if the word does not fit the model. Nothing is left out or said twice.

Of all the ways to cut, the best one by these rules is taken; a rule decides if those before it do
not:

1. the least time over ``max_seconds``,
2. the least time short of ``min_seconds``,
3. the fewest cuts between words,
4. the fewest cuts between clauses,
5. the fewest turns over ``max_turns``,
6. chunks of middling length that begin with S1 and end with a turn; either counts as much as a
   length of ``min_seconds`` or ``max_seconds`` instead of the middle.

What upstream advises: 5 to 20 seconds, a text that begins with ``[S1]``, tags that alternate, and
the tag of the second to last speaker at the end, which makes the end of the audio better.
"""

import math
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from operator import add, attrgetter

from dia_ort.checks import check_number, check_whole
from dia_ort.errors import InvalidConfigError
from dia_ort.script import NON_VERBALS, SPEAKERS, Pause, Script, Turn

CHARACTERS_PER_SECOND = 15
"""English conversation: some 150 words a minute, of 6 characters with the space after them."""

NON_VERBAL_SECONDS = 1
"""A laugh or a sigh, whatever its name's length."""

_LONGEST = 3600.0
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """How long the chunks may be.

    Seconds are estimates: a second for :data:`CHARACTERS_PER_SECOND` characters, and
    :data:`NON_VERBAL_SECONDS` for a non-verbal.

    Attributes:
        min_seconds: What is shorter is joined with its neighbours, where no pause stands between.
        max_seconds: What is longer is cut; a single word is not. More than ``min_seconds``, and
            an hour at the most.
        max_turns: The most turns of a chunk, unless it would be too short.
        max_text: The most text that the model takes, in bytes (a speaker tag counts as one); at
            least 8. 1024 is Dia-1.6B's. A voice's transcript takes from it.
        closing_tag: Whether the text ends with the tag of the other speaker than the last one.

    Raises:
        InvalidConfigError: A limit has the wrong type or is out of its range.
    """

    min_seconds: float = 5.0
    max_seconds: float = 20.0
    max_turns: int = 4
    max_text: int = 1024
    closing_tag: bool = True

    def __post_init__(self) -> None:
        check_number("min_seconds", self.min_seconds, 0, _LONGEST)
        check_number("max_seconds", self.max_seconds, 0, _LONGEST)
        if self.min_seconds >= self.max_seconds:
            raise InvalidConfigError(
                f"chunks of {self.min_seconds:g} to {self.max_seconds:g} seconds: the first is to "
                "be less than the second"
            )
        check_whole("max_turns", self.max_turns, 1, _MOST)
        check_whole("max_text", self.max_text, _OVERHEAD + 4, _MOST)  # a character: up to 4 bytes


_OVERHEAD = 4
"""The bytes of a tag, a space, and at the end a space and the closing tag."""


@dataclass(frozen=True, slots=True)
class Span:
    """Some of a turn's text: ``script.items[turn].text[start:end]``."""

    turn: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """What the model is given at a time.

    Attributes:
        index: From 0.
        text: The text with its tags.
        speakers: Who speaks, in order of appearance.
        start: When it begins, in seconds.
        seconds: How long it lasts without the pause.
        pause_after: The silence after it, in seconds.
        spans: What it covers of the script: a span of each turn, in order.
    """

    index: int
    text: str
    speakers: tuple[str, ...]
    start: float
    seconds: float
    pause_after: float
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks of a script. Times are estimates.

    Together their spans cover each turn's text once and in order; between two spans of a turn
    there is the space between two words, or nothing if a word was cut.
    """

    chunks: tuple[PlannedChunk, ...]

    @property
    def seconds(self) -> float:
        """How long all of it lasts, with the pauses."""
        last = self.chunks[-1]
        return last.start + last.seconds + last.pause_after


def plan(script: Script, limits: PlanLimits | None = None) -> Plan:
    """Cut a script into chunks."""
    limits = limits or PlanLimits()
    chunks: list[PlannedChunk] = []
    start = 0.0
    for units, pause in _passages(script, limits):
        passage = list(_partition(units, limits))
        for number, chunk in enumerate(passage, 1):
            after = pause if number == len(passage) else 0.0
            chunks.append(_make_chunk(len(chunks), start, chunk, after, limits))
            start += chunks[-1].seconds + after
    return Plan(tuple(chunks))


_CROWD = 64
"""So many units that fit one chunk are a crowd; in prose there is none."""

_THINNED = 4
"""Of a crowd's ends, one in so many is tried."""

_Cost = tuple[float, ...]
_NON_VERBAL = re.compile("|".join(map(re.escape, NON_VERBALS)))
_CLAUSE = re.compile(r"\S.*?(?:[,;:][\"')\]]*(?= )| -(?= )|$)", re.DOTALL)
_WORD = re.compile(rf"(?:{_NON_VERBAL.pattern}|\S)+")


class _Boundary(IntEnum):
    """What ends somewhere, from the best place for a cut to the worst."""

    TURN = 0
    SENTENCE = 1
    CLAUSE = 2
    WORD = 3


_CUTS = ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1))
"""For each boundary, whether a cut there is between words, between clauses, and within a turn."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A piece of a turn that is not cut.

    Attributes:
        span: Where it is.
        speaker: Who speaks.
        text: The words, and a space unless a word goes on.
        size: The bytes of the text.
        length: The time to say it, in characters.
        ends: What ends with it.
    """

    span: Span
    speaker: str
    text: str
    size: int
    length: int
    ends: _Boundary


def _passages(script: Script, limits: PlanLimits) -> Iterator[tuple[list[_Unit], float]]:
    """What is spoken between pauses, and the pause after it."""
    units: list[_Unit] = []
    pause: float | None = None
    for index, item in enumerate(script.items):
        if isinstance(item, Pause):
            pause = (pause or 0.0) + item.seconds
            continue
        if pause is not None:
            yield units, pause
            units, pause = [], None
        units += _units(index, item, limits)
    yield units, pause or 0.0


def _units(index: int, turn: Turn, limits: PlanLimits) -> Iterator[_Unit]:
    """The clauses of a turn; the words of those that are too long for a chunk."""
    text, sentence_end = turn.text, -1
    for sentence in turn.sentences:
        sentence_start, sentence_end = sentence_end + 1, sentence_end + 1 + len(sentence)
        for clause in _CLAUSE.finditer(text, sentence_start, sentence_end):
            ends = {clause.end(): _Boundary.CLAUSE, sentence_end: _Boundary.SENTENCE}
            ends[len(text)] = _Boundary.TURN
            for start, end in _split_clause(text, *clause.span(), limits):
                words = text[start:end] + ("" if text[end : end + 1].strip() else " ")
                yield _Unit(
                    span=Span(index, start, end),
                    speaker=turn.speaker,
                    text=words,
                    size=len(words.encode()),
                    length=speech_length(words),
                    ends=ends.get(end, _Boundary.WORD),
                )


def _split_clause(text: str, start: int, end: int, limits: PlanLimits) -> Iterator[tuple[int, int]]:
    """A clause as it is if it fits, else its words; a word that does not fit is cut anywhere."""
    room = limits.max_text - _tags_size(1, limits)
    length = speech_length(text[start:end])
    if length < _characters(limits.max_seconds) and len(text[start:end].encode()) <= room:
        yield start, end
        return
    for word in _WORD.finditer(text, start, end):
        if len(word[0].encode()) <= room:
            yield word.span()
        else:
            yield from _split_word(text, *word.span(), room)


def _split_word(text: str, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """Pieces of a word that fit; a non-verbal in it may hold a space."""
    for part in re.compile(r"\S+").finditer(text, start, end):
        begin = part.start()
        while begin < part.end():
            piece = text[begin : min(part.end(), begin + room)].encode()[:room]
            stop = begin + len(piece.decode(errors="ignore"))  # no half characters
            yield begin, stop
            begin = stop


def speech_seconds(text: str) -> float:
    """An estimate of how long it takes to say a text, without tags."""
    return speech_length(text) / CHARACTERS_PER_SECOND


def speech_length(text: str) -> int:
    """An estimate of how long it takes to say a text, without tags, in characters."""
    words, sounds = _NON_VERBAL.subn("", text)
    return len(words) + sounds * NON_VERBAL_SECONDS * CHARACTERS_PER_SECOND


def _characters(seconds: float) -> int:
    return math.floor(seconds * CHARACTERS_PER_SECOND)


def _tags_size(turns: int, limits: PlanLimits) -> int:
    """The bytes of a chunk's tags: each with a space after it, the closing one with one before."""
    return 2 * (turns + limits.closing_tag)


def _partition(units: Sequence[_Unit], limits: PlanLimits) -> list[Sequence[_Unit]]:
    """The chunks of least cost, found by dynamic programming over the end of the last chunk."""
    best: dict[int, tuple[_Cost, int]] = {0: ((0,) * 6, 0)}
    for end in _ends(units, limits):
        best[end] = min(
            (tuple(map(add, best[start][0], cost)), start)
            for start, cost in _last_chunks(units, end, best, limits)
        )
    chunks = []
    end = len(units)
    while end:
        start = best[end][1]
        chunks.append(units[start:end])
        end = start
    return chunks[::-1]


def _ends(units: Sequence[_Unit], limits: PlanLimits) -> Iterator[int]:
    """Where chunks may end: after every unit, but in a crowd of tiny ones after some.

    All ends are tried with all starts before them, so thousands of them would take seconds.
    """
    for start in range(0, len(units), _CROWD):
        some = units[start : start + _CROWD]
        crowded = len(some) == _CROWD and any(_last_chunks(some, _CROWD, {0}, limits))
        step = _THINNED if crowded else 1
        yield from range(start + step, start + len(some) + 1, step)


def _last_chunks(
    units: Sequence[_Unit], end: int, starts: Container[int], limits: PlanLimits
) -> Iterator[tuple[int, _Cost]]:
    """At which of the starts a chunk that ends there can start, and what it costs.

    What lies between two neighbouring ends always fits.
    """
    last = units[end - 1]
    size = len(last.text.rstrip().encode()) - last.size  # no space at the end
    most = _characters(limits.max_seconds)
    length = turns = 0
    speaker = ""
    for start in range(end - 1, -1, -1):
        unit = units[start]
        size += unit.size
        length += unit.length
        turns += unit.speaker != speaker
        speaker = unit.speaker
        fits = length <= most and size + _tags_size(turns, limits) <= limits.max_text
        if start < end - 1 and not fits:
            return
        if start in starts:
            yield start, _cost(speaker, last.ends, length, turns, limits)


def _cost(
    first_speaker: str, ends: _Boundary, length: int, turns: int, limits: PlanLimits
) -> _Cost:
    """What a chunk costs, rule by rule."""
    middle = (limits.min_seconds + limits.max_seconds) / 2
    distance = (length / CHARACTERS_PER_SECOND - middle) / (limits.max_seconds - middle)
    cuts_words, cuts_clauses, cuts_turn = _CUTS[ends]
    return (
        max(0, length - _characters(limits.max_seconds)),
        max(0, _characters(limits.min_seconds) - length),
        cuts_words,
        cuts_clauses,
        max(0, turns - limits.max_turns),
        distance * distance + (first_speaker != SPEAKERS[0]) + cuts_turn,
    )


def _make_chunk(
    index: int, start: float, units: Sequence[_Unit], pause_after: float, limits: PlanLimits
) -> PlannedChunk:
    spans = []
    for turn, group in groupby(units, lambda unit: unit.span.turn):
        of_turn = [unit.span for unit in group]
        spans.append(Span(turn, of_turn[0].start, of_turn[-1].end))
    turns = [
        (speaker, "".join(unit.text for unit in group).rstrip())
        for speaker, group in groupby(units, attrgetter("speaker"))
    ]
    text = " ".join(f"[{speaker}] {words}" for speaker, words in turns)
    if limits.closing_tag:
        text += f" [{_other(units[-1].speaker)}]"
    return PlannedChunk(
        index=index,
        text=text,
        speakers=tuple(dict.fromkeys(speaker for speaker, _ in turns)),
        start=start,
        seconds=sum(unit.length for unit in units) / CHARACTERS_PER_SECOND,
        pause_after=pause_after,
        spans=tuple(spans),
    )


def _other(speaker: str) -> str:
    return next(other for other in SPEAKERS if other != speaker)
