"""The delay pattern: channel ``c`` of the decoder's grid runs ``delay_pattern[c]`` steps late.

A *frame* is one instant of audio, one code per channel; a *step* is one row of the decoder's
grid, where each channel stands at another frame. The pattern lets the coarse codebooks of an
instant be decided before the fine ones.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FREE = -1
"""Marks a cell of the grid that nothing fixes: the model generates it."""


def apply_delay(
    codes: NDArray[np.integer], delay_pattern: Sequence[int], bos_token_id: int
) -> NDArray[np.int64]:
    """Lay out a prompt as the beginning of the decoder's grid.

    The frames are a frame of BOS, then the prompt's. Step ``t`` of channel ``c`` holds frame
    ``t - delay_pattern[c]``: BOS where that is before the first, :data:`FREE` after the last.
    The last row that fixes anything is in the grid, as in transformers; nari-labs' current code
    stops one row earlier and lets the model fill the last channel's last cell.

    Args:
        codes: The prompt, shape ``(frames, channels)``; no frames if there is none.
        delay_pattern: The delay of each channel in steps.
        bos_token_id: The token at the beginning.

    Returns:
        The grid, shape ``(1 + frames + max(delay_pattern), channels)``.
    """
    frames, channels = codes.shape
    steps = 1 + frames + max(delay_pattern)
    sequence = np.concatenate([np.full((1, channels), bos_token_id, np.int64), codes])
    source = np.arange(steps)[:, None] - np.asarray(delay_pattern)
    delayed = sequence[source.clip(0, frames), np.arange(channels)]
    return np.where(source > frames, FREE, delayed)


def revert_delay(grid: NDArray[np.int64], delay_pattern: Sequence[int]) -> NDArray[np.int64]:
    """Bring the channels of the decoder's grid back to the same instant.

    Args:
        grid: Tokens by step, shape ``(steps, channels)``.
        delay_pattern: The delay of each channel in steps.

    Returns:
        Tokens by frame, shape ``(steps - max(delay_pattern), channels)``: the frames that the
        grid holds in every channel, none if it is too short.
    """
    steps, channels = grid.shape
    frames = max(steps - max(delay_pattern), 0)
    source = np.arange(frames)[:, None] + np.asarray(delay_pattern)
    reverted: NDArray[np.int64] = grid[source, np.arange(channels)]
    return reverted
