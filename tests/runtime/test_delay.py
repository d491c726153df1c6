import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.delay import FREE, apply_delay, revert_delay

BOS = 1026
DIA_DELAYS = [0, 8, 9, 10, 11, 12, 13, 14, 15]


@st.composite
def prompts(draw):
    delays = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    frames = draw(st.integers(0, 8))
    codes = np.arange(frames * len(delays)).reshape(frames, len(delays))
    return codes, delays


def test_a_small_grid():
    grid = apply_delay(np.array([[1, 2, 3], [4, 5, 6]]), [0, 1, 2], BOS)
    assert grid.dtype == np.int64
    assert grid.tolist() == [
        [BOS, BOS, BOS],
        [1, BOS, BOS],
        [4, 2, BOS],
        [FREE, 5, 3],
        [FREE, FREE, 6],
    ]


def test_without_a_prompt_bos_reaches_the_last_delay():
    grid = apply_delay(np.empty((0, 9), np.int64), DIA_DELAYS, BOS)
    assert grid.shape == (16, 9)
    for channel, delay in enumerate(DIA_DELAYS):
        assert (grid[: delay + 1, channel] == BOS).all()
        assert (grid[delay + 1 :, channel] == FREE).all()


@given(prompts())
def test_every_cell_holds_the_frame_of_its_delay(prompt):
    codes, delays = prompt
    grid = apply_delay(codes, delays, BOS)
    assert grid.shape == (1 + len(codes) + max(delays), len(delays))
    for step, channel in np.ndindex(grid.shape):
        frame = step - delays[channel]
        if frame <= 0:
            assert grid[step, channel] == BOS
        elif frame > len(codes):
            assert grid[step, channel] == FREE
        else:
            assert grid[step, channel] == codes[frame - 1, channel]


@given(prompts())
def test_revert_undoes_apply(prompt):
    codes, delays = prompt
    frames = revert_delay(apply_delay(codes, delays, BOS), delays)
    assert (frames[0] == BOS).all()
    np.testing.assert_array_equal(frames[1:], codes)


@pytest.mark.parametrize("steps", [0, 1, 14, 15])
def test_a_grid_shorter_than_the_delays_holds_no_frame(steps):
    assert revert_delay(np.zeros((steps, 9), np.int64), DIA_DELAYS).shape == (0, 9)


@pytest.mark.parametrize("frames", [1, 2, 20])
def test_the_grid_is_transformers(frames):
    processing = pytest.importorskip("transformers.models.dia.processing_dia")
    torch = pytest.importorskip("torch")
    pad = 1025
    codes = np.arange(frames * 9).reshape(frames, 9) % 1024
    steps = 1 + frames + max(DIA_DELAYS)
    undelayed = torch.full((1, steps, 9), pad)
    undelayed[0, 0] = BOS
    undelayed[0, 1 : frames + 1] = torch.tensor(codes)
    expected = processing.DiaProcessor.apply_audio_delay(
        undelayed,
        pad_token_id=pad,
        bos_token_id=BOS,
        precomputed_idx=processing.DiaProcessor.build_indices(1, steps, 9, DIA_DELAYS),
    )[0].numpy()
    grid = apply_delay(codes, DIA_DELAYS, BOS)
    np.testing.assert_array_equal(np.where(grid == FREE, pad, grid), expected)
