"""The engine on the built-in model: the same codes in any company, and audio as it is made."""

import asyncio
import gc
import itertools
import subprocess
import sys
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dia_ort import Dia, Engine, GenerationConfig, Voice
from dia_ort.errors import GenerationCancelledError
from dia_ort.scheduler import PREFILL_STEPS, Scheduler

WAIT = 60


@pytest.fixture(scope="module")
def dia():
    return Dia.load("demo", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def requests(dia):
    """Of many lengths and settings; two of them with voices, in one piece and in several."""
    codes = dia.generate_codes("[S1] hello world.", GenerationConfig(seed=1, max_tokens=90))
    voices = [Voice(codes[:frames], "[S1] hello world.") for frames in (20, PREFILL_STEPS + 3)]
    return [
        ("[S1] yes.", GenerationConfig(seed=1, max_tokens=40), None),
        (
            "[S1] one two three. [S2] four five six seven.",
            GenerationConfig(seed=2, max_tokens=70),
            None,
        ),
        ("[S2] no.", GenerationConfig(seed=3, max_tokens=55, cfg_scale=0), None),
        ("[S1] this is dia. " * 8, GenerationConfig(seed=4, max_tokens=48, temperature=0), None),
        ("[S1] go.", GenerationConfig(seed=5, max_tokens=60, cfg_filter_top_k=9), voices[0]),
        ("[S1] stop. [S2] go.", GenerationConfig(seed=6, max_tokens=100, top_p=0.8), voices[1]),
    ]


@pytest.fixture(scope="module")
def alone(dia, requests):
    return [dia.generate_codes(*request) for request in requests]


arrivals = st.tuples(
    st.integers(0, 5),  # which
    st.integers(0, 40),  # when
    st.none() | st.none() | st.integers(1, 60),  # cancelled how much later, if at all
)


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(coming=st.lists(arrivals, min_size=2, max_size=6), slots=st.integers(1, 4))
def test_codes_are_those_alone_in_any_company(dia, requests, alone, coming, slots):
    taken = [(which, dia._request(*requests[which])) for which, _, _ in coming]
    scheduler = Scheduler(dia.open_decoder(slots), dia.manifest.model, dia.encode_tokens)
    for tick in itertools.count():
        for (_, request), (_, arrival, patience) in zip(taken, coming, strict=True):
            if tick == arrival:
                scheduler.add(request)
            if patience and tick == arrival + patience:
                scheduler.cancel(request)
        scheduler.tick()
        if tick > 40 and scheduler.idle:
            break
    for which, request in taken:
        codes = request.utterance.codes
        cancelled = isinstance(request.error, GenerationCancelledError)
        assert cancelled or not request.error
        assert np.array_equal(codes, alone[which][: len(codes)] if cancelled else alone[which])


def test_the_engine_speaks_as_generate_does(dia, requests):
    alone = [dia.generate(*request) for request in requests]
    with Engine(dia, max_batch=3) as engine:
        handles = [engine.submit(*request) for request in requests]
    together = dia.generate_batch(["[S1] yes."] * 3, GenerationConfig(seed=1, max_tokens=40))
    for handle, audio in zip(handles, alone, strict=True):
        assert np.array_equal(handle.result().codes, audio.codes)
        assert np.array_equal(handle.result().samples, audio.samples)
    assert all(np.array_equal(audio.samples, alone[0].samples) for audio in together)


def test_streamed_audio_is_the_whole(dia, requests):
    """Within 1e-5, whatever the sizes of the chunks, for loops and for tasks."""

    async def listen(handle, sizes):
        return [chunk.samples async for chunk in handle.audio(sizes)]

    sizes = [(1,), (4, 8, 16, 32, 64), (30,)]
    with Engine(dia) as engine:
        handles = [engine.submit(*request) for request in requests[:3]]
        in_loops = [[c.samples for c in h.audio(s)] for h, s in zip(handles, sizes, strict=True)]

    async def main():
        with Engine(dia) as engine:
            handles = [engine.submit(*request) for request in requests[:3]]
            return await asyncio.gather(*map(listen, handles, sizes))

    in_tasks = asyncio.run(asyncio.wait_for(main(), WAIT))
    for request, *pieces in zip(requests[:3], in_loops, in_tasks, strict=True):
        whole = dia.generate(*request).samples
        for chunks in pieces:
            joined = np.concatenate(chunks)
            assert joined.shape == whole.shape
            assert np.abs(joined - whole).max() < 1e-5


def test_many_requests_take_no_more_memory(dia):
    """Of mixed lengths, a few hundred in one engine."""
    psutil = pytest.importorskip("psutil")

    def speak(engine, count):
        for start in range(0, count, 50):
            handles = [
                engine.submit(
                    "[S1] " + "yes no. " * (1 + number % 9),
                    GenerationConfig(seed=number, max_tokens=18 + number % 10),
                )
                for number in range(start, start + 50)
            ]
            assert all(len(handle.result(WAIT).samples) for handle in handles)
        gc.collect()
        return psutil.Process().memory_info().rss

    with Engine(dia, max_batch=4) as engine:
        before = speak(engine, 100)
        after = speak(engine, 200)
    assert after - before < 8e6


@pytest.mark.parametrize("work", ["", "handle = engine.submit('[S1] one two three.')"])
def test_an_open_engine_does_not_keep_python_from_ending(work):
    code = f"""
from dia_ort import Dia, Engine
engine = Engine(Dia.load("demo", provider="cpu", threads=1))
{work}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_thread_that_outlives_the_main_one_has_its_audio():
    """Executors take no more work then."""
    code = """
import threading
from dia_ort import Dia, Engine, GenerationConfig

def speak():
    threading.main_thread().join()
    with Engine(Dia.load("demo", provider="cpu")) as engine:
        audio = engine.submit("[S1] yes.", GenerationConfig(max_tokens=30)).result()
    print(len(audio.samples) > 0)

threading.Thread(target=speak).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_closed_engine_is_freed_at_once():
    """Not when the garbage collector comes by: it may be gigabytes."""
    gc.disable()
    try:
        dia = Dia.load("demo", provider="cpu", threads=1)
        with Engine(dia) as engine:
            engine.submit("[S1] yes.", GenerationConfig(max_tokens=30)).result()
        model = weakref.ref(dia)
        del dia, engine
        assert model() is None
    finally:
        gc.enable()
