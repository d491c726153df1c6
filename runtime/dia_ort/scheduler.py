"""Continuous batching: utterances join a running batch, and leave it, at any step.

A :class:`Scheduler` knows tokens and slots alone. It has no thread: whoever owns it calls
:meth:`Scheduler.tick` until it is idle.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import GenerationCancelledError, InvalidConfigError, NumericalError
from dia_ort.generation import Utterance
from dia_ort.graphs import ModelSpec
from dia_ort.sampling import NOT_FINITE, Candidates, SamplingParams, draw

PREFILL_STEPS = 32
"""Steps of a prompt that are run at once: the others wait no longer for their next step. It does
not depend on them, as kernels round by the number of steps."""


class Decoder(Protocol):
    """What the scheduler needs of the decoder's state; see :class:`dia_ort.decoder.DecoderBatch`.

    A slot holds one utterance; those that run have the first ones.

    Attributes:
        slots: How many.
        has_plans: Whether a number of steps that is new costs more than steps that run again.
    """

    slots: int
    has_plans: bool

    def set_text(self, slot: int, cross: Sequence[NDArray[Any]], length: int) -> None:
        """Give a slot its encoded script, of so many text positions."""

    def prefill(self, slot: int, tokens: NDArray[np.int64], start: int) -> None:
        """Fill a slot's cache with known steps, (steps, channels), from a position on."""

    def choose(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], params: SamplingParams
    ) -> Candidates:
        """One step of the first slots, and the best tokens after it."""

    def move(self, source: int, target: int) -> None:
        """Put the utterance of one slot into another; the first one is free then."""

    def release(self, slot: int) -> None:
        """Free a slot."""


@dataclass(eq=False, slots=True)
class Request:
    """An utterance to be run.

    Attributes:
        text: The script's tokens, (text,).
        utterance: Its state, changed in place.
        memory: The bytes that it takes in the decoder at its longest.
        begun: Whether it was given a slot.
        error: Why it ended without being done; None if it has not.
    """

    text: NDArray[np.int64]
    utterance: Utterance
    memory: int = 0
    begun: bool = False
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.error is not None or self.utterance.done


class Scheduler:
    """Runs requests in the slots of a decoder, first come, first served.

    A request's tokens depend on nothing but the request, as far as the decoder's logits do not. It
    fails alone; only an error of the decoder's step, which is everybody's, comes out of
    :meth:`tick`. Not for several threads.

    Args:
        decoder: Its slots are all free.
        model: Rules and tokens.
        encode: A script's tokens, (text,), to what :meth:`Decoder.set_text` takes.
        memory_limit: The most bytes that requests may take in the decoder; None: no limit.
        slots: How many of the decoder's are used; None: all.

    Attributes:
        steps: How many there were.
        frames: Complete frames of all requests.
    """

    def __init__(
        self,
        decoder: Decoder,
        model: ModelSpec,
        encode: Callable[[NDArray[np.int64]], Sequence[NDArray[Any]]],
        memory_limit: int | None = None,
        *,
        slots: int | None = None,
    ) -> None:
        self.steps = 0
        self.frames = 0
        self._decoder = decoder
        self._model = model
        self._encode = encode
        self._memory_limit = memory_limit
        self._slots = decoder.slots if slots is None else slots
        self._waiting: deque[Request] = deque()
        self._joining: Request | None = None  # has the slot after the running ones
        self._prefilled = 0  # steps of its prompt
        self._running: list[Request] = []
        self._params: SamplingParams | None = None  # of the running ones; None when they changed

    @property
    def num_active(self) -> int:
        """How many requests have a slot."""
        return len(self._running) + (self._joining is not None)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._joining or self._running)

    def check(self, request: Request) -> None:
        """Refuse what can never run; safe in any thread.

        Raises:
            InvalidConfigError: It takes more memory than there may ever be.
        """
        limit = self._memory_limit
        if limit is not None and request.memory > limit:
            raise InvalidConfigError(
                f"this request may take {request.memory / 1e6:.1f} MB of cache (max_tokens "
                f"{request.utterance.max_tokens}, {len(request.text)} bytes of text), and the "
                f"limit is {limit / 1e6:.1f} MB: lower max_tokens, or raise memory_limit."
            )

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue.

        Raises:
            InvalidConfigError: As in :meth:`check`.
        """
        self.check(request)
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request, and free its slot at once; nothing happens if it has ended."""
        if request.done:
            return
        request.error = GenerationCancelledError("this generation was cancelled.")
        if request in self._running:
            self._leave(self._running.index(request))
        elif request is self._joining:
            self._stop_joining()
        else:
            self._waiting.remove(request)

    def tick(self) -> list[Request]:
        """Do a bounded piece of work: a part of a request's joining, and a step of the running.

        Returns:
            The requests that have begun, have a new complete frame, or have ended; each once.
        """
        return list(dict.fromkeys([*self._join(), *self._step()]))

    def _join(self) -> list[Request]:
        """Encode a text, or run a part of a prompt; returns the request if it began or failed."""
        request = self._joining or self._admit()
        if request is None:
            return []
        began, request.begun = not request.begun, True
        slot = len(self._running)
        prompt = request.utterance.prompt_steps
        try:
            if self._joining is None:
                self._joining, self._prefilled = request, 0
                self._decoder.set_text(slot, self._encode(request.text), len(request.text))
            else:
                start, stop = self._prefilled, min(self._prefilled + PREFILL_STEPS, len(prompt))
                if self._decoder.has_plans:
                    start = max(stop - PREFILL_STEPS, 0)
                self._decoder.prefill(slot, prompt[start:stop], start)
                self._prefilled = stop
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            request.error = error
            self._stop_joining()
            return [request]
        if self._prefilled == len(prompt):
            self._joining, self._params = None, None
            self._running.append(request)
        return [request] if began else []

    def _admit(self) -> Request | None:
        """Take the first in the queue, if there is room: nobody overtakes it."""
        if not self._waiting or len(self._running) == self._slots:
            return None
        if self._memory_limit is not None:
            taken = sum(request.memory for request in self._running)
            if taken + self._waiting[0].memory > self._memory_limit:
                return None
        return self._waiting.popleft()

    def _stop_joining(self) -> None:
        self._joining = None
        self._decoder.release(len(self._running))

    def _step(self) -> list[Request]:
        """Run a step; returns whoever has a new complete frame, or has ended."""
        utterances = [request.utterance for request in self._running]
        if not utterances:
            return []
        if self._params is None:
            self._params = SamplingParams.stack([u.config for u in utterances])
        candidates = self._decoder.choose(
            np.array([u.tokens for u in utterances]),
            np.array([u.position for u in utterances]),
            self._params,
        )
        drawn = draw(
            candidates,
            np.array([u.uniforms() for u in utterances]),
            self._params,
            release=self._model.release,
            eos_token_id=self._model.eos_token_id,
        )
        self.steps += 1
        changed = [
            r for r, tokens in zip(self._running, drawn, strict=True) if self._take(r, tokens)
        ]
        for slot in reversed(range(len(self._running))):
            if self._running[slot].done:
                self._leave(slot)
        return changed

    def _take(self, request: Request, tokens: NDArray[np.int64]) -> bool:
        """Take a step's tokens; whether there is a new complete frame, or an end."""
        utterance = request.utterance
        if tokens[0] == NOT_FINITE:
            request.error = NumericalError(
                f"the logits after step {utterance.position} are not finite (NaN or infinity): the "
                "weights are damaged, or this dtype overflows on this provider; run `dia-ort "
                "verify`, or take an fp32 model"
            )
            return True
        before = utterance.num_frames
        utterance.advance(tokens)
        new = utterance.num_frames - before
        self.frames += new
        return new > 0 or utterance.done

    def _leave(self, slot: int) -> None:
        """Free a running slot, and close the gap: the last one moves in, and the joining one up."""
        last = len(self._running) - 1
        if slot != last:
            self._decoder.move(last, slot)
            self._running[slot] = self._running[last]
        else:
            self._decoder.release(slot)
        self._running.pop()
        self._params = None
        if self._joining:
            self._decoder.move(last + 1, last)
