"""The voice that the chunks of a narration go on from, and the room that it takes from them.

It begins as the given voice, or as none. A speaker who is not in it yet (as the tags of its
transcript tell) is added with the first good chunk in which they speak: its codes, as they were
generated, and its text. So a narration's first good chunk becomes the voice of the rest.
"""

import dataclasses
import math
import re

import numpy as np
from numpy.typing import NDArray

from dia_ort.config import GenerationConfig
from dia_ort.errors import InvalidConfigError
from dia_ort.generation import check_max_tokens
from dia_ort.manifest import Manifest
from dia_ort.plan import Plan, PlanLimits, PlannedChunk, plan, speech_seconds
from dia_ort.script import SPEAKERS, Script, Turn, fix_tags, parse_script
from dia_ort.text import encode_text
from dia_ort.voice import Voice

SPEAKS = re.compile(r"\[(S[12])\](?=\s*[^\s\[])")
"""A tag that something is said after."""

_CLOSING_TAG = re.compile(r" \[S[12]\]$")

_LONGER = 1.25
"""How much longer than its estimate a chunk may be and still have room in the model."""

_LEAST_SECONDS, _LEAST_BYTES = 2, 64
_ANY_SIZE = 1 << 30


def speakers_of(voice: Voice | None) -> set[str]:
    """Who is in a voice, as its transcript tells; without tags: both, as nobody knows."""
    if voice is None:
        return set()
    return set(SPEAKS.findall(voice.transcript)) or set(SPEAKERS)


class Room:
    """What a model has room for: the decoder's steps and the text's bytes, the voice's included.

    Args:
        manifest: The model's.
        config: ``max_tokens`` of it.

    Raises:
        InvalidConfigError: ``max_tokens`` is beyond the model, or leaves no room for speech.
    """

    def __init__(self, manifest: Manifest, config: GenerationConfig) -> None:
        self._codec = manifest.codec_id
        self._model = manifest.model
        self._steps = manifest.model.max_prompt
        self._overhead = manifest.model.max_steps - self._steps
        self._max_tokens = check_max_tokens(config.max_tokens, manifest.model, 0)
        self._text = manifest.model.max_text
        self._frame_rate = manifest.codec.sample_rate / manifest.codec.hop_length

    def plan(
        self,
        script: str | Script,
        limits: PlanLimits,
        voice: Voice | None,
        *,
        goes_on: bool = False,
    ) -> Plan:
        """Cut a script into chunks that fit, beside the voice that they add to.

        A text that has tags, no pauses, and fits one chunk, stays as it stands, but for tags that
        only people can read.

        Args:
            script: A text as :func:`dia_ort.script.parse_script` reads it, or what it made of it.
            limits: Of the chunks; they are lowered as :meth:`limits` does.
            voice: To go on in.
            goes_on: Whether other scripts follow, in the same voices.

        Raises:
            InvalidTextError: The script cannot be read.
            InvalidConfigError: As in :meth:`limits`.
        """
        parsed = script if isinstance(script, Script) else parse_script(script)
        turns = [item for item in parsed.items if isinstance(item, Turn)]
        speakers = {turn.speaker for turn in turns}
        shares = 1 if speakers <= speakers_of(voice) else 2  # the voice is to have one
        alone = self.limits(limits, voice, shares=shares if goes_on else 1)
        seconds = speech_seconds(" ".join(turn.text for turn in turns))
        whole = plan(parsed, alone) if seconds <= alone.max_seconds else None
        if whole is None or len(whole.chunks) > 1:
            return plan(parsed, self.limits(limits, voice, shares=shares))
        has_pauses = len(turns) < len(parsed.items)
        text = "" if isinstance(script, Script) else fix_tags(script)
        if SPEAKS.match(text) and not has_pauses:
            return Plan((dataclasses.replace(whole.chunks[0], text=text),))
        return whole

    def check(self, voice: Voice) -> None:
        """Refuse a voice that nothing can be spoken with.

        Raises:
            InvalidAudioError: It was made with another codec.
            InvalidTextError: The model cannot read its transcript.
            InvalidConfigError: It leaves no room for speech.
        """
        voice.check_codec(self._codec)
        if voice.transcript.strip():
            vocab_size = self._model.text_vocab_size
            encode_text(voice.transcript, _ANY_SIZE, vocab_size, name="transcript")
        self.limits(PlanLimits(), voice, shares=1)

    def limits(self, limits: PlanLimits, voice: Voice | None, *, shares: int) -> PlanLimits:
        """Limits lowered so that so many chunks fit beside the voice, into ``max_tokens``.

        Chunks of less than 2 s would only be more of them: ``max_tokens`` then cuts their speech.

        Raises:
            InvalidConfigError: The voice leaves less than 2 s or 64 bytes for each, or
                ``max_tokens`` leaves no step for speech after it.
        """
        seconds = self._seconds(self._steps, voice) / shares
        text = (self._text - _text_size(voice)) // shares
        if seconds < _LEAST_SECONDS or text < _LEAST_BYTES:
            raise InvalidConfigError(
                f"the voice has {_frames(voice) / self._frame_rate:.1f} s and a transcript of "
                f"{_text_size(voice)} bytes, which leaves too little room for speech: cut both to "
                "5 to 10 s"
            )
        check_max_tokens(self._max_tokens, self._model, _frames(voice))
        asked = self._seconds(self._max_tokens - self._overhead, voice) / shares
        longest = min(limits.max_seconds, seconds, max(asked, _LEAST_SECONDS))
        return dataclasses.replace(
            limits,
            max_seconds=longest,
            min_seconds=min(limits.min_seconds, longest / 2),
            max_text=min(limits.max_text, text),
        )

    def _seconds(self, steps: int, voice: Voice | None) -> float:
        """How long what is spoken in so many steps may be by estimate, the voice's among them."""
        return (steps - _frames(voice)) / self._frame_rate / _LONGER

    def steps(self, voice: Voice | None, seconds: float) -> int:
        """The steps that so much speech takes after a voice, or ``max_tokens`` if that is less."""
        frames = _frames(voice) + math.ceil(seconds * self._frame_rate) + 1
        return min(frames + self._overhead, self._max_tokens)

    def add(
        self, voice: Voice | None, chunk: PlannedChunk, codes: NDArray[np.integer], plan: Plan
    ) -> Voice | None:
        """The voice with a chunk's codes, (frames, channels), if all others still fit beside it."""
        transcript, codec = _CLOSING_TAG.sub("", chunk.text), self._codec
        if voice is not None:
            codes = np.concatenate([voice.codes, codes])
            transcript, codec = voice.script(transcript), voice.codec or codec
        longer = Voice(codes, transcript, codec, "the first chunks of a narration")
        return longer if self._holds(longer, plan) else voice

    def _holds(self, voice: Voice, plan: Plan) -> bool:
        steps = self.steps(voice, _LONGER * max(chunk.seconds for chunk in plan.chunks))
        text = max(encode_text(chunk.text, self._text).size for chunk in plan.chunks)
        return steps < self._max_tokens and _text_size(voice) + text <= self._text


def _frames(voice: Voice | None) -> int:
    return 0 if voice is None else len(voice.codes)


def _text_size(voice: Voice | None) -> int:
    """The bytes that a voice takes from the text, with the space after them."""
    if voice is None or not voice.transcript.strip():
        return 0
    return encode_text(voice.script(""), _ANY_SIZE).size
