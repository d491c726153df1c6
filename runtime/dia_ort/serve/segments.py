"""Text that comes in pieces, as a language model writes it, to scripts that can be spoken."""

import re

from dia_ort.plan import PlanLimits, speech_seconds
from dia_ort.script import find_sentence_ends
from dia_ort.text import SPEAKER_TAGS

_TAG = re.compile("|".join(map(re.escape, SPEAKER_TAGS)))
_BREAK = re.compile(r"\s*\n\s*")
_CLAUSE_END = re.compile(r"[.!?,;:]\s+(?=\S)")


class Segmenter:
    """Collects text, and cuts it after whole sentences as soon as they are long enough to speak.

    A speaker goes on from one script to the next until a tag names another.
    """

    def __init__(self) -> None:
        self._text = ""
        self._speaker = ""  # the latest tag of what was taken
        self._limits = PlanLimits()

    def __len__(self) -> int:
        """The characters that wait."""
        return len(self._text)

    def push(self, text: str) -> None:
        """Add what was written."""
        self._text += text

    def take(self) -> str | None:
        """The next script: the fewest sentences that are long enough; None: there are not yet.

        What goes on for longer than a chunk without a sentence's end is cut after a clause.
        """
        for end in self._ends():
            if self._seconds(end) >= self._limits.min_seconds:
                return self._cut(end)
        return None

    def take_all(self) -> str | None:
        """All that waits, however short; None: there is nothing to say."""
        return self._cut(len(self._text)) if _TAG.sub("", self._text).strip() else None

    def clear(self) -> None:
        """Forget what waits."""
        self._text = ""

    def _ends(self) -> list[int]:
        """Where sentences, lines and turns end."""
        breaks = [match.end() for match in _BREAK.finditer(self._text)]
        turns = [match.start() for match in _TAG.finditer(self._text) if match.start()]
        ends = sorted({*find_sentence_ends(self._text), *breaks, *turns})
        if not ends and self._seconds(len(self._text)) >= self._limits.max_seconds:
            ends = [match.end() for match in _CLAUSE_END.finditer(self._text)]
        return ends

    def _seconds(self, end: int) -> float:
        """The time to say what comes before."""
        return speech_seconds(_TAG.sub("", self._text[:end]).strip())

    def _cut(self, end: int) -> str:
        script, self._text = self._text[:end].strip(), self._text[end:]
        if not _TAG.match(script):
            script = f"{self._speaker} {script}".strip()
        self._speaker = [self._speaker, *_TAG.findall(script)][-1]
        return script
