import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.joins import Joiner, split

RATE = 1000
FADE = 0.02


def join(pieces, pauses, crossfade=FADE):
    """The whole, and where the pieces begin in it."""
    joiner = Joiner(RATE, crossfade)
    joined = [joiner.add(piece, pause) for piece, pause in zip(pieces, pauses, strict=True)]
    whole = np.concatenate([*(piece.samples for piece in joined), joiner.end()])
    return whole, [piece.start for piece in joined]


def wave(size, level=0.5, shift=0.0):
    return (level * np.sin(np.arange(size) / 9 + shift)).astype(np.float32)


def test_a_single_piece_stays_as_it_is():
    assert np.array_equal(join([wave(100)], [0])[0], wave(100))


def test_pieces_overlap_by_the_crossfade():
    whole, starts = join([wave(100), wave(200), wave(300)], [0, 0, 0])
    assert starts == [0, 80, 260]
    assert len(whole) == 560
    assert np.array_equal(whole[:80], wave(100)[:80])
    assert np.array_equal(whole[100:260], wave(200)[20:180])
    assert np.array_equal(whole[280:], wave(300)[20:])


def test_equal_pieces_fade_into_each_other_unheard():
    assert np.allclose(join([np.ones(50, np.float32)] * 3, [0, 0, 0])[0], 1)


def test_a_pause_is_silence_of_its_length():
    whole, starts = join([wave(100), wave(100)], [0.3, 0.5])
    assert starts == [0, 400]
    assert len(whole) == 1000
    assert not whole[100:400].any()
    assert not whole[500:].any()
    assert np.array_equal(whole[:80], wave(100)[:80])
    assert np.array_equal(whole[420:480], wave(100)[20:80])


def test_without_crossfade_pieces_stand_side_by_side():
    whole, starts = join([wave(100), wave(50)], [0, 0], crossfade=0)
    assert starts == [0, 100]
    assert np.array_equal(whole, np.concatenate([wave(100), wave(50)]))


@pytest.mark.parametrize("pause", [0, 0.1])
def test_empty_pieces_leave_no_trace(pause):
    pieces = [wave(100), wave(0), wave(100)]
    whole, starts = join(pieces, [pause, 0, 0])
    assert np.array_equal(whole, join([pieces[0], pieces[2]], [pause, 0])[0])
    assert starts[2] == len(whole) - 100
    assert len(join([wave(0)], [0])[0]) == 0


pieces = st.lists(
    st.tuples(
        st.integers(0, 120),
        st.floats(0, 1),
        st.floats(0, 6),
        st.sampled_from([0, 0, 0.01, 0.1]),
    ),
    min_size=1,
    max_size=6,
)


@given(pieces)
def test_joins_have_no_jumps(pieces):
    """But those of the pieces, and the steps of a ramp over what lies between them."""
    waves = [wave(size, level, shift) for size, level, shift, _ in pieces]
    whole, starts = join(waves, [pause for *_, pause in pieces])
    jumps = [np.abs(np.diff(piece)).max(initial=0) for piece in waves]
    sizes = [len(piece) for piece in waves if len(piece)]
    ramp = max(1, min([round(FADE * RATE), *(size // 2 for size in sizes)]))
    if sizes and min(sizes) >= 2 * round(FADE * RATE):
        assert np.abs(np.diff(whole)).max(initial=0) <= max(jumps) + 2 / ramp
    loudest = max((np.abs(piece).max(initial=0) for piece in waves), default=0)
    assert np.abs(whole).max(initial=0) <= loudest + 1e-6
    for piece, start in zip(waves, starts, strict=True):
        inner = slice(start + 20, start + max(len(piece) - 20, 20))
        assert np.allclose(whole[inner], piece[20:-20], atol=1e-7)


def test_two_tones_are_joined_without_a_click():
    """A cut would jump by up to 1; the crossfade adds 1/20 of that to the tones' own steps."""
    first, second = wave(500, 0.5, 0.3), wave(500, 0.5, 3.4)
    own = max(np.abs(np.diff(first)).max(), np.abs(np.diff(second)).max())
    assert np.abs(np.diff(join([first, second], [0, 0], crossfade=0)[0])).max() > 3 * own
    assert np.abs(np.diff(join([first, second], [0, 0])[0])).max() <= own + 1 / 20


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 50), max_size=6), st.sampled_from([0, 0, 0.05])),
        max_size=6,
    )
)
def test_parts_give_what_whole_pieces_give(pieces):
    whole, starts = join([wave(sum(sizes)) for sizes, _ in pieces], [p for _, p in pieces])
    joiner = Joiner(RATE, FADE)
    given, begun = [], []
    for sizes, pause in pieces:
        ends = np.cumsum(sizes, dtype=int)[:-1]
        given += [joiner.push(part) for part in np.split(wave(sum(sizes)), ends)]
        given.append(joiner.close(pause))
        begun.append(joiner.start)
    assert np.array_equal(np.concatenate([*given, joiner.end()]), whole)
    assert begun == starts


def test_parts_are_given_but_for_what_may_fade():
    joiner = Joiner(RATE, FADE)
    assert len(joiner.push(wave(10))) == 5
    assert len(joiner.push(wave(90))) == 75
    assert not len(joiner.close())
    assert not len(joiner.push(wave(39)))  # the next piece fades in by half of its length
    assert len(joiner.push(wave(1))) == 20


def test_split_samples_are_the_same():
    assert [len(piece) for piece in split(wave(250), 100)] == [100, 100, 50]
    assert np.array_equal(np.concatenate(list(split(wave(250), 100))), wave(250))
    assert not list(split(wave(0), 100))
