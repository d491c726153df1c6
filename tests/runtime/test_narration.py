"""Narrations by an exact fake of the model, at 20 frames of 4 samples to the second."""

import dataclasses
import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest

from dia_ort import Dia, Engine, GenerationConfig, Voice, narration
from dia_ort.errors import (
    GenerationCancelledError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
)
from dia_ort.narration import NarrationOptions, Narrator, derive_seed, narrate
from dia_ort.plan import PlanLimits
from dia_ort.script import parse_script
from support.hash_decoder import BROKEN, MODEL, Recorder, SlowDia

MONOLOGUE = " ".join(f"This is sentence number {number}." for number in range(12))
DIALOGUE = "\n".join(
    f"{name}: Nobody knows what {name} says in line {number}."
    for number, name in enumerate(["Ann", "Bob"] * 6)
)
LATE = "[S1] " + MONOLOGUE + " [S2] " + MONOLOGUE
CONFIG = GenerationConfig(seed=5)
OPTIONS = NarrationOptions(limits=PlanLimits(min_seconds=1, max_seconds=4), crossfade=0.1)
VOICE = Voice(np.ones((8, 3), np.int64), "[S1] Hm. [S2] Hm.")


@pytest.fixture
def engine():
    with Recorder(SlowDia(), max_batch=3) as engine:
        yield engine


@pytest.fixture(autouse=True)
def faults(monkeypatch):
    """What `find_fault` says of samples and the expected seconds."""
    rules = {"fault": lambda samples, _: None if len(samples) else "empty"}
    monkeypatch.setattr(
        narration, "find_fault", lambda samples, _, __, expected: rules["fault"](samples, expected)
    )
    return rules


def same(first, second):
    return np.array_equal(first.samples, second.samples) and [
        (chunk.text, chunk.start, chunk.end, chunk.attempts) for chunk in first.chunks
    ] == [(chunk.text, chunk.start, chunk.end, chunk.attempts) for chunk in second.chunks]


class TestNarrate:
    def test_it_says_all_of_it_in_order(self, engine):
        result = narrate(engine, DIALOGUE, CONFIG, options=OPTIONS)
        planned = Narrator(engine, DIALOGUE, CONFIG, options=OPTIONS).plan.chunks
        assert len(planned) > 4
        assert [chunk.text for chunk in result.chunks] == [chunk.text for chunk in planned]
        assert [chunk.index for chunk in result.chunks] == list(range(len(planned)))
        assert result.duration == len(result.samples) / result.sample_rate

    def test_the_same_in_any_company(self, engine, faults):
        faults["fault"] = lambda samples, _: (
            "odd" if samples.sum() % 2 or not len(samples) else None
        )
        first = narrate(engine, DIALOGUE, CONFIG, options=OPTIONS)
        results = []
        threads = [
            threading.Thread(
                target=lambda seed: results.append(
                    narrate(engine, DIALOGUE, GenerationConfig(seed=seed), options=OPTIONS)
                ),
                args=[seed],
            )
            for seed in (5, 6, 5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(same(first, other) for other in results) == 2
        assert any(len(chunk.attempts) > 1 for chunk in first.chunks)
        with Engine(SlowDia(), max_batch=1) as alone:
            assert same(first, narrate(alone, DIALOGUE, CONFIG, options=OPTIONS))

    def test_a_parsed_script_is_the_same_as_its_text(self, engine):
        first, second = (
            narrate(engine, script, CONFIG, options=OPTIONS)
            for script in (DIALOGUE, parse_script(DIALOGUE))
        )
        assert same(first, second)

    def test_its_seed_makes_it_again(self, engine):
        first = narrate(engine, DIALOGUE, options=OPTIONS)
        assert same(
            first, narrate(engine, DIALOGUE, GenerationConfig(seed=first.seed), options=OPTIONS)
        )

    def test_a_short_text_is_spoken_as_it_stands(self, engine):
        text = "[S1] Hello   there. [S2] “Hi!”"
        (chunk,) = (result := narrate(engine, text, CONFIG)).chunks
        assert chunk.text == text
        assert chunk.seed == 5
        assert np.array_equal(result.samples, engine.dia.generate(text, CONFIG).samples)
        assert engine.submitted[0][2] is None

    @pytest.mark.parametrize(
        ("text", "spoken"),
        [
            ("Hello.", "[S1] Hello. [S2]"),
            ("[S1] Hello. [pause 1]", "[S1] Hello. [S2]"),
            ("Ann: Hello.\nBob: Hi.", "[S1] Hello. [S2] Hi. [S1]"),
        ],
    )
    def test_other_forms_get_tags(self, engine, text, spoken):
        assert [chunk.text for chunk in narrate(engine, text, CONFIG).chunks] == [spoken]


class TestVoices:
    def test_the_first_chunk_is_the_voice_of_the_rest(self, engine):
        chunks = narrate(engine, MONOLOGUE, CONFIG, options=OPTIONS).chunks
        voices = engine.voices()
        assert voices.pop(chunks[0].text) is None
        (voice,) = {id(voice): voice for voice in voices.values()}.values()
        expected = engine.dia.generate(chunks[0].text, CONFIG)
        assert np.array_equal(voice.codes, expected.codes)
        assert f"{voice.transcript} [S2]" == chunks[0].text

    def test_a_given_voice_is_that_of_all(self, engine):
        result = narrate(engine, DIALOGUE, CONFIG, VOICE, OPTIONS)
        assert all(voice is VOICE for voice in engine.voices().values())
        assert result.voice is VOICE

    def test_the_next_script_can_go_on_in_it(self, engine):
        narrator = Narrator(engine, LATE, CONFIG, options=OPTIONS)
        assert narrator.voice is None
        chunks = list(narrator)
        voice = narrator.voice
        assert voice is engine.voices()[chunks[-1].text]
        assert voice.transcript.count("[S2]") == 1
        again = narrate(engine, LATE, CONFIG, options=OPTIONS).voice
        assert np.array_equal(again.codes, voice.codes)
        assert narrate(engine, MONOLOGUE, CONFIG, voice, OPTIONS).voice is voice

    def test_none_that_is_good_leaves_no_voice(self, engine, faults):
        faults["fault"] = lambda *_: "odd"
        options = dataclasses.replace(OPTIONS, retries=0)
        assert narrate(engine, MONOLOGUE, CONFIG, options=options).voice is None

    def test_the_first_good_chunk_is_the_voice(self, engine, faults):
        first = Narrator(engine, MONOLOGUE, CONFIG, options=OPTIONS).plan.chunks[0]
        faults["fault"] = lambda _, expected: "odd" if expected == first.seconds else None
        options = dataclasses.replace(OPTIONS, retries=0)
        chunks = narrate(engine, MONOLOGUE + " One more sentence.", CONFIG, options=options).chunks
        good = next(chunk for chunk in chunks if not chunk.fault)
        assert good.index > 0
        for chunk in chunks[: good.index + 1]:
            assert engine.voices()[chunk.text] is None
        for chunk in chunks[good.index + 1 :]:
            assert f"{engine.voices()[chunk.text].transcript} [S2]" == good.text

    def test_who_comes_later_is_added(self, engine):
        options = NarrationOptions(limits=PlanLimits(min_seconds=1, max_seconds=3))
        chunks = narrate(engine, LATE, CONFIG, options=options).chunks
        new = next(chunk for chunk in chunks if "S2" in chunk.speakers)
        transcripts = [getattr(engine.voices()[chunk.text], "transcript", "") for chunk in chunks]
        first = chunks[0].text.removesuffix(" [S2]")
        both = f"{first} {new.text.removesuffix(' [S1]')}"
        rest = len(chunks) - new.index - 1
        assert transcripts == ["", *[first] * new.index, *[both] * rest]
        assert rest > 1

    def test_a_voice_without_tags_is_anybodys(self, engine):
        voice = Voice(VOICE.codes, "Hm.")
        narrate(engine, DIALOGUE, CONFIG, voice, OPTIONS)
        assert all(used is voice for used in engine.voices().values())

    def test_nobody_is_added_without_room(self, engine):
        options = dataclasses.replace(OPTIONS, retries=0)
        config = GenerationConfig(seed=5, max_tokens=60)
        narrate(engine, MONOLOGUE, config, options=options)
        assert set(engine.voices().values()) == {None}

    def test_the_chunks_leave_room_for_the_voice(self, engine):
        long = Voice(np.ones((150, 3), np.int64), "[S1] Hm.")
        chunks = Narrator(engine, MONOLOGUE, CONFIG, long).plan.chunks
        frames = MODEL.max_prompt - 150
        assert max(chunk.seconds for chunk in chunks) <= frames / 20 / 1.25
        for chunk in Narrator(engine, MONOLOGUE, CONFIG).plan.chunks:
            assert chunk.seconds <= MODEL.max_prompt / 20 / 1.25 / 2

    @pytest.mark.parametrize(
        "voice",
        [
            Voice(np.ones((350, 3), np.int64), "[S1] Hm."),
            Voice(VOICE.codes, "[S1] " + "hm " * 330),
        ],
    )
    def test_a_voice_that_leaves_no_room_is_refused(self, engine, voice):
        with pytest.raises(InvalidConfigError, match="cut both"):
            Narrator(engine, MONOLOGUE, CONFIG, voice)

    def test_max_tokens_shortens_the_chunks(self, engine):
        config = GenerationConfig(seed=5, max_tokens=8 + 5 + 100)
        chunks = Narrator(engine, MONOLOGUE, config, VOICE).plan.chunks
        assert max(chunk.seconds for chunk in chunks) <= 100 / 20 / 1.25
        few = GenerationConfig(seed=5, max_tokens=8 + 5 + 10)
        chunks = Narrator(engine, MONOLOGUE, few, VOICE).plan.chunks
        assert 1.5 < max(chunk.seconds for chunk in chunks) <= 2

    def test_max_tokens_that_the_voice_takes_is_refused_at_once(self, engine):
        with pytest.raises(InvalidConfigError, match="no step for speech after the voice's 8"):
            Narrator(engine, MONOLOGUE, GenerationConfig(max_tokens=9), VOICE)


class TestAttempts:
    def test_a_bad_chunk_is_tried_again(self, engine, faults):
        answers = iter(["odd", "odd"])
        faults["fault"] = lambda *_: next(answers, None)
        (chunk,) = narrate(engine, "[S1] Hello there.", CONFIG).chunks
        assert [attempt.fault for attempt in chunk.attempts] == ["odd", "odd", None]
        assert [attempt.seed for attempt in chunk.attempts] == [
            derive_seed(5, 0, n) for n in (0, 1, 2)
        ]
        assert (chunk.taken, chunk.fault) == (2, None)

    def test_the_best_is_kept_if_none_is_good(self, engine, faults):
        faults["fault"] = lambda *_: "odd"
        options = NarrationOptions(retries=6)
        (chunk,) = (result := narrate(engine, "[S1] Hello there.", CONFIG, options=options)).chunks
        assert len(chunk.attempts) == 7
        assert chunk.fault == "odd"
        taken = chunk.attempts[chunk.taken]
        assert chunk.seed == taken.seed
        assert len(result.samples) / 80 == taken.seconds
        wholes = [a for a in chunk.attempts if a.finish_reason == "eos" and a.seconds > 0.8]
        assert taken in (wholes or chunk.attempts)

    def test_all_but_the_last_are_stopped_when_far_too_long(self, engine):
        config = GenerationConfig(seed=5, max_tokens=300)
        (chunk,) = narrate(engine, "[S1] Hm.", config, VOICE).chunks
        limits = [config.max_tokens for _, config, _ in engine.submitted]
        frames = 8 + 20 * (3 * 4 / 15 + 1)
        assert all(limit == pytest.approx(frames + 5, abs=2) for limit in limits[:-1])
        assert limits[-1] == (300 if chunk.fault or len(limits) == 3 else limits[0])

    def test_without_retries_nothing_is_stopped(self, engine):
        narrate(engine, "[S1] Hm.", CONFIG, options=NarrationOptions(retries=0))
        assert [config.max_tokens for _, config, _ in engine.submitted] == [None]

    def test_seeds(self):
        seeds = [derive_seed(5, chunk, attempt) for chunk in range(40) for attempt in range(3)]
        assert len(set(seeds)) == len(seeds)
        assert seeds[0] == 5
        assert seeds[4] == derive_seed(5, 1, 1) == 7914777250463872585
        assert derive_seed(2**64 - 1, 1, 0) != derive_seed(0, 1, 0)


class TestTimes:
    SCRIPT = MONOLOGUE + " [pause 0.5] " + MONOLOGUE + " [pause 2]"

    def test_they_are_those_in_the_samples(self, engine):
        result = narrate(engine, self.SCRIPT, CONFIG, options=OPTIONS)
        pairs = list(itertools.pairwise(result.chunks))
        gaps = [round(after.start - before.end, 6) for before, after in pairs]
        assert max(gaps) == 0.5
        assert all(-0.1 <= gap < 0 for gap in gaps if gap != 0.5)  # half of a short chunk
        assert result.chunks[-1].end == pytest.approx(result.duration - 2)
        (pause,) = [before for before, after in pairs if after.start > before.end]
        assert not result.samples[round(pause.end * 80) : round(pause.end * 80) + 40].any()

    def test_a_set_pause_instead_of_crossfades(self, engine):
        options = dataclasses.replace(OPTIONS, pause=0.25)
        chunks = narrate(engine, self.SCRIPT, CONFIG, options=options).chunks
        gaps = [after.start - before.end for before, after in itertools.pairwise(chunks)]
        assert sorted(round(gap, 6) for gap in gaps) == [*[0.25] * (len(gaps) - 1), 0.5]

    def test_silences_are_cut_and_speed_is_changed(self, engine, monkeypatch):
        monkeypatch.setattr(
            narration, "shorten_silences", lambda s, _, limit: s[: round(limit * 10)]
        )
        monkeypatch.setattr(narration, "change_speed", lambda s, *_: s[::2])
        monkeypatch.setattr(narration, "check_speed", lambda _: None)
        options = NarrationOptions(max_silence=4, speed=2)
        assert len(narrate(engine, "[S1] Hello.", CONFIG, options=options).samples) == 20


class TestLoop:
    def test_it_runs_no_further_ahead_than_the_engine_is_wide(self, engine):
        chunks = iter(Narrator(engine, MONOLOGUE * 3, CONFIG, VOICE, OPTIONS))
        next(chunks)
        time.sleep(0.3)
        assert len(engine.submitted) <= 4
        assert len(list(chunks)) > 10

    def test_leaving_it_cancels_the_rest(self, engine):
        for _ in Narrator(engine, MONOLOGUE, CONFIG, VOICE, OPTIONS):
            engine.dia.pause = 20
            break
        engine.dia.pause = None
        assert not [t for t in threading.enumerate() if t.name.startswith("dia-ort-narration")]

    def test_an_error_ends_it(self, engine):
        with pytest.raises(RuntimeError, match="the encoder failed"):
            narrate(engine, BROKEN, CONFIG)
        engine.close(drain=False)
        with pytest.raises((GenerationCancelledError, RuntimeError)):
            narrate(engine, MONOLOGUE, CONFIG, options=OPTIONS)

    def test_a_script_without_words_is_refused_at_once(self, engine):
        with pytest.raises(InvalidTextError):
            Narrator(engine, "[S1] [S2]")


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"crossfade": 2},
        {"pause": 11},
        {"max_silence": -0.1},
        {"crossfade": float("nan")},
        {"retries": 1.5},
        {"retries": True},
        {"crossfade": None},
        {"pause": "1"},
        {"speed": "fast"},
        {"speed": 5},
        {"limits": 5},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InvalidConfigError, match=next(iter(options))):
        NarrationOptions(**options)


@pytest.mark.parametrize("script", ["[s1] Hi. [ S 2 ] Ho.", "[S\u00a01] Hi. [s2] Ho."])
def test_tags_that_only_people_can_read(engine, script):
    (chunk,) = Narrator(engine, script).plan.chunks
    assert chunk.text == "[S1] Hi. [S2] Ho."


def test_arguments_of_other_types(engine):
    with pytest.raises(InvalidConfigError, match=r"engine is SlowDia: .* `with Engine\(dia\)"):
        narrate(engine.dia, MONOLOGUE)
    with pytest.raises(InvalidConfigError, match="options is dict: give NarrationOptions"):
        narrate(engine, MONOLOGUE, options={"retries": 1})
    with pytest.raises(InvalidConfigError, match="config is dict"):
        narrate(engine, MONOLOGUE, {"seed": 5})
    with pytest.raises(InvalidAudioError, match=r"give Voice\.load\('low'\)"):
        narrate(engine, MONOLOGUE, CONFIG, "low")


def test_a_script_is_text(engine):
    with pytest.raises(InvalidTextError, match="the script is bytes"):
        narrate(engine, b"Hi.")


def test_a_long_script_takes_no_more_memory():
    """600 words through the demo, a few frames of each chunk."""
    psutil = pytest.importorskip("psutil")
    dia = Dia.load("demo", provider="cpu", threads=1)
    script = "hello world, this is dia. one two three four five. " * 60
    voice = Voice(dia.generate_codes("[S1] yes.", GenerationConfig(seed=1))[:8], "[S1] yes.")
    config = GenerationConfig(seed=1, max_tokens=36)
    sizes, spoken = [], []
    with Engine(dia, max_batch=4) as engine:
        for chunk in Narrator(engine, script, config, voice, NarrationOptions(retries=0)):
            assert len(chunk.samples)
            spoken.append(weakref.ref(chunk.samples))
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
            assert sum(samples() is not None for samples in spoken) <= 2
    assert len(sizes) >= 60
    assert sizes[-1] - sizes[len(sizes) // 3] < 2e6
