"""What is asked of the server, and when."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WORDS = (
    *("hello", "yes", "no", "this", "is", "dia", "test", "good", "morning", "thank", "you", "my"),
    *("welcome", "red", "green", "blue", "go", "stop", "name", "world", "open", "zero", "one"),
    *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
)
FORMATS = ("pcm", "pcm", "sse", "mp3", "opus", "aac", "flac", "wav")
"""``sse`` is pcm in events; it and pcm come more often, since they can be compared bit by bit."""
MOST_PIECES = 3

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much, how fast, and of what.

    Attributes:
        requests: In all.
        rate: Of arrivals, a second, on average; infinity: all at the start.
        concurrency: The most that are open at once; who comes then waits outside.
        abort: The part of the clients that leave in mid-stream.
        malformed: The part of the requests that are nonsense.
        texts: Different texts.
        most_words: Of a text.
        seeds: Different seeds.
        seed: Of all chance here.
    """

    requests: int = 1000
    rate: float = 20.0
    concurrency: int = 64
    abort: float = 0.2
    malformed: float = 0.05
    texts: int = 12
    most_words: int = 40
    seeds: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Nonsense:
    """A request that is to be refused.

    Attributes:
        body: What is sent.
        headers: Beside those of HTTP.
    """

    body: bytes
    headers: Mapping[str, str]


NONSENSE = {
    "no JSON": Nonsense(b'{"input": ', _JSON),
    "no UTF-8": Nonsense(b'{"input": "\xff"}', _JSON),
    "nothing": Nonsense(b"", _JSON),
    "a list": Nonsense(b"[1, 2]", _JSON),
    "no input": Nonsense(b"{}", _JSON),
    "empty input": Nonsense(b'{"input": ""}', _JSON),
    "unknown field": Nonsense(b'{"input": "[S1] yes.", "loudness": 3}', _JSON),
    "unknown format": Nonsense(b'{"input": "[S1] yes.", "response_format": "mid"}', _JSON),
    "speed": Nonsense(b'{"input": "[S1] yes.", "speed": 1e9}', _JSON),
    "voice": Nonsense(b'{"input": "[S1] yes.", "voice": "../../etc/passwd"}', _JSON),
    "model": Nonsense(b'{"input": "[S1] yes.", "model": "other"}', _JSON),
    "too long": Nonsense(b'{"input": "' + b"yes " * 500_000 + b'"}', _JSON),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One request.

    Attributes:
        at: When it arrives, in seconds from the start.
        text: To be spoken.
        audio_format: Of :data:`FORMATS`.
        seed: Of the speech.
        leave_after: Pieces of the answer after which the client leaves; None: it stays.
        nonsense: The name of what is sent instead, if anything.
    """

    at: float
    text: str
    audio_format: str
    seed: int
    leave_after: int | None = None
    nonsense: str | None = None


def make_workload(load: Load) -> list[Planned]:
    """All requests, in the order of their arrival."""
    chance = random.Random(load.seed)
    texts = [_text(chance, load.most_words) for _ in range(load.texts)]
    seeds = [chance.randrange(2**32) for _ in range(load.seeds)]
    at, planned = 0.0, []
    for _ in range(load.requests):
        at += chance.expovariate(1) / load.rate
        kind = chance.random()
        leaves = load.malformed <= kind < load.malformed + load.abort
        planned.append(
            Planned(
                at,
                chance.choice(texts),
                chance.choice(FORMATS),
                chance.choice(seeds),
                chance.randint(1, MOST_PIECES) if leaves else None,
                chance.choice(list(NONSENSE)) if kind < load.malformed else None,
            )
        )
    return planned


def speech_body(text: str, audio_format: str, seed: int) -> dict[str, Any]:
    """The JSON of a request that makes sense."""
    body = {"input": text, "seed": seed, "response_format": audio_format}
    if audio_format == "sse":
        body |= {"response_format": "pcm", "stream_format": "sse"}
    return body


def _text(chance: random.Random, most_words: int) -> str:
    """Turns of two speakers; short ones come as often as long ones."""
    words = [chance.choice(WORDS) for _ in range(round(most_words ** chance.random()))]
    turns, speaker = [], 1
    while words:
        length = chance.randint(2, 8)
        turns.append(f"[S{speaker}] {' '.join(words[:length])}.")
        words, speaker = words[length:], 3 - speaker
    return " ".join(turns)
