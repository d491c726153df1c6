"""From what people write to a script: turns of two speakers, and pauses.

A script is written in one of three forms:

* **Tags**, Dia's own: ``[S1] Hello. [S2] Hi!`` Text before the first tag is S1's.
* **Dialogue**: lines that begin with a name and a colon, ``Ann: Hello.`` or ``**Ann:** Hello.``
  A name is one to three capitalised words of up to 40 characters in all, or one that the caller
  maps to a speaker; white space or the end of the line follows the colon, so neither ``10:30`` nor
  a URL is one. A text is a dialogue if two or more of its lines begin so, or one with a name that
  is mapped. A turn lasts to the next such line or blank line, and each paragraph must begin with
  one: a text that does not say who speaks is refused. Text that begins with a tag is no dialogue.
* **Plain text**: all of it is S1's.

In all of them ``[pause 0.8s]``, ``[pause 800ms]`` and ``[pause 1]`` are pauses, of at most 10
seconds, those in a row together. A blank line ends a sentence.

What the model has hardly seen is replaced by what it knows (typographic quotes, dashes and white
space, characters that cannot be seen), and every replacement is reported.
"""

import difflib
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import fsum

from dia_ort.errors import InvalidConfigError, InvalidTextError
from dia_ort.text import SPEAKER_TAGS, has_speaker_tag

SPEAKERS = tuple(tag.strip("[]") for tag in SPEAKER_TAGS)

MAX_PAUSE = 10.0  # seconds

WORD = re.compile(r"[^\W_]")
"""A letter or digit of any language: signs and emoji alone are nothing to say."""

_NO_WORDS = "the script has no words: write something like '[S1] Hello. [S2] Hi!'"

NON_VERBALS = tuple(
    f"({sound})"
    for sound in (
        "laughs", "clears throat", "sighs", "gasps", "coughs", "singing", "sings", "mumbles",
        "beep", "groans", "sniffs", "claps", "screams", "inhales", "exhales", "applause", "burps",
        "humming", "sneezes", "chuckle", "whistles",
    )
)  # fmt: skip
"""The sounds that Dia was trained to make, as nari-labs' README lists them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says until another one, or a pause.

    Attributes:
        speaker: ``"S1"`` or ``"S2"``.
        sentences: Each without white space around it; at least one.
    """

    speaker: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, a space between them."""
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Change:
    """A replacement that was made in the text.

    Attributes:
        kind: What was replaced, such as ``"quote"``.
        before: As it was written.
        after: As it is now; empty if it was left out.
        count: How often.
    """

    kind: str
    before: str
    after: str
    count: int


@dataclass(frozen=True, slots=True)
class Script:
    """What is to be spoken, in order.

    Attributes:
        items: Turns and pauses; a turn comes first.
        changes: What was replaced in the text.
        warnings: What may not come out as it was meant.

    Raises:
        InvalidTextError: There are no turns, a pause comes first, or pauses are too long.
    """

    items: tuple[Turn | Pause, ...]
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(isinstance(item, Turn) for item in self.items):
            raise InvalidTextError(_NO_WORDS)
        if isinstance(self.items[0], Pause):
            raise InvalidTextError(
                "the script begins with a pause, and a pause comes after speech: remove it"
            )
        for kind, items in groupby(self.items, type):
            if kind is Pause:
                _check_silence(fsum(item.seconds for item in items if isinstance(item, Pause)))


def _check_silence(seconds: float) -> None:
    """Refuse pauses in a row that are too long together."""
    if seconds > MAX_PAUSE:
        raise InvalidTextError(
            f"the script has pauses of {seconds:g} seconds in a row, and {MAX_PAUSE:g} are the "
            "most: make them shorter, or put words between them"
        )


def parse_script(text: str, speakers: Mapping[str, str] | None = None) -> Script:
    """Parse a script in any of the three forms, and normalise its text.

    Args:
        text: The script.
        speakers: Whose turns the names of a dialogue stand for, such as ``{"Ann": "S1"}``; upper
            and lower case are the same. The first two names need none: they take S1 and S2, or
            what the other one leaves. ``S1`` and ``S2`` stand for themselves.

    Returns:
        The script, with what was changed and what may be wrong.

    Raises:
        InvalidTextError: The script has no letter or digit of any language, mixes tags and names,
            has more names than speakers, does not say who speaks, begins with a pause, has pauses
            that are too long, or a pause or tag that cannot be read.
        InvalidConfigError: ``speakers`` has something else than S1 and S2, or an empty name.
    """
    if not isinstance(text, str):
        raise InvalidTextError(
            f"the script is {type(text).__name__}, not str: decode bytes, and give one script"
        )
    report = _Report()
    tagged = _tag_speakers(_normalise(text, report), _check_speakers(speakers or {}), report)
    items = tuple(_parse_tagged(tagged, report))
    if not any(isinstance(item, Turn) and WORD.search(item.text) for item in items):
        raise InvalidTextError(_NO_WORDS)
    _warn_of_asides(items, report)
    changes = tuple(Change(*key, count) for key, count in report.changes.items())
    return Script(items, changes, tuple(report.warnings))


class _Report:
    """Collects what parsing changes and what it finds odd."""

    def __init__(self) -> None:
        self.changes = Counter[tuple[str, str, str]]()
        self.warnings: dict[str, None] = {}  # a set that keeps the order

    def change(self, kind: str, before: str, after: str) -> str:
        if before != after:
            self.changes[kind, before, after] += 1
        return after

    def replace(
        self, kind: str, pattern: re.Pattern[str], after: Callable[[str], str], text: str
    ) -> str:
        return pattern.sub(lambda match: self.change(kind, match[0], after(match[0])), text)

    def warn(self, message: str) -> None:
        self.warnings[message] = None


_LINE_END = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_WORD = re.compile(r"\S+")
_ODD_SPACE = re.compile(r"[^\S\n ]")
_EXTRA_SPACE = re.compile(r"(?<= ) +|^ +| +$", re.MULTILINE)
_DASH = re.compile(  # two hyphens as well, unless they begin an --option
    r" *(?P<dash>[\u2014\u2015]+|(?<=[^\s-])-{2,3}(?!-)|(?<!\S)-{2,3}(?![\w-])) *"
)
_CLOSING = re.compile(r"[\"')\].,;:!?]*(?=\s|$)")
_CHARACTERS = {
    "quote": {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u00b4\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    },
    "hyphen": dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    "ellipsis": {"\u2026": "..."},
}


def _normalise(text: str, report: _Report) -> str:
    """Characters that the model knows, single spaces, and none around a line."""
    text = report.replace("line end", _LINE_END, lambda _: "\n", text)
    for char in sorted(set(text)):
        category = unicodedata.category(char)
        if category == "Cs":
            raise InvalidTextError(f"the script has the lone surrogate {char!r}: read it as UTF-8")
        if category in {"Cc", "Cf"} and not char.isspace():
            pattern = re.compile(re.escape(char))
            text = report.replace("invisible character", pattern, lambda _: "", text)
    text = report.replace("composition", _WORD, partial(unicodedata.normalize, "NFC"), text)
    for kind, table in _CHARACTERS.items():
        text = report.replace(kind, re.compile(f"[{''.join(table)}]"), table.__getitem__, text)
    text = report.replace("white space", _ODD_SPACE, lambda _: " ", text)
    text = report.replace("extra space", _EXTRA_SPACE, lambda _: "", text)
    text = _DASH.sub(lambda match: _replace_dash(match, report), text)
    return report.replace("extra space", _EXTRA_SPACE, lambda _: "", text)


def _replace_dash(match: re.Match[str], report: _Report) -> str:
    """A hyphen, with the spaces that stand for a dash between words."""
    text, start = match.string, match.start()
    begins_line = start == 0 or text[start - 1] == "\n"
    ends_words = _CLOSING.match(text, match.end())
    hyphen = report.change("dash", match["dash"], "-")
    return f"{'' if begins_line else ' '}{hyphen}{'' if ends_words else ' '}"


_PAUSE = r"(?i:\[ ?pause\b[^\[\]]{0,40}\])"
_TAG = re.compile(r"\[\s*[Ss]\s*[0-9]+\s*\]")
_SPEAKER_LINE = re.compile(
    r"^\**(?P<name>[^\s*:()\[\]][^*:()\[\]\n]{0,39}?)[* ]{0,4}"
    r"(?P<aside>\([^()\n]*\))?[* ]{0,4}:\**(?= |$)",
    re.MULTILINE,
)
_PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\n]+)*")


def _check_speakers(speakers: Mapping[str, str]) -> dict[str, str]:
    """The speakers by their names' keys."""
    for name, speaker in speakers.items():
        if not name.strip() or speaker not in SPEAKERS:
            raise InvalidConfigError(
                f"the name {name!r} is mapped to {speaker!r}: map a name to S1 or S2"
            )
    return {_key(_normalise(name, _Report())): speaker for name, speaker in speakers.items()}


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _tag_speakers(text: str, given: dict[str, str], report: _Report) -> str:
    """Any of the three forms, as text with tags."""
    text = report.replace("speaker tag", _TAG, _read_tag, text)
    known = {speaker.casefold(): speaker for speaker in SPEAKERS} | given
    lines = list(_SPEAKER_LINE.finditer(text))
    named = [line for line in lines if _key(line["name"]) in known or _is_name(line["name"])]
    keys = {_key(line["name"]) for line in named}
    for name in sorted(given.keys() - keys):
        report.warn(f"no line begins with {name!r} and a colon, so its speaker is not used")
    is_mapped = not keys.isdisjoint(known)
    is_tagged = has_speaker_tag(text)
    if is_tagged and named and (is_mapped or not _TAG.match(text)):
        raise InvalidTextError(
            f"the script has speaker tags, and a line that begins with a name ({named[0][0]!r}): "
            "keep to one of them; if it is no name, begin with [S1], and map no speaker to it"
        )
    unread = named
    if is_mapped or (len(named) > 1 and not is_tagged):
        _refuse_unnamed(text, named)
        text = _replace_names(text, _assign(named, known), report)
        names = set(named)
        unread = [line for line in lines if line not in names]
    for line in unread:
        name = line["name"]
        report.warn(
            f"{line[0]!r} is read aloud; if it names a speaker, write S1 or S2 instead (in "
            f'commands --speaker "{name}=S1" does it, in Python parse_script(text, '
            f"{{{name!r}: 'S1'}}))"
        )
    return text


def fix_tags(text: str, name: str = "script") -> str:
    """A text with its speaker tags as the model wants them; it would say ``[s1]`` and ``[S 1]``.

    Args:
        text: Is left as it stands but for that.
        name: What errors call it.

    Raises:
        InvalidTextError: It has the tag of a third speaker.
    """
    return _TAG.sub(lambda match: _read_tag(match[0], name), text)


def find_marks(text: str) -> list[str]:
    """What a text has that :func:`parse_script` reads and the model would say, sorted.

    These are pauses, tags like ``[s1]`` and a byte order mark.
    """
    marks = {"\ufeff"} if text.startswith("\ufeff") else set()
    marks.update(re.findall(_PAUSE, text), _TAG.findall(text))
    return sorted(marks - SPEAKER_TAGS.keys())


def _read_tag(tag: str, name: str = "script") -> str:
    """A tag as the model wants it."""
    read = f"[S{''.join(filter(str.isdecimal, tag))}]"
    if read not in SPEAKER_TAGS:
        known = " and ".join(SPEAKER_TAGS)
        raise InvalidTextError(
            f"the {name} has the tag {tag}, and Dia knows {known} alone: give one of them its words"
        )
    return read


def _is_name(name: str) -> bool:
    """Whether it is one to three words that begin as names do."""
    words = name.split()
    return (
        len(words) <= 3
        and name[0].isalpha()
        and all(word[0].isalnum() and not word[0].islower() for word in words)
        and all(char.isalnum() or char in " .'-" for char in name)
    )


def _refuse_unnamed(text: str, named: list[re.Match[str]]) -> None:
    """Refuse a dialogue with a paragraph that has no speaker."""
    starts = {line.start() for line in named}
    for paragraph in _PARAGRAPH.finditer(text):
        words = re.sub(rf"^(?:{_PAUSE}\s*)+", "", paragraph[0])
        if words and paragraph.end() - len(words) not in starts:
            raise InvalidTextError(
                f"the paragraph {_shorten(words)!r} names no speaker, and a dialogue (a line "
                f"begins with {named[0][0]!r}) names one in each: begin it with a name and a "
                "colon, or the script with [S1] if there are no names at all"
            )


def _assign(named: list[re.Match[str]], known: dict[str, str]) -> dict[str, str]:
    """The speaker of each name, by the name's key."""
    names = {_key(line["name"]): line["name"] for line in reversed(named)}  # as first written
    first_two = list(dict.fromkeys(_key(line["name"]) for line in named))[:2]
    free = [speaker for speaker in SPEAKERS if speaker not in map(known.get, first_two)]
    speakers = known | {key: known.get(key) or free.pop(0) for key in first_two}
    for key, name in names.items():
        if key not in speakers:
            others = " and ".join(repr(names[other]) for other in first_two)
            raise InvalidTextError(
                f"the script has the names {others} and {name!r}, and Dia has two speakers: write "
                f'S1 or S2 instead of the third (in commands --speaker "{name}=S1" does it, in '
                f"Python parse_script(text, {{{name!r}: 'S1'}})), or put it into the line before "
                "if it is no name"
            )
    return speakers


def _replace_names(text: str, speakers: dict[str, str], report: _Report) -> str:
    """Tags instead of names; what stands in parentheses after a name is kept."""

    def replace(line: re.Match[str]) -> str:
        if _key(line["name"]) not in speakers:
            return line[0]
        tag = f"[{speakers[_key(line['name'])]}]"
        after = f"{tag} {line['aside']}" if line["aside"] else tag
        return report.change("speaker name", line[0], after)

    return _SPEAKER_LINE.sub(replace, text)


_MARK = re.compile(rf"(\[S[12]\]|{_PAUSE})")
_BEGINNING = re.compile(rf"(?:\s|{_TAG.pattern}|{_PAUSE})*")
_PAUSE_LENGTH = re.compile(r"\[ ?pause ?([0-9]+(?:\.[0-9]+)?) ?(s|ms|) ?\]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]+[\"')\]]* ")
_ABBREVIATION = re.compile(  # or an initial
    r"(?<!\w)(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Capt|Col|Gen|Lt|Sgt|Rev|vs|e\.g|i\.e|[A-HJ-Z])\. $"
)
_ASIDE = re.compile(r"[(\[][A-Za-z]+(?: [A-Za-z]+){0,2}[)\]]")
_BRACKET = re.compile(r"\[[^\[\]\n]{0,30}\]?")


def _parse_tagged(text: str, report: _Report) -> Iterator[Turn | Pause]:
    first, *rest = _MARK.split(text)
    if first.strip() and has_speaker_tag(text):
        report.warn(f"{_shorten(first)!r} stands before the first tag: S1 speaks it")
    speaker, silent_tag, said = SPEAKERS[0], "", ""
    for mark, words in zip(["", *rest[::2]], [first, *rest[1::2]], strict=True):
        if mark in SPEAKER_TAGS:
            report.change("empty turn", silent_tag, "")
            speaker, silent_tag = mark.strip("[]"), mark
        elif mark:
            yield Pause(_pause_seconds(mark))
            if _is_inside_sentence(said, words):
                report.warn(f"{mark} ends the sentence in which it stands: {_shorten(said)!r}")
        if words.strip():
            yield Turn(speaker, tuple(_sentences(words, report)))
            silent_tag = ""
        said = words
    report.change("empty turn", silent_tag, "")


def _is_inside_sentence(said: str, words: str) -> bool:
    """Whether what is said before a pause goes on after it."""
    before, after = said.rstrip(), words.lstrip()
    if not before or not after or "\n\n" in said[len(before) :] + words[: -len(after)]:
        return False
    end = before.rstrip("\"')]")
    is_closed = before.endswith(")") or end.endswith((".", "!", "?"))
    return not is_closed or (end.endswith("...") and after[0].islower())


def _pause_seconds(mark: str) -> float:
    length = _PAUSE_LENGTH.fullmatch(mark)
    seconds = float(length[1]) / (1000 if length[2].lower() == "ms" else 1) if length else -1
    if not 0 <= seconds <= MAX_PAUSE:
        raise InvalidTextError(
            f"the script has {mark}: write a pause as [pause 0.8s] or [pause 800ms], from 0 to "
            f"{MAX_PAUSE:g} seconds"
        )
    return seconds


def split_pauses(text: str) -> tuple[float, str]:
    """The pauses that a text begins with, in seconds, and what is said after them, with its tags.

    For text that goes on after other speech: a script begins with speech.

    Raises:
        InvalidTextError: A pause cannot be read, or they are too long.
    """
    beginning = _BEGINNING.match(text)
    end = beginning.end() if beginning else 0
    seconds = fsum(_pause_seconds(mark) for mark in re.findall(_PAUSE, text[:end]))
    _check_silence(seconds)
    tags = re.sub(rf"{_PAUSE}\s*", "", text[:end])
    return seconds, tags + text[end:] if WORD.search(text, end) else ""


def _sentences(words: str, report: _Report) -> Iterator[str]:
    for paragraph in _PARAGRAPH.finditer(words.strip()):
        text = report.replace("line break", re.compile("\n"), lambda _: " ", paragraph[0])
        start = 0
        for end in find_sentence_ends(text):
            yield text[start : end - 1]
            start = end
        yield text[start:]


def find_sentence_ends(text: str) -> Iterator[int]:
    """Where sentences begin that follow another one: after its end and a space."""
    start = 0
    for mark in _SENTENCE_END.finditer(text):
        end = mark.end()
        if end == len(text):
            return  # what comes next may show that it is none
        if not (text[end].islower() or _ABBREVIATION.search(text, max(start, end - 8), end)):
            yield end
            start = end


def _warn_of_asides(items: tuple[Turn | Pause, ...], report: _Report) -> None:
    """Warn of what looks like a sound that Dia makes, and is none."""
    text = "\n".join(item.text for item in items if isinstance(item, Turn))
    for aside in dict.fromkeys(_ASIDE.findall(text)):
        if aside not in NON_VERBALS:
            close = difflib.get_close_matches(aside.lower(), NON_VERBALS, n=1, cutoff=0.75)
            hint = f"; do you mean {close[0]}?" if close else ""
            report.warn(f"{aside} is not a non-verbal that Dia knows, and may sound odd{hint}")
    for bracket in _BRACKET.findall(_ASIDE.sub("", text)):
        report.warn(f"{_shorten(bracket)!r} is neither a tag nor a pause, and is read aloud")


def _shorten(text: str) -> str:
    """Its beginning, in one line."""
    return textwrap.shorten(text, 50, placeholder=" ...")
