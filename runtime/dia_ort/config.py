"""The settings of one generation."""

from dataclasses import dataclass

from dia_ort.checks import check_number, check_whole
from dia_ort.errors import InvalidConfigError

_MAX_INT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to turn one script into speech. Names, meaning and defaults are nari-labs' own.

    Numbers may be Python's or NumPy's; they are kept as ``int`` and ``float``.

    Attributes:
        max_tokens: The most decoder steps, 86.13 to the second of audio. All steps count: those
            of a voice's codes, and the steps by which the last channel lags (15 in Dia-1.6B).
            ``None`` is the model's own limit.
        cfg_scale: Weight of classifier-free guidance, from 0 to 100: the logits that choose the
            candidates are ``cond + cfg_scale * (cond - uncond)``. 0 switches guidance off.
            (``guidance_scale`` in transformers enters the same formula, but there 1 means off.)
        temperature: Divisor of the logits, from 0 to 100. 0 is greedy: always the likeliest
            token, whatever ``top_p`` and ``seed`` are.
        top_p: Only the likeliest candidates whose probabilities reach this sum are drawn from;
            from 0 (the likeliest alone) to 1 (all).
        cfg_filter_top_k: How many candidates guidance lets through in each channel, 1 or more.
            More than the vocabulary means all of it.
        seed: Of the random generator, from 0 to ``2**64 - 1``. The same seed, script and artifact
            give the same codes. ``None`` takes a fresh seed for each call.

    Raises:
        InvalidConfigError: A field has the wrong type or is out of its range.
    """

    max_tokens: int | None = None
    cfg_scale: float = 3.0
    temperature: float = 1.2
    top_p: float = 0.95
    cfg_filter_top_k: int = 45
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            self._set_int("max_tokens", 1, _MAX_INT)
        self._set_float("cfg_scale", 0, 100)
        self._set_float("temperature", 0, 100)
        self._set_float("top_p", 0, 1)
        self._set_int("cfg_filter_top_k", 1, _MAX_INT)
        if self.seed is not None:
            self._set_int("seed", 0, 2**64 - 1)

    def _set_int(self, field: str, low: int, high: int) -> None:
        object.__setattr__(self, field, check_whole(field, getattr(self, field), low, high))

    def _set_float(self, field: str, low: float, high: float) -> None:
        object.__setattr__(self, field, check_number(field, getattr(self, field), low, high))


def check_config(config: GenerationConfig | None) -> GenerationConfig:
    """The settings that a caller gave; the defaults for None.

    Raises:
        InvalidConfigError: They are no :class:`GenerationConfig`.
    """
    if config is None:
        return GenerationConfig()
    if not isinstance(config, GenerationConfig):
        raise InvalidConfigError(
            f"config is {type(config).__name__}: give a GenerationConfig, such as "
            "GenerationConfig(seed=7)"
        )
    return config
