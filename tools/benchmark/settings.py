"""What a run measures."""

from dataclasses import dataclass

TINY = "tiny-random"
FULL = "full-random"

PARTS = ("step", "causes", "batch", "growth", "dac", "speak", "serving", "prices")

TEXT_POSITIONS = 120
CACHED_POSITIONS = 500
"""Where the decoder stands when its steps are timed: some six seconds into a script."""
ROWS = 2
"""Of one utterance: conditional and unconditional. A step is one decoder call for both."""
WARM_UP_STEPS = 3
PREFILL_STEPS = 32
"""That a growing voice is timed by; the runtime runs as many at once."""
FRAMES_PER_SECOND = 44100 / 512
"""Of Dia's codec; a frame is a step, so this is real time for one utterance."""
DAC_REPEATS = 3
PRICE_BATCHES = (1, 8)
"""Utterances at once that the price list times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run of the benchmark.

    Attributes:
        model: :data:`TINY` or :data:`FULL`.
        parts: Of :data:`PARTS`.
        references: Of :data:`benchmark.plan.TRANSFORMERS`.
        dtypes: Of dia-ort's exports, in the order they are measured. Growth is measured for the
            first alone, and the others speak in the first round alone.
        steps: Decoder steps to time, per contestant and round.
        rounds: How often everything is measured, one contestant after the other.
        threads: For onnxruntime and torch; None leaves both their default, the physical cores.
        batches: Utterances at once.
        texts: Lengths of text, in positions.
        positions: Decoder positions.
        dac_frames: Frames to decode.
        speak_frames: Frames to speak.
        clients: Of the server, at once.
        serve_frames: Frames that each gets.
        variants: Names of the price list's recipes, of :data:`benchmark.prices.VARIANTS`.
        quality_model: A checkpoint, and a codec's after a comma, whose quality the price list
            gives too; None: that of random weights alone.
    """

    model: str
    parts: tuple[str, ...]
    references: tuple[str, ...]
    dtypes: tuple[str, ...]
    steps: int
    rounds: int
    threads: int | None
    batches: tuple[int, ...]
    texts: tuple[int, ...]
    positions: tuple[int, ...]
    dac_frames: int
    speak_frames: int
    clients: tuple[int, ...]
    serve_frames: int
    variants: tuple[str, ...]
    quality_model: str | None


DEFAULTS = {
    TINY: Settings(
        model=TINY,
        parts=PARTS,
        references=("transformers bf16",),
        dtypes=("int4",),
        steps=20,
        rounds=1,
        threads=None,
        batches=(1, 8, 16),
        texts=(60, 1000),
        positions=(100, 3000),
        dac_frames=86,
        speak_frames=86,
        clients=(1, 2),
        serve_frames=86,
        variants=("int4 128",),
        quality_model=None,
    ),
    FULL: Settings(
        model=FULL,
        parts=PARTS,
        references=("transformers fp32", "transformers bf16"),
        dtypes=("int4", "int8", "fp32"),
        steps=40,
        rounds=3,
        threads=None,
        batches=(1, 2, 4, 8, 16),
        texts=(60, 120, 250, 500, 1000),
        positions=(100, 500, 1000, 2000, 3000),
        dac_frames=345,
        speak_frames=861,
        clients=(1, 2, 4, 8),
        serve_frames=258,
        variants=(
            *("fp32", "fp16", "bf16"),
            *("int8", "int8 128", "int8 32", "int8 float32 cache"),
            *("int4 32", "int4 64", "int4 128", "int4 256", "int4 128 float32 cache"),
        ),
        quality_model=None,
    ),
}
"""Tiny: every part in miniature, in less than a minute. Full: an hour and a half on two cores."""
