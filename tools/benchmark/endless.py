"""Speech that does not end before its most steps: random weights end theirs at random."""

from collections.abc import Callable
from typing import Any

from dia_ort.decoder import DecoderBatch

_BARRED = -1e4
_EOS = 1024


def speak_endlessly(on_step: Callable[[], None] = lambda: None) -> None:
    """Bar the end of speech from every decoder of this process.

    Args:
        on_step: Called before each step.
    """
    step = DecoderBatch.step

    def barred_step(batch: DecoderBatch, *inputs: Any) -> Any:
        on_step()
        logits = step(batch, *inputs)
        logits[:, :, 0, _EOS:] = _BARRED
        return logits

    DecoderBatch.step = barred_step  # type: ignore[assignment, method-assign]
