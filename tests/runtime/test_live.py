"""Live narrations, by an exact fake of the model at 20 frames of 4 samples to the second."""

import asyncio

import numpy as np
import pytest

from dia_ort import GenerationConfig, LiveNarrator, Voice, live, narration
from dia_ort.errors import (
    GenerationCancelledError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    QueueFullError,
)
from dia_ort.narration import NarrationOptions, Narrator, narrate
from dia_ort.plan import PlanLimits
from support.hash_decoder import BROKEN, Recorder, SlowDia

CONFIG = GenerationConfig(seed=5)
OPTIONS = NarrationOptions(
    limits=PlanLimits(min_seconds=1, max_seconds=4), crossfade=0.1, retries=0
)
MONOLOGUE = " ".join(f"This is sentence number {number}." for number in range(12))
PAUSED = "This is a sentence. [pause 0.5s] And this is another one. [pause 0.2s]"
DIALOGUE = "\n".join(
    f"{name}: Nobody knows what {name} says in line {number}."
    for number, name in enumerate(["Ann", "Bob"] * 6)
)
SHORT = "[S1] Hm. [S2] Hm."
VOICE = Voice(np.ones((8, 3), np.int64), "[S1] Hm. [S2] Hm.")


@pytest.fixture
def engine():
    with Recorder(SlowDia(), max_batch=3) as engine:
        yield engine


@pytest.fixture(autouse=True)
def defaults(monkeypatch):
    monkeypatch.setattr(live, "_DEFAULTS", OPTIONS)
    for module in (live, narration):
        monkeypatch.setattr(
            module, "find_fault", lambda samples, *_: None if len(samples) else "it is empty"
        )


async def collect(speech):
    return np.concatenate([samples async for samples in speech.samples()])


def voices_of(engine):
    return [voice for _, _, voice in engine.submitted]


def hear(narrator, *scripts):
    """The samples of each script."""

    async def run():
        return [await collect(narrator.speak(narrator.plan(script))) for script in scripts]

    return asyncio.run(run())


@pytest.mark.parametrize("script", [SHORT, MONOLOGUE, PAUSED, DIALOGUE])
@pytest.mark.parametrize("voice", [None, VOICE])
def test_it_says_what_a_narration_says(engine, script, voice):
    narrated = narrate(engine, script, CONFIG, voice, OPTIONS)
    (samples,) = hear(LiveNarrator(engine, CONFIG, voice), script)
    assert np.allclose(samples, narrated.samples, atol=1e-6)


def test_silence_comes_by_the_second(engine):
    narrator = LiveNarrator(engine, CONFIG)

    async def run():
        speech = narrator.speak(narrator.plan("This is a sentence. [pause 2.5s]"))
        return [len(samples) async for samples in speech.samples()]

    rate = narrator.sample_rate
    assert asyncio.run(run())[-3:-1] == [rate, rate]


@pytest.mark.parametrize("width", [1, 5])
def test_the_width_changes_nothing(engine, width):
    usual = hear(LiveNarrator(engine, CONFIG), DIALOGUE)
    other = hear(LiveNarrator(engine, CONFIG, width=width), DIALOGUE)
    assert np.array_equal(usual, other)


def test_chunks_run_ahead_as_far_as_they_may(engine):
    narrator = LiveNarrator(engine, CONFIG, VOICE)
    plan = narrator.plan(MONOLOGUE)
    assert len(plan.chunks) > 3

    async def run():
        speech = narrator.speak(plan)
        assert len(engine.handles) == 2
        async for _ in speech.samples():
            assert len(engine.handles) <= speech.chunk + 2
        assert len(engine.handles) == len(plan.chunks)

    asyncio.run(run())


def test_the_first_chunk_is_the_voice_of_the_rest(engine):
    narrator = LiveNarrator(engine, CONFIG)
    hear(narrator, MONOLOGUE)
    first, *rest = voices_of(engine)
    assert first is None
    assert len(rest) > 1
    for voice in rest:
        assert np.array_equal(voice.codes, engine.handles[0].codes)


def test_scripts_go_on_in_the_same_voice(engine):
    narrator = LiveNarrator(engine, CONFIG, goes_on=True)
    hear(narrator, "This is a sentence.", "And this is another one.")
    assert voices_of(engine)[0] is None
    assert np.array_equal(voices_of(engine)[1].codes, engine.handles[0].codes)
    assert engine.handles[0].seed != engine.handles[1].seed


def test_a_faulty_chunk_is_told_and_is_no_voice(engine, monkeypatch):
    monkeypatch.setattr(live, "find_fault", lambda *_: "it is silent")
    narrator = LiveNarrator(engine, CONFIG)

    async def run():
        speech = narrator.speak(narrator.plan(MONOLOGUE))
        await collect(speech)
        return speech

    speech = asyncio.run(run())
    assert speech.faults[0] == "chunk 1: it is silent"
    assert len(speech.faults) == len(speech.plan.chunks)
    assert set(voices_of(engine)) == {None}


def test_it_tells_how_far_it_is(engine):
    narrator = LiveNarrator(engine, CONFIG)

    async def run():
        speech = narrator.speak(narrator.plan(MONOLOGUE))
        await asyncio.wrap_future(speech.begun)
        seconds, chunks = [], []
        async for _ in speech.samples():
            seconds.append(speech.seconds)
            chunks.append(speech.chunk)
        assert seconds == sorted(seconds)
        assert chunks == sorted(chunks)
        assert chunks[-1] == len(speech.plan.chunks) - 1
        assert speech.num_frames == sum(len(handle.codes) for handle in engine.handles)
        assert speech.seconds == speech.num_frames / 20
        assert speech.num_tokens > len(MONOLOGUE)

    asyncio.run(run())


@pytest.mark.parametrize("how", ["close", "cancel", "task"])
def test_whoever_stops_frees_everything(engine, how):
    narrator = LiveNarrator(engine, CONFIG, VOICE)

    async def run():
        plan = narrator.plan(MONOLOGUE * 3)
        speech = narrator.speak(plan)
        samples = speech.samples()
        await anext(samples)
        if how == "close":
            await samples.aclose()
        elif how == "cancel":
            speech.cancel()
            with pytest.raises(GenerationCancelledError):
                await collect_rest(samples)
        else:
            task = asyncio.create_task(collect_rest(samples))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await samples.aclose()
        assert len(engine.handles) < len(plan.chunks) / 2

    async def collect_rest(samples):
        async for _ in samples:
            pass

    asyncio.run(run())
    engine.close(timeout=10)
    assert engine.stats.running == engine.stats.queued == 0
    assert all(handle.done for handle in engine.handles)


def test_a_chunk_that_fails_ends_it(engine):
    narrator = LiveNarrator(engine, CONFIG)
    with pytest.raises(RuntimeError, match="the encoder failed"):
        hear(narrator, BROKEN)


def test_a_second_chunk_that_is_refused_frees_the_first(engine, monkeypatch):
    narrator = LiveNarrator(engine, CONFIG, VOICE)
    plan = narrator.plan(MONOLOGUE)
    submit = engine.submit

    def submit_once(*arguments):
        if engine.handles:
            raise QueueFullError("the engine is full")
        return submit(*arguments)

    monkeypatch.setattr(engine, "submit", submit_once)
    with pytest.raises(QueueFullError):
        narrator.speak(plan)
    with pytest.raises(GenerationCancelledError):
        engine.handles[0].result(60)


def test_speed(engine):
    pytest.importorskip("av")
    (usual,) = hear(LiveNarrator(engine, CONFIG), MONOLOGUE)
    with pytest.raises(InvalidConfigError, match="speed"):
        LiveNarrator(engine, CONFIG, speed=5)
    # FFmpeg wants more than 80 samples to the second: the real thing is tested with the server.
    assert len(usual)


def test_what_cannot_be_spoken(engine):
    narrator = LiveNarrator(engine, CONFIG)
    with pytest.raises(InvalidTextError):
        narrator.plan("   ")
    with pytest.raises(InvalidConfigError, match="max_tokens"):
        LiveNarrator(engine, GenerationConfig(max_tokens=10**6))
    with pytest.raises(InvalidConfigError, match="width is 0"):
        LiveNarrator(engine, width=0)


def test_arguments_of_other_types(engine):
    with pytest.raises(InvalidConfigError, match="engine is SlowDia: give an Engine"):
        LiveNarrator(engine.dia)
    with pytest.raises(InvalidConfigError, match="config is dict"):
        LiveNarrator(engine, {"seed": 5})
    with pytest.raises(InvalidAudioError, match=r"give Voice\.load\('low'\)"):
        LiveNarrator(engine, CONFIG, "low")


def test_plans_are_those_of_a_narration(engine, monkeypatch):
    narrator = LiveNarrator(engine, CONFIG)
    assert narrator.plan(DIALOGUE) == Narrator(engine, DIALOGUE, CONFIG, options=OPTIONS).plan
    going_on = LiveNarrator(engine, CONFIG, goes_on=True)
    longer = NarrationOptions(limits=PlanLimits(min_seconds=1, max_seconds=15))
    monkeypatch.setattr(live, "_DEFAULTS", longer)
    text = "word " * 36  # one chunk that leaves no room for another one beside it
    assert len(narrator.plan(text).chunks) < len(going_on.plan(text).chunks)


def test_a_seed_is_made_and_told(engine):
    narrator = LiveNarrator(engine)
    (samples,) = hear(narrator, SHORT)
    (again,) = hear(LiveNarrator(engine, GenerationConfig(seed=narrator.seed)), SHORT)
    assert np.array_equal(samples, again)
