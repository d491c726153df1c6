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
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from dia_ort.config import GenerationConfig
from dia_ort.errors import NumericalError

Release = Literal["first", "0626"]


@dataclass(frozen=True, slots=True, eq=False)
class SamplingParams:
    """The sampling settings of every row, each of shape ``(rows,)``.

    Attributes:
        cfg_scale: Weight of guidance, float32 as the logits are.
        temperature: Divisor of the logits, greater than 0.
        top_p: Sum of probabilities to draw from; 0 takes the likeliest candidate.
        top_k: How many candidates guidance lets through.
    """

    cfg_scale: NDArray[np.float32]
    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    top_k: NDArray[np.int64]

    @classmethod
    def stack(cls, configs: Sequence[GenerationConfig]) -> Self:
        """Gather the settings of several requests, one to a row.

        Greedy rows (temperature 0) become temperature 1 with ``top_p`` 0: the end-of-speech rules
        never bar the best candidate, so what is drawn is the arg-max.
        """
        greedy = np.array([config.temperature == 0 for config in configs], bool)
        temperature = np.array([config.temperature for config in configs], np.float64)
        top_p = np.array([config.top_p for config in configs], np.float64)
        return cls(
            cfg_scale=np.array([config.cfg_scale for config in configs], np.float32),
            temperature=np.where(greedy, 1.0, temperature),
            top_p=np.where(greedy, 0.0, top_p),
            top_k=np.array([config.cfg_filter_top_k for config in configs], np.int64),
        )


def sample(
    cond: NDArray[np.float32],
    uncond: NDArray[np.float32] | None,
    uniforms: NDArray[np.float64],
    *,
    params: SamplingParams,
    release: Release,
    eos_token_id: int,
) -> NDArray[np.int64]:
    """Draw the next token of every row and channel.

    Args:
        cond: Conditional logits, shape ``(rows, channels, vocabulary)``.
        uncond: Unconditional logits of the same shape, or ``None`` for no guidance.
        uniforms: Random numbers in ``[0, 1)``, shape ``(rows, channels)``; each picks a candidate
            by inverting the cumulative distribution. Greedy rows do not look at them.
        params: The settings of every row.
        release: Whose rules to follow.
        eos_token_id: The end-of-speech token.

    Returns:
        The tokens, shape ``(rows, channels)``.

    Raises:
        NumericalError: The logits of some row are not finite.
    """
    tokens, probabilities = candidate_probabilities(
        cond, uncond, params=params, release=release, eos_token_id=eos_token_id
    )
    cumulative = np.cumsum(probabilities, axis=-1)
    threshold = uniforms[..., None] * cumulative[..., -1:]
    chosen = np.count_nonzero(cumulative <= threshold, axis=-1)
    return np.take_along_axis(tokens, chosen[..., None], axis=-1)[..., 0]


def candidate_probabilities(
    cond: NDArray[np.float32],
    uncond: NDArray[np.float32] | None,
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
    guided = _guide(cond, uncond, params.cfg_scale)
    if release == "first":
        tokens, logits = _first_candidates(guided, params.top_k, eos_token_id)
    else:
        tokens, logits = _0626_candidates(cond, guided, params.top_k, eos_token_id)
    return tokens, _nucleus(logits, params.temperature, params.top_p)


def _guide(
    cond: NDArray[np.float32], uncond: NDArray[np.float32] | None, scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Classifier-free guidance as nari-labs defines it, always a new array."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        guided = cond.copy() if uncond is None else cond + scale[:, None, None] * (cond - uncond)
    finite = np.isfinite(guided).all(axis=(1, 2))
    if not finite.all():
        rows = ", ".join(map(str, np.flatnonzero(~finite)))
        raise NumericalError(
            f"the logits of row {rows} are not finite (NaN or infinity): the weights are damaged, "
            "or this dtype overflows on this provider; run `dia-ort verify`, or take an fp32 model"
        )
    return guided


def _first_candidates(
    guided: NDArray[np.float32], top_k: NDArray[np.int64], eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the candidates of the first release; overwrites ``guided``."""
    guided[:, 0, eos] *= np.float32(0.8)
    _bar_specials(guided, eos)
    eos_is_best = guided[:, 0].argmax(axis=-1) == eos
    guided[~eos_is_best, 0, eos] = -np.inf
    tokens = _best_tokens(guided, int(top_k.max()))
    logits = np.take_along_axis(guided, tokens, axis=-1)
    np.copyto(logits, -np.inf, where=_beyond(top_k, tokens))
    return tokens, logits


def _0626_candidates(
    cond: NDArray[np.float32], guided: NDArray[np.float32], top_k: NDArray[np.int64], eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the candidates of the 0626 release; overwrites ``guided``."""
    tokens = _best_tokens(guided, int(top_k.max()))
    logits = np.take_along_axis(cond, tokens, axis=-1)
    last_allowed = np.full((cond.shape[1], 1), eos - 1)
    last_allowed[0] = eos
    logits[_beyond(top_k, tokens) | (tokens > last_allowed)] = -np.inf

    # A small top-k may hold barred tokens alone. Upstream then emits NaN or token 0; here the best
    # allowed token by the guided logits is taken.
    empty = np.isneginf(logits).all(axis=-1)
    if empty.any():
        _bar_specials(guided, eos)
        tokens[empty, 0] = guided.argmax(axis=-1)[empty]
        logits[empty, 0] = 0  # alone, it has probability 1 whatever its logit

    order = np.lexsort((tokens, -logits))
    tokens = np.take_along_axis(tokens, order, axis=-1)
    logits = np.take_along_axis(logits, order, axis=-1)
    is_eos = tokens[:, 0] == eos
    logits[:, 0][is_eos != is_eos[:, :1]] = -np.inf
    return tokens, logits


def _bar_specials(logits: NDArray[np.float32], eos: int) -> None:
    logits[:, 0, eos + 1 :] = -np.inf
    logits[:, 1:, eos:] = -np.inf


def _beyond(top_k: NDArray[np.int64], ranked: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ranks are past their own row's top-k: there are as many as the greatest asks for."""
    return np.arange(ranked.shape[-1]) >= top_k[:, None, None]


def _best_tokens(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Rank the ``count`` best tokens of each channel, equal logits by token.

    Each logit becomes an integer that sorts like it, with the token in the low 32 bits. So no two
    are equal, and a partial sort has one answer whatever ``count`` the neighbours ask for.
    """
    vocab_size = logits.shape[-1]
    bits = (-logits + np.float32(0)).view(np.int32)  # adding 0 makes one of the two zeros
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # sign and magnitude to two's complement
    keys = (ascending.astype(np.int64) << 32) | np.arange(vocab_size)
    if count < vocab_size:
        keys = np.partition(keys, count - 1, axis=-1)[..., :count]
    return np.sort(keys, axis=-1) & 0xFFFFFFFF


def _nucleus(
    logits: NDArray[np.float32], temperature: NDArray[np.float64], top_p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities of ranked candidates: temperature, softmax, top-p, and what is left to 1."""
    distance = logits - logits[..., :1].astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature leaves the best alone
        weights: NDArray[np.float64] = np.exp(distance / temperature[:, None, None])
    cumulative = np.cumsum(weights, axis=-1)  # in order: trailing zeros do not change the sums
    threshold = top_p[:, None, None] * cumulative[..., -1:]
    weights[..., 1:][cumulative[..., :-1] > threshold] = 0
    weights /= np.cumsum(weights, axis=-1)[..., -1:]
    return weights
