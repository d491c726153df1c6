"""From logits to tokens: guidance, top-k, the end-of-speech rules, top-p and the draw.

The two releases of Dia's weights want different rules:

* ``"0626"`` (Dia-1.6B-0626, and what transformers does): guidance chooses the ``top_k``
  candidates, and the *conditional* logits are sampled. In channel 0 EOS is barred unless it is
  the best candidate left; if it is, everything else is barred.
* ``"first"`` (Dia-1.6B): the *guided* logits are sampled, with channel 0's EOS logit multiplied
  by 0.8. In channel 0 EOS is barred unless it is the best, before the top-k is taken.

In both, tokens above EOS are barred in channel 0, and EOS and above in the other channels. A
candidate whose probability takes the sum over ``top_p`` still counts.

The tokens of a row depend on nothing but that row: ties go to the lower token, sums run in the
order of rank, and all arithmetic is elementwise.

First the best few of the guided logits are chosen, here (:func:`choose`) or on a device
(:mod:`dia_ort.choice`); all rules are about those (:func:`draw`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dia_ort.config import GenerationConfig

Release = Literal["first", "0626"]

NOT_FINITE = -1
"""In place of every token of a row whose logits are NaN or infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplingParams:
    """The sampling settings of every row, in arrays of shape ``(rows, 1, 1)``.

    Attributes:
        cfg_scale: Weight of guidance, float32 as the logits are; with 0 the unconditional logits
            are not looked at.
        temperature: Divisor of the logits, greater than 0.
        top_p: Sum of probabilities to draw from; 0 takes the likeliest candidate.
        top_k: How many candidates guidance lets through.
        most: The greatest ``top_k``, an int.
    """

    cfg_scale: NDArray[np.float32]
    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    top_k: NDArray[np.int64]
    most: int

    @classmethod
    def stack(cls, configs: Sequence[GenerationConfig]) -> Self:
        """Gather the settings of several requests, one to a row.

        Greedy rows (temperature 0) become temperature 1 with ``top_p`` 0: the end-of-speech rules
        never bar the best candidate, so what is drawn is the arg-max.
        """

        def column(values: Sequence[float], dtype: type) -> NDArray[Any]:
            return np.array(values, dtype).reshape(-1, 1, 1)

        top_k = [config.cfg_filter_top_k for config in configs]
        return cls(
            cfg_scale=column([config.cfg_scale for config in configs], np.float32),
            temperature=column([config.temperature or 1.0 for config in configs], np.float64),
            top_p=column([config.top_p if config.temperature else 0 for config in configs], float),
            top_k=column(top_k, np.int64),
            most=max(top_k),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The best tokens of every row and channel, by falling guided logit, of equal ones the lower.

    There are :func:`num_candidates`, so that ``top_k`` are left whatever the rules bar.

    Attributes:
        tokens: int64, ``(rows, channels, candidates)``.
        guided: Their guided logits, float32, of the same shape; the first release's EOS in channel
            0 with its factor.
        cond: Their conditional logits.
        finite: bool, ``(rows,)``: whether a row's guided logits are; what stands in another row
            means nothing.
    """

    tokens: NDArray[np.int64]
    guided: NDArray[np.float32]
    cond: NDArray[np.float32]
    finite: NDArray[np.bool_]


def num_candidates(most: int, vocab_size: int, eos_token_id: int) -> int:
    """How many of the best tokens hold the ``most`` best allowed ones, whichever are barred."""
    return min(vocab_size, most + vocab_size - eos_token_id)


def eos_factor(release: Release) -> float:
    """What the guided EOS logit of channel 0 is multiplied by."""
    return 0.8 if release == "first" else 1.0


def choose(
    cond: NDArray[np.float32],
    uncond: NDArray[np.float32],
    params: SamplingParams,
    *,
    release: Release,
    eos_token_id: int,
) -> Candidates:
    """Apply guidance, and choose the best tokens.

    Args:
        cond: Conditional logits, shape ``(rows, channels, vocabulary)``.
        uncond: Unconditional logits of the same shape.
        params: The settings of every row.
        release: Whose rules to follow.
        eos_token_id: The end-of-speech token.
    """
    guided, finite = _guide(cond, uncond, params.cfg_scale)
    if (factor := eos_factor(release)) != 1:
        guided[:, 0, eos_token_id] *= np.float32(factor)
    tokens, best = _best(guided, num_candidates(params.most, cond.shape[-1], eos_token_id))
    return Candidates(tokens, best, _take(cond, tokens), finite)


def draw(
    candidates: Candidates,
    uniforms: NDArray[np.float64],
    params: SamplingParams,
    *,
    release: Release,
    eos_token_id: int,
) -> NDArray[np.int64]:
    """Draw the next token of every row and channel.

    Args:
        candidates: From :func:`choose`, or chosen on a device.
        uniforms: Random numbers in ``[0, 1)``, shape ``(rows, channels)``; each picks a candidate
            by inverting the cumulative distribution. Greedy rows do not look at them.
        params: The settings of every row.
        release: Whose rules to follow.
        eos_token_id: The end-of-speech token.

    Returns:
        The tokens, shape ``(rows, channels)``; :data:`NOT_FINITE` in a row whose guided logits
        are not finite.
    """
    tokens, weights = _weigh(candidates, params, release, eos_token_id)
    cumulative = weights.cumsum(axis=-1)
    threshold = uniforms[..., None] * cumulative[..., -1:]
    chosen = np.count_nonzero(cumulative <= threshold, axis=-1)
    drawn = _take(tokens, chosen[..., None])[..., 0]
    if not candidates.finite.all():
        drawn[~candidates.finite] = NOT_FINITE
    return drawn


def probabilities(
    candidates: Candidates, params: SamplingParams, *, release: Release, eos_token_id: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Compute the distribution that :func:`draw` draws from; it takes the same arguments.

    Returns:
        The tokens by falling logit, and their probabilities, both of shape ``(rows, channels,
        top_k)``. What a rule has barred stands there with probability 0.
    """
    tokens, weights = _weigh(candidates, params, release, eos_token_id)
    return tokens, weights / weights.cumsum(axis=-1)[..., -1:]


def _guide(
    cond: NDArray[np.float32], uncond: NDArray[np.float32], scale: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Classifier-free guidance as nari-labs defines it, and which rows of it are finite.

    Returns:
        A new array, with zeros in the rows that are not, and a flag for each row.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # reported by the flags
        guided = cond - uncond
        guided *= scale
        guided += cond
    if not scale.all():
        np.copyto(guided, cond, where=scale == 0)
    finite = np.isfinite(guided).all(axis=(1, 2))
    if not finite.all():
        guided[~finite] = 0
    return guided, finite


def _weigh(
    candidates: Candidates, params: SamplingParams, release: Release, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens by falling logit, ``top_k`` at most, and what each weighs in the draw."""
    allowed = candidates.tokens < eos
    allowed[:, 0] |= candidates.tokens[:, 0] == eos
    apply_rules = _apply_first if release == "first" else _apply_0626
    tokens, logits = apply_rules(candidates, allowed, params, eos)
    tokens, logits = tokens[..., : params.most], logits[..., : params.most]
    return tokens, _nucleus(logits, params.temperature, params.top_p)


def _apply_first(
    candidates: Candidates, allowed: NDArray[np.bool_], params: SamplingParams, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first release's rules: tokens by falling guided logit, -inf for what may not be drawn."""
    is_eos = candidates.tokens[:, 0] == eos
    best = allowed[:, :1].argmax(axis=-1)
    allowed[:, 0] &= ~is_eos | np.take_along_axis(is_eos, best, axis=-1)
    logits = np.where(allowed, candidates.guided, np.float32(-np.inf))
    tokens, logits = _sort(candidates.tokens, logits)
    np.copyto(logits, -np.inf, where=np.arange(logits.shape[-1]) >= params.top_k)
    return tokens, logits


def _apply_0626(
    candidates: Candidates, allowed: NDArray[np.bool_], params: SamplingParams, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The 0626 release's: tokens by falling conditional logit, -inf for what may not be drawn."""
    drawable = allowed & (np.arange(allowed.shape[-1]) < params.top_k)
    logits = np.where(drawable, candidates.cond, np.float32(-np.inf))
    # A small top-k may hold barred tokens alone. Upstream then emits NaN or token 0; here the best
    # allowed token by the guided logits is taken.
    empty = ~drawable.any(axis=-1)
    if empty.any():
        best = allowed.argmax(axis=-1)
        logits[empty, best[empty]] = 0  # alone, it has probability 1 whatever its logit
    tokens, logits = _sort(candidates.tokens, logits)
    is_eos = tokens[:, 0] == eos
    logits[:, 0][is_eos != is_eos[:, :1]] = -np.inf
    return tokens, logits


def _sort(
    tokens: NDArray[np.int64], logits: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sort by falling logit, of equal ones by rising token."""
    keys = _keys(tokens, logits)
    keys.sort(axis=-1)
    return _read_keys(keys)


def _best(logits: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first ``count`` tokens of each channel, sorted as by :func:`_sort`, and their logits."""
    keys = _keys(np.arange(logits.shape[-1]), logits)
    keys.partition(count - 1, axis=-1)
    return _read_keys(np.sort(keys[..., :count], axis=-1))


def _keys(tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Whole numbers that rise as logits fall, and of equal ones with the token; none are equal.

    A logit's bits, in the order of its negative, stand before the token's.
    """
    keys = _ordered((np.float32(0) - logits).view(np.int32)).astype(np.int64) << 32
    keys |= tokens
    return keys


def _read_keys(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The tokens and the logits of :func:`_keys`."""
    return keys & 0xFFFFFFFF, -_ordered((keys >> 32).astype(np.int32)).view(np.float32)


def _ordered(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of float32 as integers in the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _take(values: NDArray[Any], indices: NDArray[np.int64]) -> NDArray[Any]:
    """``np.take_along_axis`` on the last of three axes, in a third of the time."""
    rows, channels, length = values.shape
    starts = np.arange(0, rows * channels * length, length).reshape(rows, channels, 1)
    return values.reshape(-1)[starts + indices]


def _nucleus(
    logits: NDArray[np.float32], temperature: NDArray[np.float64], top_p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights of ranked candidates, the first one's being 1: temperature, exponential, top-p."""
    # A tiny temperature leaves the best alone; rows that are not finite are not looked at.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        distance = logits - logits[..., :1].astype(np.float64)
        weights: NDArray[np.float64] = np.exp(distance / temperature)
    cumulative = weights.cumsum(axis=-1)  # in order: trailing zeros do not change the sums
    weights[..., 1:] *= cumulative[..., :-1] <= top_p * cumulative[..., -1:]
    return weights
