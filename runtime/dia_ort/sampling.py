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
        uniform: Whether it is every row's.
    """

    cfg_scale: NDArray[np.float32]
    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    top_k: NDArray[np.int64]
    most: int
    uniform: bool

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
            uniform=len(set(top_k)) == 1,
        )


def sample(
    cond: NDArray[np.float32],
    uncond: NDArray[np.float32],
    uniforms: NDArray[np.float64],
    *,
    params: SamplingParams,
    release: Release,
    eos_token_id: int,
) -> NDArray[np.int64]:
    """Draw the next token of every row and channel.

    Args:
        cond: Conditional logits, shape ``(rows, channels, vocabulary)``.
        uncond: Unconditional logits of the same shape.
        uniforms: Random numbers in ``[0, 1)``, shape ``(rows, channels)``; each picks a candidate
            by inverting the cumulative distribution. Greedy rows do not look at them.
        params: The settings of every row.
        release: Whose rules to follow.
        eos_token_id: The end-of-speech token.

    Returns:
        The tokens, shape ``(rows, channels)``; :data:`NOT_FINITE` in a row whose guided logits
        are not finite.
    """
    guided, finite = _guide(cond, uncond, params.cfg_scale)
    tokens, weights = _candidates(cond, guided, params, release, eos_token_id)
    cumulative = weights.cumsum(axis=-1)
    threshold = uniforms[..., None] * cumulative[..., -1:]
    chosen = np.count_nonzero(cumulative <= threshold, axis=-1)
    drawn = _take(tokens, chosen[..., None])[..., 0]
    if not finite.all():
        drawn[~finite] = NOT_FINITE
    return drawn


def candidate_probabilities(
    cond: NDArray[np.float32],
    uncond: NDArray[np.float32],
    *,
    params: SamplingParams,
    release: Release,
    eos_token_id: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Compute the distribution that :func:`sample` draws from; it takes the same arguments.

    Returns:
        The candidates' tokens by falling logit, and their probabilities, both of shape
        ``(rows, channels, candidates)``. What a rule has barred stands there with probability 0.
    """
    guided, _ = _guide(cond, uncond, params.cfg_scale)
    tokens, weights = _candidates(cond, guided, params, release, eos_token_id)
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


def _candidates(
    cond: NDArray[np.float32],
    guided: NDArray[np.float32],
    params: SamplingParams,
    release: Release,
    eos: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The candidates' tokens by falling logit, and what each weighs; overwrites ``guided``."""
    choose = _first_candidates if release == "first" else _0626_candidates
    tokens, logits = choose(cond, guided, params, eos)
    return tokens, _nucleus(logits, params.temperature, params.top_p)


def _first_candidates(
    _: NDArray[np.float32], guided: NDArray[np.float32], params: SamplingParams, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the candidates of the first release."""
    guided[:, 0, eos] *= np.float32(0.8)
    _bar_specials(guided, eos)
    eos_is_best = guided[:, 0].argmax(axis=-1) == eos
    guided[~eos_is_best, 0, eos] = -np.inf
    tokens = _best_tokens(guided, params.most)
    tokens, logits = _rank(tokens, _take(guided, tokens))
    if not params.uniform:
        np.copyto(logits, -np.inf, where=np.arange(logits.shape[-1]) >= params.top_k)
    return tokens, logits


def _0626_candidates(
    cond: NDArray[np.float32], guided: NDArray[np.float32], params: SamplingParams, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the candidates of the 0626 release."""
    tokens = _best_tokens(guided, params.most)
    logits = _take(cond, tokens)
    if not params.uniform:
        rank = _falling(_take(guided, tokens)).argsort(axis=-1)
        logits[rank >= params.top_k] = -np.inf
    logits[:, 0][tokens[:, 0] > eos] = -np.inf
    logits[:, 1:][tokens[:, 1:] >= eos] = -np.inf
    tokens, logits = _rank(tokens, logits)

    # A small top-k may hold barred tokens alone. Upstream then emits NaN or token 0; here the best
    # allowed token by the guided logits is taken.
    empty = np.isneginf(logits[..., 0])
    if empty.any():
        _bar_specials(guided, eos)
        tokens[empty, 0] = guided.argmax(axis=-1)[empty]
        logits[empty, 0] = 0  # alone, it has probability 1 whatever its logit

    is_eos = tokens[:, 0] == eos
    logits[:, 0][is_eos != is_eos[:, :1]] = -np.inf
    return tokens, logits


def _bar_specials(logits: NDArray[np.float32], eos: int) -> None:
    logits[:, 0, eos + 1 :] = -np.inf
    logits[:, 1:, eos:] = -np.inf


def _best_tokens(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ``count`` best tokens of each channel, rising; of equal logits the lower tokens."""
    rows, channels, vocab_size = logits.shape
    if count >= vocab_size:
        return np.tile(np.arange(vocab_size), (rows, channels, 1))
    worst = np.partition(logits, -count, axis=-1)[..., -count, None]
    chosen = logits >= worst
    if np.count_nonzero(chosen) != rows * channels * count:
        tied = logits == worst
        room = count - np.count_nonzero(logits > worst, axis=-1, keepdims=True)
        chosen &= ~tied | (tied.cumsum(axis=-1) <= room)
    tokens: NDArray[np.int64] = np.flatnonzero(chosen) % vocab_size
    return tokens.reshape(rows, channels, count)


def _rank(
    tokens: NDArray[np.int64], logits: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sort by falling logit what is sorted by rising token, so that equal logits stay so."""
    order = _falling(logits)
    return _take(tokens, order), _take(logits, order)


def _falling(values: NDArray[Any]) -> NDArray[np.int64]:
    order: NDArray[np.int64] = np.argsort(-values, axis=-1, kind="stable")
    return order


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
