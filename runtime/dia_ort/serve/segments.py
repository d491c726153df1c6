"""Text that comes in pieces, as a language model writes it, to scripts that can be spoken."""

import re
from math import inf

from dia_ort.plan import CHARACTERS_PER_SECOND, PlanLimits, speech_length
from dia_ort.script import WORD, find_sentence_ends

_TAG = re.compile(r"\[\s*[Ss]\s*[12]\s*\]")
_BREAK = re.compile(r"\n\s*")
_CLAUSE_END = re.compile(r"[.!?,;:]\s+(?=\S)")

_LIMITS = PlanLimits()
_LEAST, _MOST = (
    seconds * CHARACTERS_PER_SECOND for seconds in (_LIMITS.min_seconds, _LIMITS.max_seconds)
)


class Segmenter:
    """Collects text, and cuts it after whole sentences as soon as they are long enough to speak.

    A speaker goes on from one script to the next until a tag names another. What stands after the
    latest end is all that is looked at again when more comes.
    """

    def __init__(self) -> None:
        self._text = ""
        self._speaker = ""  # the latest tag of what was taken
        self._seen = 0  # the latest end, with too little before it
        self._length = 0  # of what stands before that
        self._word: float = inf  # the first one's place, infinity until there is one

    def __len__(self) -> int:
        """The characters that wait."""
        return len(self._text)

    def push(self, text: str) -> None:
        """Add what was written."""
        self._text += text

    def take(self) -> str | None:
        """The next script: the fewest sentences that are long enough; None: there are not yet.

        What goes on for longer than a chunk without such an end is cut after a clause.
        """
        word = self._find_word()
        for end in self._ends():
            self._length, self._seen = self._length_to(end), end
            if self._length >= _LEAST and end > word:
                return self._cut(end)
        if self._length_to(len(self._text)) >= _MOST:
            for clause in _CLAUSE_END.finditer(self._text, self._seen):
                if clause.end() > word and self._length_to(clause.end()) >= _LEAST:
                    return self._cut(clause.end())
        return None

    def take_all(self) -> str | None:
        """All that waits, however short; None: there is nothing to say."""
        end = len(self._text)
        return self._cut(end) if end > self._find_word() else None

    def clear(self) -> None:
        """Forget what waits."""
        self._text, self._seen, self._length, self._word = "", 0, 0, inf

    def _ends(self) -> list[int]:
        """Where sentences, lines and turns end after what was seen."""
        text = self._text[self._seen :]
        breaks = [match.end() for match in _BREAK.finditer(text)]
        turns = [match.start() for match in _TAG.finditer(text) if match.start()]
        return [self._seen + end for end in sorted({*find_sentence_ends(text), *breaks, *turns})]

    def _length_to(self, end: int) -> int:
        """The time to say what comes before, in characters, with single spaces."""
        words = _TAG.sub(" ", self._text[self._seen : end]).split()
        return self._length + (speech_length(" ".join(words)) + 1 if words else 0)

    def _find_word(self) -> float:
        """Where the first word or pause has begun: signs and emoji alone are no script."""
        if self._word == inf:
            text = _TAG.sub(lambda tag: " " * len(tag[0]), self._text[self._seen :])
            word = WORD.search(text)
            self._word = self._seen + word.start() if word else inf
        return self._word

    def _cut(self, end: int) -> str:
        script, rest = self._text[:end].strip(), self._text[end:]
        self.clear()
        self.push(rest)
        if not _TAG.match(script):
            script = f"{self._speaker} {script}".strip()
        self._speaker = [self._speaker, *_TAG.findall(script)][-1]
        return script
