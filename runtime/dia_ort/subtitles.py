"""Subtitles of a narration, as SubRip (``.srt``) and WebVTT (``.vtt``).

A chunk's time is known, and is shared out among its cues by the number of their characters.
"""

import html
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dia_ort.narration import NarratedChunk

_LINE, _LINES = 42, 2  # characters of a line and lines of a cue, as broadcasters have them
_TURN = re.compile(r"\[(S[12])\]([^\[]*(?:\[(?!S[12]\])[^\[]*)*)")


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown at a time.

    Attributes:
        start: In seconds.
        end: In seconds.
        speaker: ``"S1"`` or ``"S2"``.
        text: Up to two lines.
    """

    start: float
    end: float
    speaker: str
    text: str


def make_cues(chunks: Iterable[NarratedChunk]) -> Iterator[Cue]:
    """The cues of chunks, in order; none overlap, and silent chunks have none."""
    end = 0.0
    for chunk in chunks:
        start, end = max(chunk.start, end), max(chunk.end, end)
        texts = [
            (speaker, "\n".join(lines[first : first + _LINES]))
            for speaker, words in _TURN.findall(chunk.text)
            for lines in [textwrap.wrap(words.strip(), _LINE)]
            for first in range(0, len(lines), _LINES)
        ]
        seconds = (end - start) / max(1, sum(len(text) for _, text in texts))
        for speaker, text in texts if seconds else ():
            stop = min(start + seconds * len(text), end)
            yield Cue(start, stop, speaker, text)
            start = stop


def to_srt(cues: Iterable[Cue], names: Mapping[str, str] | None = None) -> str:
    """SubRip.

    Args:
        cues: In order.
        names: Of the speakers, such as ``{"S1": "Ann"}``; they stand before what is said.
    """
    blocks = []
    for number, cue in enumerate(cues, 1):
        name = (names or {}).get(cue.speaker)
        text = f"{name}: {cue.text}" if name else cue.text
        times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
        blocks.append(f"{number}\n{times}\n{text.replace('-->', '->')}\n\n")
    return "".join(blocks)


def to_vtt(cues: Iterable[Cue], names: Mapping[str, str] | None = None) -> str:
    """WebVTT; names are voice tags. Parameters as in :func:`to_srt`."""
    blocks = ["WEBVTT\n\n"]
    for cue in cues:
        text = html.escape(cue.text, quote=False)
        name = (names or {}).get(cue.speaker)
        voice = f"<v {html.escape(name, quote=False)}>" if name else ""
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{voice}{text}\n\n")
    return "".join(blocks)


def _clock(seconds: float, point: str) -> str:
    minutes, thousandths = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, thousandths = divmod(thousandths, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"
