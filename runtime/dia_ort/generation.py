"""The autoregressive loop, as a state machine per utterance.

An :class:`Utterance` knows one request's grid of tokens, its rules and its random numbers, and
nothing of graphs. :func:`run_batch` feeds any number of them through the decoder, a few at a time.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import FinishReason
from dia_ort.config import GenerationConfig
from dia_ort.delay import FREE, apply_delay, revert_delay
from dia_ort.errors import InvalidConfigError
from dia_ort.graphs import ModelSpec
from dia_ort.sampling import SamplingParams, sample


class Utterance:
    """One request's state, step by step, by upstream's rules.

    Args:
        model: Tokens, delays and limits.
        config: The request's settings.
        prompt: A voice's codes, (frames, channels); none: shape (0, channels).

    Attributes:
        config: As given.
        seed: That the codes can be made again with.
        position: The latest step whose tokens are all known.
        finish_reason: How it ended; None while it has not.

    Raises:
        InvalidConfigError: ``max_tokens`` is beyond the model, or leaves no room for speech.
    """

    def __init__(
        self, model: ModelSpec, config: GenerationConfig, prompt: NDArray[np.int64]
    ) -> None:
        frames = len(prompt)
        self.config = config
        self.seed = secrets.randbits(63) if config.seed is None else config.seed
        self.position = frames
        self.finish_reason: FinishReason | None = None
        self._model = model
        self._delays = np.array(model.delay_pattern)
        self._max_tokens = _check_max_tokens(config.max_tokens, model, frames)
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._first = frames + 1
        self._end: int | None = None  # the step of channel 0's EOS
        forced = apply_delay(prompt, model.delay_pattern, model.bos_token_id)
        self._grid = np.full((self._max_tokens, model.num_channels), FREE)
        self._grid[: len(forced)] = forced

    @property
    def prompt_steps(self) -> NDArray[np.int64]:
        """The steps before :attr:`position` at the start, (steps, channels), for prefill."""
        return self._grid[: self._first - 1]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The tokens at :attr:`position`, (channels,)."""
        row: NDArray[np.int64] = self._grid[self.position]
        return row

    @property
    def done(self) -> bool:
        """Whether every channel has come to its end."""
        return self._end is not None and self.position == self._end + self._model.max_delay - 1

    @property
    def num_frames(self) -> int:
        """Frames that are complete in every channel."""
        end = self.position + 1 if self._end is None else self._end
        complete = self.position + 1 - self._model.max_delay
        return max(0, min(end, complete) - self._first)

    @property
    def codes(self) -> NDArray[np.int64]:
        """The complete frames so far, without delays and prompt, (frames, channels)."""
        return self.codes_from(0)

    def codes_from(self, frame: int) -> NDArray[np.int64]:
        """The complete frames from one on; special tokens become code 0, as upstream has it."""
        stop = self._first + self.num_frames + self._model.max_delay
        codes = revert_delay(self._grid[self._first + frame : stop], self._model.delay_pattern)
        return np.where((codes >= 0) & (codes < self._model.eos_token_id), codes, 0)

    def uniforms(self) -> NDArray[np.float64]:
        """This step's random numbers, (channels,), in [0, 1)."""
        return self._random.random(self._model.num_channels)

    def advance(self, predicted: NDArray[np.int64]) -> None:
        """Take the next step's tokens.

        Channel 0's EOS, or the last step that leaves time for it, starts the end: each channel
        then gets EOS at its own delay and PAD after it. Cells of the prompt keep their codes.

        Args:
            predicted: (channels,).
        """
        model, step = self._model, self.position + 1
        if self._end is None:
            if predicted[0] == model.eos_token_id:
                self._end, self.finish_reason = step, "eos"
            elif step >= self._max_tokens - model.max_delay:
                self._end, self.finish_reason = step, "length"
        if self._end is not None:
            since = step - self._end
            predicted = np.where(since == self._delays, model.eos_token_id, predicted)
            predicted = np.where(since > self._delays, model.pad_token_id, predicted)
        row = self._grid[step]
        self._grid[step] = np.where(row == FREE, predicted, row)
        self.position = step


def _check_max_tokens(max_tokens: int | None, model: ModelSpec, frames: int) -> int:
    limit = model.max_steps
    if max_tokens is None:
        max_tokens = limit
    if max_tokens > limit:
        raise InvalidConfigError(
            f"max_tokens is {max_tokens}: this model has {limit} steps. Split the script instead."
        )
    least = frames + model.max_delay + 2
    if max_tokens < least:
        voice = f" after the voice's {frames}" if frames else ""
        raise InvalidConfigError(
            f"max_tokens is {max_tokens}, which leaves no step for speech{voice}: give at least "
            f"{least}{', or a shorter voice' if frames else ''}."
        )
    return max_tokens


class Decoder(Protocol):
    """What the loop needs of the decoder's state; see :class:`dia_ort.decoder.DecoderBatch`."""

    rows_per_slot: int

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> None:
        """Fill a slot's cache with known steps, (steps, channels)."""

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """One step of the first slots: logits (slots, rows_per_slot, channels, vocabulary)."""

    def move(self, source: int, target: int) -> None:
        """Put the utterance of one slot into another."""


def run_batch(decoder: Decoder, model: ModelSpec, utterances: Sequence[Utterance]) -> Iterator[int]:
    """Run utterances to their ends, all at once; each keeps its own pace and ends on its own.

    Args:
        decoder: With one slot per utterance, in order, their texts set.
        model: Rules and tokens.
        utterances: Changed in place.

    Yields:
        After each step, how many are still running.
    """
    for slot, utterance in enumerate(utterances):
        if len(utterance.prompt_steps):
            decoder.prefill(slot, utterance.prompt_steps)
    active = list(utterances)
    params = None
    while active:
        params = params or SamplingParams.stack([u.config for u in active])
        logits = decoder.step(
            np.stack([u.tokens for u in active]), np.array([u.position for u in active])
        )
        predicted = sample(
            logits[:, 0],
            logits[:, 1] if decoder.rows_per_slot == 2 else None,
            np.stack([u.uniforms() for u in active]),
            params=params,
            release=model.release,
            eos_token_id=model.eos_token_id,
        )
        for utterance, tokens in zip(active, predicted, strict=True):
            utterance.advance(tokens)
        for slot in reversed(range(len(active))):
            if active[slot].done:
                last = len(active) - 1
                if slot != last:
                    decoder.move(last, slot)
                    active[slot] = active[last]
                active.pop()
                params = None
        yield len(active)
