"""The scheduler over a decoder that is exact: whoever joins, leaves or fails, others are alone."""

import dataclasses
import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort.config import GenerationConfig
from dia_ort.errors import GenerationCancelledError, InvalidConfigError, NumericalError
from dia_ort.generation import Utterance
from dia_ort.scheduler import PREFILL_STEPS, Request, Scheduler
from dia_ort.text import encode_text
from support.hash_decoder import BROKEN, MODEL, SPOILT, HashDecoder, encode


def make_request(text, config, frames=0, memory=0):
    prompt = np.random.default_rng(frames).integers(0, 24, (frames, MODEL.num_channels))
    return Request(encode_text(text, 1024), Utterance(MODEL, config, prompt), memory)


def run(*requests, slots=1):
    scheduler = Scheduler(HashDecoder(slots), MODEL, encode)
    for request in requests:
        scheduler.add(request)
    while not scheduler.idle:
        scheduler.tick()
    return requests


@dataclasses.dataclass
class Arrival:
    """A request, when it comes, and when it is cancelled, if it is."""

    tick: int
    text: str
    config: GenerationConfig
    frames: int
    memory: int
    cancelled: int | None

    def request(self):
        config = dataclasses.replace(self.config, max_tokens=self.frames + self.config.max_tokens)
        return make_request(self.text, config, self.frames, self.memory)


configs = st.builds(
    GenerationConfig,
    max_tokens=st.integers(5, 70),
    cfg_scale=st.sampled_from([0.0, 1.0, 3.0]),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_p=st.sampled_from([0.5, 0.95]),
    cfg_filter_top_k=st.sampled_from([3, 10, 100]),
    seed=st.integers(0, 2**64 - 1),
)
arrivals = st.builds(
    Arrival,
    tick=st.integers(0, 40),
    text=st.sampled_from(
        ["[S1] a", "[S1] bc", "[S2] def" * 20, "[S1] a", "[S2] b", BROKEN, SPOILT]
    ),
    config=configs,
    frames=st.sampled_from([0, 0, 0, 1, 63, 64, 130]),
    memory=st.integers(1, 10),
    cancelled=st.none() | st.none() | st.integers(0, 80),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(arrivals, min_size=1, max_size=9), st.integers(1, 5), st.none() | st.integers(10, 20)
)
def test_all_are_what_they_are_alone(arrivals, slots, memory_limit):
    arrivals.sort(key=lambda arrival: arrival.tick)
    requests = [arrival.request() for arrival in arrivals]
    decoder = HashDecoder(slots)
    begun = []

    def note_and_encode(text):
        begun.append(next(r for r in requests if r.text is text))
        return encode(text)

    scheduler = Scheduler(decoder, MODEL, note_and_encode, memory_limit)
    ticks = 0
    while ticks <= 80 or not scheduler.idle:
        for arrival, request in zip(arrivals, requests, strict=True):
            if arrival.tick == ticks:
                scheduler.add(request)
            if arrival.cancelled is not None and ticks == max(arrival.cancelled, arrival.tick):
                had_slot = request in begun and not request.done
                scheduler.cancel(request)
                assert decoder.used.count(None) >= had_slot
        running = len(scheduler._running)
        calls = len(decoder.log)
        frames = {request: request.utterance.num_frames for request in requests}
        was_done = {request: request.done for request in requests}
        had_begun = {request: request.begun for request in requests}
        changed = scheduler.tick()
        ticks += 1

        # Whoever runs gets a step in every tick, and waits for a bounded piece of joining at most.
        names = [name for name, *_ in decoder.log[calls:]]
        assert names in (
            [],
            ["step"],
            ["set_text"],
            ["set_text", "step"],
            ["prefill"],
            ["prefill", "step"],
        )
        assert ("step" in names) >= (running > 0)
        taken = [request for request in begun if not request.done]
        assert sum(request.memory for request in taken) <= (memory_limit or np.inf)
        assert sum(script is not None for script in decoder.used) == len(taken)
        assert None not in decoder.used[: len(taken)]
        assert scheduler.num_active == len(taken)
        for request in requests:
            new = request.utterance.num_frames > frames[request] or request.done > was_done[request]
            assert request.begun == (request in begun)
            assert changed.count(request) == (new or request.begun > had_begun[request])
        assert ticks < 81 + len(requests) * (70 + 5)  # nobody starves

    assert begun == [r for r in requests if r in begun]  # first come, first served
    assert decoder.used == [None] * slots
    for arrival, request in zip(arrivals, requests, strict=True):
        (alone,) = run(arrival.request())
        codes = request.utterance.codes
        if isinstance(request.error, GenerationCancelledError):
            assert arrival.cancelled is not None
            assert np.array_equal(codes, alone.utterance.codes[: len(codes)])
        else:
            assert request.done
            assert type(request.error) is type(alone.error)
            assert np.array_equal(codes, alone.utterance.codes)
            assert request.utterance.finish_reason == alone.utterance.finish_reason


def test_failures_are_of_one_alone():
    config = GenerationConfig(seed=1, max_tokens=100)
    good, broken, spoilt = run(
        *(make_request(text, config) for text in ("[S1] good", BROKEN, SPOILT)), slots=3
    )
    assert good.error is None
    assert isinstance(broken.error, RuntimeError)
    assert isinstance(spoilt.error, NumericalError)
    assert "the logits after step 21 are not finite" in str(spoilt.error)
    assert len(spoilt.utterance.codes) == 21 - MODEL.max_delay
    assert all(request.done for request in (good, broken, spoilt))


def test_guidance_can_be_off_in_company():
    """A row without it is the same beside one with it, and another."""
    configs_ = [
        GenerationConfig(seed=1, cfg_scale=scale, cfg_filter_top_k=5, max_tokens=80)
        for scale in (0, 3, 0)
    ]
    together = run(*(make_request("[S1] a", config) for config in configs_), slots=3)
    assert np.array_equal(together[0].utterance.codes, together[2].utterance.codes)
    assert not np.array_equal(together[0].utterance.codes, together[1].utterance.codes)


def test_a_prompt_joins_in_pieces():
    decoder = HashDecoder(2)
    scheduler = Scheduler(decoder, MODEL, encode)
    scheduler.add(make_request("[S1] a", GenerationConfig(seed=3)))
    scheduler.tick()
    assert decoder.log == [("set_text", 0), ("step", 1)]
    scheduler.add(make_request("[S1] b", GenerationConfig(seed=4), frames=2 * PREFILL_STEPS + 1))
    decoder.log.clear()
    for _ in range(4):
        scheduler.tick()
    assert decoder.log == [
        ("set_text", 1),
        ("step", 1),
        ("prefill", 1),
        ("step", 1),
        ("prefill", 1),
        ("step", 1),
        ("prefill", 1),
        ("step", 2),
    ]


def test_what_never_fits_is_refused():
    scheduler = Scheduler(HashDecoder(1), MODEL, encode, memory_limit=1_000_000)
    request = make_request("[S1] a", GenerationConfig(max_tokens=77), memory=1_500_000)
    with pytest.raises(InvalidConfigError, match=r"take 1.5 MB .*\(max_tokens 77, 3 .* is 1.0 MB"):
        scheduler.add(request)
    assert scheduler.idle


def test_an_early_end_leaves_the_complete_frames():
    """Whenever the loop is left, the frames so far are the first of those there would be."""
    config = GenerationConfig(seed=1, max_tokens=80)
    (whole,) = run(make_request("[S1] a", config, frames=5))
    request = make_request("[S1] a", config, frames=5)
    scheduler = Scheduler(HashDecoder(1), MODEL, encode)
    scheduler.add(request)
    counts = []
    while not scheduler.idle:
        scheduler.tick()
        counts.append(request.utterance.num_frames)
        assert np.array_equal(request.utterance.codes, whole.utterance.codes[: counts[-1]])
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == len(whole.utterance.codes) == scheduler.frames
    assert request.utterance.finish_reason == whole.utterance.finish_reason


def test_a_thousand_requests_leave_nothing_behind():
    decoder = HashDecoder(4)
    scheduler = Scheduler(decoder, MODEL, encode)

    def speak(count):
        for number in range(count):
            config = GenerationConfig(seed=number, max_tokens=7 + number % 5)
            scheduler.add(make_request("[S1] a" + "a" * (number % 50), config, frames=number % 3))
            while len(scheduler._waiting) > 3:
                scheduler.tick()
        while not scheduler.idle:
            scheduler.tick()
        decoder.log.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = speak(300)
        after = speak(700)
    finally:
        tracemalloc.stop()
    assert after - before < 700 * 64  # NumPy keeps some small blocks; a request has 1 kB at least
