"""One utterance's way from step to step, as a state machine.

An :class:`Utterance` knows one request's grid of tokens, its rules and its random numbers, and
nothing of graphs. The :mod:`dia_ort.scheduler` feeds any number of them through the decoder.
"""

import secrets

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import Audio, FinishReason
from dia_ort.config import GenerationConfig
from dia_ort.delay import FREE, apply_delay, revert_delay
from dia_ort.errors import InvalidConfigError
from dia_ort.graphs import ModelSpec


class Utterance:
    """One request's state, step by step, by upstream's rules.

    Args:
        model: Tokens, delays and limits.
        config: The request's settings.
        prompt: A voice's codes, (frames, channels); none: shape (0, channels).
        text: What is to be said, for the :class:`Audio`.
        codec: Whose codes they are, for the :class:`Audio`.

    Attributes:
        config: As given.
        seed: That the codes can be made again with.
        max_tokens: The most steps.
        position: The latest step whose tokens are all known.
        finish_reason: How it ended; None while it has not.

    Raises:
        InvalidConfigError: ``max_tokens`` is beyond the model, or leaves no room for speech.
    """

    def __init__(
        self,
        model: ModelSpec,
        config: GenerationConfig,
        prompt: NDArray[np.int64],
        text: str = "",
        codec: str | None = None,
    ) -> None:
        frames = len(prompt)
        self.config = config
        self.seed: int = secrets.randbits(63) if config.seed is None else config.seed
        self.position: int = frames
        self.finish_reason: FinishReason | None = None
        self._model = model
        self._text = text
        self._codec = codec
        self._delays = np.array(model.delay_pattern)
        self.max_tokens: int = check_max_tokens(config.max_tokens, model, frames)
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._first = frames + 1
        self._end: int | None = None  # the step of channel 0's EOS
        forced = apply_delay(prompt, model.delay_pattern, model.bos_token_id)
        self._grid = np.full((self.max_tokens, model.num_channels), FREE, np.int64)
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

    def audio(self, samples: NDArray[np.float32], sample_rate: int) -> Audio:
        """The finished speech, of the samples that :attr:`codes` were decoded to.

        Raises:
            InvalidConfigError: It is not finished.
        """
        if not self.done or self.finish_reason is None:
            raise InvalidConfigError("this generation has not come to its end.")
        return Audio(
            samples,
            sample_rate,
            self.codes,
            self.finish_reason,
            self.seed,
            self._text,
            self._codec,
        )

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
            elif step >= self.max_tokens - model.max_delay:
                self._end, self.finish_reason = step, "length"
        if self._end is not None:
            since = step - self._end
            predicted = np.where(since == self._delays, model.eos_token_id, predicted)
            predicted = np.where(since > self._delays, model.pad_token_id, predicted)
        row = self._grid[step]
        self._grid[step] = np.where(row == FREE, predicted, row)
        self.position = step


def check_max_tokens(max_tokens: int | None, model: ModelSpec, frames: int) -> int:
    """The most steps of a request whose voice has so many frames.

    Raises:
        InvalidConfigError: They are more than the model has, or leave none for speech.
    """
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
