"""What a run measures."""

from dataclasses import dataclass

TINY = "tiny-random"
FULL = "full-random"

TEXT_POSITIONS = 120
CACHED_POSITIONS = 500
"""Where the decoder stands when its steps are timed: some six seconds into a script."""
ROWS = 2
"""Of one utterance: conditional and unconditional. A step is one decoder call for both."""
WARM_UP_STEPS = 3
DAC_FRAMES = 345
"""Four seconds of audio."""
DAC_REPEATS = 3
SPEAK_FRAMES = 86
"""One second of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run of the benchmark.

    Attributes:
        model: :data:`TINY` or :data:`FULL`.
        dtypes: Of dia-ort's exports, in the order they are measured.
        steps: Decoder steps to time, per contestant and round.
        rounds: How often everything is measured, one contestant after the other.
        threads: For onnxruntime and torch; None leaves both their default, the physical cores.
    """

    model: str
    dtypes: tuple[str, ...]
    steps: int
    rounds: int
    threads: int | None
