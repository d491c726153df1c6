"""Speech chunk by chunk as it is made: windows, and streams in the caller's thread and in tasks."""

import asyncio
import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort import Dia, GenerationConfig, Voice
from dia_ort.codec import CHUNK_FRAMES, ChunkWindows
from dia_ort.errors import InvalidConfigError, InvalidTextError, NumericalError
from support.hash_decoder import CODEC, MODEL, MUTE, SPOILT, HashDia

LONG = GenerationConfig(seed=3, max_tokens=150, cfg_filter_top_k=5)
TEXT = "[S1] a."
WAIT = 60

sizes = st.lists(st.integers(1, 100), min_size=1, max_size=4)


@pytest.fixture
def dia():
    return HashDia()


@pytest.fixture(scope="module")
def demo():
    return Dia.load("demo", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def codes(demo):
    codec = demo.manifest.codec
    return np.random.default_rng(0).integers(0, codec.codebook_size, (80, codec.num_codebooks))


def joined(chunks):
    return np.concatenate([chunk.samples for chunk in chunks])


def decode_windows(decode, codes, windows, arrivals=()):
    """The chunks of codes that arrive so many at a time, and then all the rest."""
    frames = 0
    for new in [*arrivals, len(codes)]:
        frames = min(frames + new, len(codes))
        while window := windows.next(frames, ended=frames == len(codes)):
            yield window.chunk(decode(codes[window.first : window.last], window.context))


def is_free(dia):
    """Whether the only decoder is idle, and has no utterance."""
    gc.collect()
    [decoder] = dia.decoders
    return list(dia._idle_decoder) == [decoder] and decoder.used == [None] * decoder.slots


# Windows


@settings(deadline=None)
@given(
    frames=st.integers(0, 300),
    chunk_frames=sizes,
    arrivals=st.lists(st.integers(0, 50), max_size=20),
)
def test_windows_are_the_whole_and_have_bounds(frames, chunk_frames, arrivals):
    codes = np.random.default_rng(frames).integers(0, 24, (frames, 3))
    lengths = []

    def decode(window, context):
        lengths.append(len(window))
        return HashDia.decode_codes(None, window, context)

    chunks = list(decode_windows(decode, codes, ChunkWindows(CODEC, chunk_frames), arrivals))
    assert np.array_equal(joined(chunks), HashDia.decode_codes(None, codes))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    start = 0
    for number, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
        size = chunk_frames[min(number, len(chunk_frames) - 1)]
        assert chunk.start == start
        assert len(chunk.samples) <= size * CODEC.hop_length
        assert chunk.is_last or len(chunk.samples) == size * CODEC.hop_length
        assert length <= size + 2 * CODEC.context_frames
        start += len(chunk.samples)


@settings(deadline=None, max_examples=8)
@given(frames=st.integers(0, 80), chunk_frames=sizes)
def test_the_demo_in_chunks_is_the_demo_at_once(demo, codes, frames, chunk_frames):
    windows = ChunkWindows(demo.manifest.codec, chunk_frames)
    chunks = decode_windows(demo.decode_codes, codes[:frames], windows)
    whole = demo.decode_codes(codes[:frames])
    assert np.abs(joined(chunks) - whole).max(initial=0) < 1e-5


@pytest.mark.parametrize("frames", [0, 1, 11, 40])
def test_the_demo_frame_by_frame(demo, codes, frames):
    chunks = decode_windows(
        demo.decode_codes, codes[:frames], ChunkWindows(demo.manifest.codec, [1])
    )
    whole = demo.decode_codes(codes[:frames])
    assert np.abs(joined(chunks) - whole).max(initial=0) < 1e-5


@pytest.mark.parametrize("frame", [0, 5, 40, 79])
def test_a_frame_is_heard_as_far_as_the_context_and_no_farther(demo, codes, frame):
    """The graph's receptive field is what its manifest says, on either side."""
    codec = demo.manifest.codec
    other = codes.copy()
    other[frame] = (other[frame] + 1) % codec.codebook_size
    change = np.abs(demo.decode_codes(other) - demo.decode_codes(codes))
    changed = np.flatnonzero(change.reshape(-1, codec.hop_length).any(axis=1))
    assert changed[0] == max(frame - codec.context_frames, 0)
    assert changed[-1] == min(frame + codec.context_frames, len(codes) - 1)


@pytest.mark.parametrize("chunk_frames", [(), (0,), (4, -1), (4.5,), 8, "", "abc", None])
def test_chunks_have_frames(dia, chunk_frames):
    for stream in (dia.stream, dia.astream, lambda text, **named: dia.start(text).stream(**named)):
        with pytest.raises(InvalidConfigError, match=r"chunk_frames is .*: give whole numbers"):
            stream(TEXT, chunk_frames=chunk_frames)


# In the caller's thread


@pytest.mark.parametrize("chunk_frames", [(1,), CHUNK_FRAMES, (7, 3), (1000,)])
def test_chunks_are_the_whole(dia, chunk_frames):
    voice = Voice(np.random.default_rng(0).integers(0, 24, (70, 3)), "[S1] voice.")
    for speaker in (None, voice):
        chunks = list(dia.stream(TEXT, LONG, speaker, chunk_frames=chunk_frames))
        assert np.array_equal(joined(chunks), dia.generate(TEXT, LONG, speaker).samples)
        assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert {chunk.sample_rate for chunk in chunks} == {dia.sample_rate}


def test_the_demo_streams_what_it_generates(demo):
    config = GenerationConfig(seed=7, max_tokens=100)
    chunks = list(demo.stream("[S1] hello world. [S2] this is dia.", config))
    whole = demo.generate("[S1] hello world. [S2] this is dia.", config).samples
    assert joined(chunks).shape == whole.shape
    assert np.abs(joined(chunks) - whole).max() < 1e-5


def test_mistakes_are_told_at_once(dia):
    for stream in (dia.stream, dia.astream):
        with pytest.raises(InvalidTextError):
            stream("")
        with pytest.raises(InvalidConfigError, match="max_tokens is 4000"):
            stream(TEXT, GenerationConfig(max_tokens=4000))


@pytest.mark.parametrize("size", [1, 4, 20])
def test_steps_to_the_first_chunk(dia, size):
    """The last channel's delay, the look-ahead, and the chunk's own frames."""
    next(dia.stream(TEXT, LONG, chunk_frames=[size]))
    steps = sum(name == "step" for name, _ in dia.decoders[0].log)
    assert steps == MODEL.max_delay + CODEC.context_frames + size


def test_steps_to_the_first_chunk_of_dia(demo):
    """The demo has the real model's delays and codec: 15 + 10 + 4."""
    assert demo.manifest.model.max_delay + demo.manifest.codec.context_frames == 25
    generation = demo.start("[S1] hello world.", GenerationConfig(seed=7, max_tokens=100))
    next(generation.stream())
    assert len(generation.codes) == 29 - 15


def test_a_stream_that_is_left_leaves_nothing(dia):
    threads = threading.enumerate()
    stream = dia.stream(TEXT, LONG)
    next(stream)
    assert threading.enumerate() == threads
    assert not is_free(dia)
    stream.close()
    assert is_free(dia)
    for _ in dia.stream(TEXT, LONG):
        break
    assert is_free(dia)


def test_a_generation_streams_from_its_start(dia):
    """However far it was run before, and as often as it is asked."""
    whole = dia.generate(TEXT, LONG)
    generation = dia.start(TEXT, LONG)
    for _ in zip(range(30), generation, strict=False):
        pass
    assert generation.finish_reason is None
    assert np.array_equal(joined(generation.stream()), whole.samples)
    assert np.array_equal(joined(generation.stream([9])), whole.samples)
    assert np.array_equal(generation.codes, whole.codes)
    assert np.array_equal(generation.audio().samples, whole.samples)
    assert generation.finish_reason == whole.finish_reason


def test_speech_of_no_frames(dia):
    [chunk] = dia.stream(MUTE, LONG)
    assert (len(chunk.samples), chunk.is_last) == (0, True)


def test_errors_come_after_what_is_done(dia):
    chunks = []
    with pytest.raises(NumericalError):
        chunks.extend(dia.stream(SPOILT, LONG, chunk_frames=[1]))
    assert len(chunks) > 5
    assert not chunks[-1].is_last


# In tasks


async def listen(stream):
    return [chunk async for chunk in stream]


def run(main):
    """Run a coroutine, and see that its threads end."""
    result = asyncio.run(asyncio.wait_for(main, WAIT))
    for thread in threading.enumerate():
        if thread.name.startswith("dia-ort"):
            thread.join(WAIT)
            assert not thread.is_alive()
    return result


def test_tasks_hear_the_whole(dia):
    async def main():
        return await asyncio.gather(
            *(listen(dia.astream(f"[S1] {n}.", LONG, chunk_frames=[n])) for n in range(1, 5))
        )

    for number, chunks in enumerate(run(main()), 1):
        assert np.array_equal(joined(chunks), dia.generate(f"[S1] {number}.", LONG).samples)


def test_a_generation_streams_to_a_task(dia):
    generation = dia.start(TEXT, LONG)
    chunks = run(listen(generation.astream()))
    assert np.array_equal(joined(chunks), generation.audio().samples)


def test_errors_reach_tasks(dia):
    with pytest.raises(NumericalError):
        run(listen(dia.astream(SPOILT, LONG)))


def test_a_task_that_is_cancelled_frees_everything(dia):
    """Others run while it waits; the step under way ends in the thread, which nobody waits for."""

    def wait_for_the_pause():
        while not (dia.decoders and len(dia.decoders[0].log) > 20):
            time.sleep(0.001)

    async def main():
        dia.pause = 20
        stream = dia.astream(TEXT, LONG)
        listening = asyncio.ensure_future(listen(stream))
        await asyncio.to_thread(wait_for_the_pause)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        dia.pause = None
        return listening, stream

    kept = run(main())
    assert is_free(dia)
    assert sum(name == "step" for name, _ in dia.decoders[0].log) <= 22
    del kept


@pytest.mark.parametrize("how", ["aclose", "break"])
def test_a_loop_that_is_left_frees_everything(dia, how):
    async def main():
        stream = dia.astream(TEXT, LONG)
        async for _ in stream:
            break
        if how == "aclose":
            await stream.aclose()

    run(main())
    assert is_free(dia)


def test_a_stream_that_nobody_hears_begins_nothing(dia):
    async def main():
        dia.astream(TEXT, LONG)

    run(main())
    assert dia.decoders == []
