"""The engine's threads, handles and streams, over a decoder that is exact."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dia_ort import Engine, GenerationConfig, Voice
from dia_ort.errors import (
    EngineClosedError,
    EngineDiedError,
    GenerationCancelledError,
    InvalidConfigError,
    InvalidTextError,
    NumericalError,
    QueueFullError,
)
from support.hash_decoder import BROKEN, CODEC, MUTE, SPOILT, HashDia

LONG = GenerationConfig(seed=3, max_tokens=150, cfg_filter_top_k=5)
TEXTS = [f"[S1] {'a' * n}." for n in range(1, 13)]
WAIT = 60  # seconds until a test that hangs fails


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT)  # of an engine that was dropped
    assert set(threading.enumerate()) <= before


@pytest.fixture
def dia():
    return HashDia()


def go_on_when_told(dia, engine, messages):
    """Let steps go on as soon as so many things were told to the engine."""

    def wait():
        while engine._worker.inbox.qsize() < messages:
            time.sleep(0.001)
        dia.pause = None

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def same(one, other):
    return (
        np.array_equal(one.codes, other.codes)
        and np.array_equal(one.samples, other.samples)
        and (one.finish_reason, one.seed, one.sample_rate)
        == (other.finish_reason, other.seed, other.sample_rate)
    )


# Requests


def test_results_are_those_of_generate(dia):
    voice = Voice(np.random.default_rng(0).integers(0, 24, (70, 3)), "[S1] voice.")
    requests = [
        (text, GenerationConfig(seed=seed, cfg_filter_top_k=5, max_tokens=90 + 9 * seed), speaker)
        for seed, (text, speaker) in enumerate(zip(TEXTS, [None, voice, None] * 4, strict=True))
    ]
    with Engine(dia, max_batch=3) as engine, ThreadPoolExecutor(4) as callers:
        handles = list(callers.map(lambda request: engine.submit(*request), requests))
        audios = [handle.result(WAIT) for handle in handles]
    for request, handle, audio in zip(requests, handles, audios, strict=True):
        assert same(audio, dia.generate(*request))
        assert same(audio, handle.result())  # and again, after closing
        assert np.array_equal(handle.codes, audio.codes)
        assert (handle.done, handle.seed) == (True, request[1].seed)


def test_seeds_are_told_at_once(dia):
    dia.pause = 0
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.")
        seed = handle.seed
        assert not handle.done
        dia.pause = None
        assert handle.result(WAIT).seed == seed
    assert same(handle.result(), dia.generate("[S1] a.", GenerationConfig(seed=seed)))


def test_mistakes_are_told_at_once(dia):
    with Engine(dia) as engine:
        with pytest.raises(InvalidTextError):
            engine.submit("")
        with pytest.raises(InvalidConfigError, match="max_tokens is 4000"):
            engine.submit("[S1] a.", GenerationConfig(max_tokens=4000))


def test_limits_have_bounds(dia):
    for limits in ({"max_batch": 0}, {"max_batch": 1.5}, {"max_queue": -1}, {"memory_limit": 0}):
        with pytest.raises(
            InvalidConfigError, match=r"(max|memory)_\w+ is .*: give a whole number"
        ):
            Engine(dia, **limits)


def test_the_queue_is_bounded(dia):
    dia.pause = 0
    with Engine(dia, max_batch=1, max_queue=2) as engine:
        handles = [engine.submit("[S1] a.", LONG) for _ in range(3)]
        with pytest.raises(QueueFullError, match="has 3 requests, as many as it may hold"):
            engine.submit("[S1] a.", LONG)
        dia.pause = None
        handles[0].result(WAIT)
        handles.append(engine.submit("[S1] a.", LONG))
    assert all(same(handle.result(), handles[0].result()) for handle in handles)


def test_memory_is_bounded(dia):
    least = dia._request("[S1] a.", LONG, None).memory
    with pytest.raises(InvalidConfigError, match="lower max_tokens, or raise memory_limit"):  # noqa: SIM117
        with Engine(dia, memory_limit=least - 1) as engine:
            engine.submit("[S1] a.", LONG)
    with Engine(dia, memory_limit=2 * least) as engine:
        handles = [engine.submit("[S1] a.", LONG) for _ in range(4)]
    assert all(handle.done for handle in handles)
    assert max(width for name, width in dia.decoders[-1].log if name == "step") == 2


def test_failures_are_of_one_alone(dia):
    with Engine(dia) as engine:
        broken, good, spoilt = (engine.submit(text, LONG) for text in (BROKEN, "[S1] a.", SPOILT))
        with pytest.raises(RuntimeError, match="the encoder failed"):
            broken.result(WAIT)
        with pytest.raises(NumericalError):
            spoilt.result(WAIT)
        with pytest.raises(NumericalError):
            list(spoilt.audio())
    assert same(good.result(), dia.generate("[S1] a.", LONG))
    assert broken.done


def test_stats(dia):
    dia.pause = 0
    with Engine(dia, max_batch=2) as engine:
        handles = [engine.submit("[S1] a.", LONG) for _ in range(5)]
        while not (stats := engine.stats).running:
            time.sleep(0.001)
        assert (stats.queued + stats.running, stats.steps, stats.frames) == (5, 0, 0)
        dia.pause = None
    stats = engine.stats
    assert (stats.queued, stats.running) == (0, 0)
    assert stats.steps == sum(name == "step" for name, _ in dia.decoders[0].log)
    assert stats.frames == sum(len(handle.codes) for handle in handles)


def test_decoding_audio_holds_nobody_up(dia):
    held = threading.Event()
    decode = dia.decode_codes
    dia.decode_codes = lambda *codes, **_: held.wait(WAIT) and decode(*codes)
    with Engine(dia, max_batch=1) as engine:
        first, second = (engine.submit("[S1] a.", LONG) for _ in range(2))
        codes = np.concatenate(list(second.frames()))
        assert first.done
        with pytest.raises(TimeoutError):
            first.result(timeout=0)
        held.set()
        assert np.array_equal(first.result(WAIT).codes, codes)


# Cancelling


def test_cancelling_frees_the_slot_within_two_steps(dia):
    dia.pause = 0
    with Engine(dia, max_batch=1) as engine:
        first, second, third = (engine.submit("[S1] a.", LONG) for _ in range(3))
        while not dia.decoders[0].used[0]:
            time.sleep(0.001)
        first.cancel()
        second.cancel()  # before it is begun
        dia.pause = None
        for handle in (first, second):
            with pytest.raises(GenerationCancelledError):
                handle.result(WAIT)
            assert handle.done
        assert first._request.utterance.position <= 2
        assert second._request.utterance.position == 0
        audio = third.result(WAIT)
        third.cancel()  # too late
        assert same(third.result(), audio)
    assert same(audio, dia.generate("[S1] a.", LONG))


def test_streams_of_a_cancelled_request_say_so(dia):
    dia.pause = 30
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.", LONG)
        frames, chunks = handle.frames(), handle.audio((1,))
        next(frames)
        next(chunks)
        handle.cancel()
        dia.pause = None
        with pytest.raises(GenerationCancelledError):
            for _ in frames:
                pass
        with pytest.raises(GenerationCancelledError):
            next(chunks)
        assert 6 <= len(handle.codes) <= 28


# Closing


def test_closing_waits_for_all(dia):
    engine = Engine(dia, max_batch=2)
    handles = [engine.submit(text, LONG) for text in TEXTS]
    engine.close()
    assert all(handle.done for handle in handles)
    for text, handle in zip(TEXTS, handles, strict=True):
        assert same(handle.result(), dia.generate(text, LONG))
    with pytest.raises(EngineClosedError, match="the engine was closed"):
        engine.submit("[S1] a.", LONG)
    engine.close(drain=False)  # nothing more happens
    assert same(handles[0].result(), dia.generate(TEXTS[0], LONG))


def test_closing_waits_for_no_audio_that_it_gives_up(dia):
    """It is given up at the next window; who asks afterwards decodes what has ended."""
    begun, held, decode = threading.Event(), threading.Event(), dia.decode_codes
    given_up = []

    def decode_two_windows(*codes, on_window=None):
        begun.set()
        held.wait(WAIT)
        try:
            return decode(*codes, on_window=on_window)
        except EngineClosedError as error:
            given_up.append(error)
            raise

    dia.decode_codes = decode_two_windows
    engine = Engine(dia)
    handle = engine.submit("[S1] a.", LONG)
    assert begun.wait(WAIT)
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    while engine._worker.is_alive():
        time.sleep(0.001)
    held.set()
    closing.join(WAIT)
    assert given_up
    dia.decode_codes = decode
    for have in (handle.result(), handle.result(timeout=WAIT)):
        assert same(have, dia.generate("[S1] a.", LONG))


def test_after_closing_tasks_do_not_wait_for_each_others_audio(dia):
    """It is decoded in a thread still."""
    with Engine(dia) as engine:
        stream = engine.submit("[S1] a.", LONG).audio()
    threads, decode = [], dia.decode_codes

    def note(*codes):
        threads.append(threading.current_thread())
        return decode(*codes)

    dia.decode_codes = note

    async def main():
        return [chunk async for chunk in stream]

    assert asyncio.run(main())[-1].is_last
    assert threading.main_thread() not in threads


def test_a_closed_engine_keeps_no_decoder(dia):
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.", LONG)
    decoder = weakref.ref(dia.decoders.pop())
    gc.collect()
    assert decoder() is None
    assert engine.stats.frames == len(handle.codes)


@pytest.mark.parametrize("how", [{"drain": False}, {"timeout": 0.01}])
def test_closing_gives_up(dia, how):
    dia.pause = 0
    engine = Engine(dia, max_batch=1)
    running = engine.submit("[S1] a.", LONG)
    while not dia.decoders[0].used[0]:
        time.sleep(0.001)
    waiting = engine.submit("[S1] a.", LONG)
    opener = go_on_when_told(dia, engine, 3)  # of waiting, and to drain, and to give up
    engine.close(**how)
    opener.join()
    for handle in (running, waiting):
        with pytest.raises(EngineClosedError):
            handle.result(WAIT)
        with pytest.raises(EngineClosedError):
            list(handle.audio())
    assert running._request.utterance.position <= 2


def test_an_exception_in_the_block_gives_up(dia, monkeypatch):
    calls = []
    close = Engine.close

    def note(engine, *, drain):
        calls.append(drain)
        close(engine, drain=drain)

    monkeypatch.setattr(Engine, "close", note)
    with Engine(dia):
        pass
    with pytest.raises(ZeroDivisionError), Engine(dia):
        raise ZeroDivisionError
    assert calls == [True, False]


def test_a_dropped_engine_gives_up(dia):
    dia.pause = 0
    engine = Engine(dia)
    handle, worker, gone = engine.submit("[S1] a.", LONG), engine._worker, weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    dia.pause = None
    with pytest.raises(EngineClosedError):
        handle.result(WAIT)
    worker.join(WAIT)
    assert not worker.is_alive()


def test_a_dead_engine_says_so(dia):
    dia.pause = 0
    with Engine(dia, max_batch=1) as engine:
        handles = [engine.submit("[S1] a.", LONG) for _ in range(3)]
        dia.death = MemoryError("no more")
        dia.pause = None
        for handle in handles:
            with pytest.raises(
                EngineDiedError, match=r"died \(MemoryError\('no more'\)\)"
            ) as caught:
                handle.result(WAIT)
            assert caught.value.__cause__ is dia.death
        with pytest.raises(EngineDiedError, match="open another one"):
            engine.submit("[S1] a.", LONG)


def test_a_dead_engine_keeps_what_was_done(dia):
    with Engine(dia) as engine:
        done = engine.submit("[S1] a.", LONG)
        done.result(WAIT)
        dia.death = ValueError()
        with pytest.raises(EngineDiedError):
            engine.submit("[S1] a.", LONG).result(WAIT)
        assert np.concatenate([chunk.samples for chunk in done.audio()]).size


# Streams


@pytest.mark.parametrize("sizes", [(1,), (4, 8, 16), (7, 3), (1000,)])
def test_chunks_are_the_whole(dia, sizes):
    whole = dia.generate("[S1] a.", LONG)
    with Engine(dia) as engine:
        chunks = list(engine.submit("[S1] a.", LONG).audio(sizes))
    assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), whole.samples)
    lengths = [len(chunk.samples) for chunk in chunks]
    assert [chunk.start for chunk in chunks] == [sum(lengths[:i]) for i in range(len(chunks))]
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for number, length in enumerate(lengths[:-1]):
        assert length == CODEC.hop_length * sizes[min(number, len(sizes) - 1)]


@pytest.mark.parametrize("sizes", [(), (0,), (4, -1)])
def test_chunks_have_frames(dia, sizes):
    with Engine(dia) as engine, pytest.raises(InvalidConfigError, match="chunk_frames is"):
        engine.submit("[S1] a.", LONG).audio(sizes)


def test_chunks_come_before_the_end(dia):
    """The first one is decoded from its own frames and the codec's context, and no more."""
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.", LONG)
        lengths = []
        decode, dia.decode_codes = (
            dia.decode_codes,
            lambda codes, context, **_: lengths.append(len(codes)) or decode(codes, context),
        )
        for chunk in handle.audio((4,)):
            assert chunk.is_last or len(handle.codes) >= 4 + CODEC.context_frames
    assert lengths[0] == 4 + CODEC.context_frames
    assert max(lengths) == 4 + 2 * CODEC.context_frames


def test_speech_of_no_frames(dia):
    with Engine(dia) as engine:
        handle = engine.submit(MUTE, LONG)
        (chunk,) = handle.audio()
        assert (len(chunk.samples), chunk.is_last) == (0, True)
        assert list(handle.frames()) == []
        assert same(handle.result(WAIT), dia.generate(MUTE, LONG))


def test_a_loop_can_be_left_and_gone_on_with(dia):
    whole = dia.generate("[S1] a.", LONG)
    dia.pause = 30
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.", LONG)
        frames, chunks = handle.frames(), handle.audio()
        parts = [next(frames)]
        dia.pause = None
        parts += [next(frames), *frames]
        pieces = [next(chunks), *chunks]
        assert list(frames) == list(chunks) == []
        assert np.array_equal(np.concatenate(list(handle.frames())), whole.codes)  # from the start
    assert np.array_equal(np.concatenate(parts), whole.codes)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), whole.samples)
    assert same(handle.result(), whole)


def test_waiting_has_a_limit(dia):
    dia.pause = 0
    with Engine(dia) as engine:
        handle = engine.submit("[S1] a.", LONG)
        with pytest.raises(TimeoutError):
            handle.result(timeout=0)
        dia.pause = None
        assert same(handle.result(WAIT), dia.generate("[S1] a.", LONG))


def test_many_tasks_listen_at_once(dia):
    async def listen(handle):
        return [chunk async for chunk in handle.audio()], [new async for new in handle.frames()]

    async def main():
        with Engine(dia, max_batch=3) as engine:
            handles = [engine.submit(text, LONG) for text in TEXTS]
            return await asyncio.wait_for(asyncio.gather(*map(listen, handles)), WAIT)

    for text, (chunks, frames) in zip(TEXTS, asyncio.run(main()), strict=True):
        whole = dia.generate(text, LONG)
        assert np.array_equal(np.concatenate([c.samples for c in chunks]), whole.samples)
        assert np.array_equal(np.concatenate(frames), whole.codes)


@pytest.mark.parametrize("kind", ["frames", "audio"])
def test_a_task_that_is_cancelled_loses_nothing(dia, kind):
    async def main():
        with Engine(dia) as engine:
            dia.pause = 30
            handle = engine.submit("[S1] a.", LONG)
            stream = getattr(handle, kind)()
            items = []
            for pause in (40, 50, 60, None):
                while True:
                    waiting = asyncio.ensure_future(anext(stream))
                    for _ in range(3):
                        await asyncio.sleep(0)
                    if waiting.cancel():
                        break
                    items.append(waiting.result())
                await asyncio.wait([waiting])
                dia.pause = pause
            return [*items, *[item async for item in stream]]

    items = asyncio.run(asyncio.wait_for(main(), WAIT))
    whole = dia.generate("[S1] a.", LONG)
    if kind == "frames":
        assert np.array_equal(np.concatenate(items), whole.codes)
    else:
        assert np.array_equal(np.concatenate([c.samples for c in items]), whole.samples)


def test_errors_reach_tasks(dia):
    async def main():
        dia.pause = 0
        with Engine(dia) as engine:
            handle = engine.submit("[S1] a.", LONG)
            listening = asyncio.ensure_future(anext(handle.audio()))
            await asyncio.sleep(0)
            handle.cancel()
            dia.pause = None
            with pytest.raises(GenerationCancelledError):
                await asyncio.wait_for(listening, WAIT)

    asyncio.run(main())
