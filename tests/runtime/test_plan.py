"""Plans; lengths in the examples are in characters, 15 to the second."""

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort import plan as planner
from dia_ort.errors import InvalidConfigError, InvalidTextError
from dia_ort.plan import CHARACTERS_PER_SECOND, PlanLimits, Span, plan
from dia_ort.script import NON_VERBALS, Pause, Script, Turn, parse_script
from dia_ort.text import encode_text


def words(seconds, end="."):
    """A sentence of so many seconds, in words of 4 letters; its space counts."""
    text = "word " * (round(seconds * CHARACTERS_PER_SECOND) // 5 + 1)
    return text[: round(seconds * CHARACTERS_PER_SECOND) - 1 - len(end)].strip() + end


def texts(script, **limits):
    if isinstance(script, str):
        script = parse_script(script)
    return [chunk.text for chunk in plan(script, PlanLimits(closing_tag=False, **limits)).chunks]


def lengths(script, **limits):
    return [round(chunk.seconds) for chunk in plan(script, PlanLimits(**limits)).chunks]


class TestText:
    def test_a_short_script_is_one_chunk(self):
        (chunk,) = plan(parse_script("[S1] Hello there. [S2] Hi! How are you?")).chunks
        assert chunk.text == "[S1] Hello there. [S2] Hi! How are you? [S1]"
        assert chunk.speakers == ("S1", "S2")
        assert chunk.spans == (Span(0, 0, 12), Span(1, 0, 16))
        assert (chunk.index, chunk.start, chunk.pause_after) == (0, 0, 0)

    @pytest.mark.parametrize(("speaker", "other"), [("S1", "S2"), ("S2", "S1")])
    def test_the_closing_tag_is_the_other_speakers(self, speaker, other):
        script = Script((Turn(speaker, ("Hi.",)),))
        assert plan(script).chunks[0].text == f"[{speaker}] Hi. [{other}]"
        assert texts(script) == [f"[{speaker}] Hi."]

    def test_turns_of_one_speaker_in_a_row_are_one(self):
        assert texts("[S2] One. [S2] Two. [S1] Three.") == ["[S2] One. Two. [S1] Three."]

    def test_every_chunk_says_who_speaks(self):
        script = Script((Turn("S2", tuple(words(9) for _ in range(4))),))
        assert all(text.startswith("[S2] word") for text in texts(script))
        assert lengths(script) == [18, 18]


class TestTimes:
    def test_the_estimate_is_15_characters_a_second(self):
        (chunk,) = plan(Script((Turn("S1", (words(8), words(6))),))).chunks
        assert chunk.seconds == pytest.approx(14)

    @pytest.mark.parametrize("sound", NON_VERBALS)
    def test_a_non_verbal_is_a_second(self, sound):
        (chunk,) = plan(Script((Turn("S1", (sound,)),))).chunks
        assert chunk.seconds == pytest.approx(1, abs=0.1)

    def test_a_chunk_starts_when_the_one_before_and_its_pause_end(self):
        result = plan(parse_script(f"{words(6)} [pause 2] {words(9)} [pause 1.5]"))
        first, second = result.chunks
        assert second.start == pytest.approx(first.seconds + 2)
        assert result.seconds == pytest.approx(second.start + second.seconds + 1.5)


class TestPauses:
    def test_one_ends_a_chunk(self):
        chunks = plan(parse_script("Hi. [pause 0.5] Ho. [pause 0] Hm. [pause 1]")).chunks
        assert [chunk.pause_after for chunk in chunks] == [0.5, 0, 1]
        assert chunks[1].text == "[S1] Ho. [S2]"

    def test_several_in_a_row_add_up(self):
        assert plan(parse_script("Hi. [pause 2] [pause 7]")).chunks[0].pause_after == 9

    def test_it_follows_the_last_chunk_before_it(self):
        chunks = plan(parse_script(f"{words(12)} {words(12)} [pause 1] Hi.")).chunks
        assert [chunk.pause_after for chunk in chunks] == [0, 1, 0]

    def test_several_in_a_row_are_not_too_long(self):
        with pytest.raises(InvalidTextError, match="pauses of 12 seconds in a row, and 10 are"):
            Script((Turn("S1", ("Hi.",)), Pause(8), Pause(4)))

    @pytest.mark.parametrize("items", [(), (Pause(1),), (Pause(1), Turn("S1", ("Hi.",)))])
    def test_a_script_begins_with_speech(self, items):
        with pytest.raises(InvalidTextError):
            Script(items)


class TestCuts:
    def test_between_turns_rather_than_sentences(self):
        turns = (Turn("S1", (words(4), words(5))), Turn("S2", (words(6), words(7))))
        assert lengths(Script(turns)) == [9, 13]

    def test_between_sentences_rather_than_clauses(self):
        sentences = (words(7, ",") + " " + words(9), words(8, ";") + " " + words(6))
        assert lengths(Script((Turn("S1", sentences),))) == [16, 14]

    @pytest.mark.parametrize("mark", [",", ";", ":", " -", ',"'])
    def test_between_clauses_if_a_sentence_is_too_long(self, mark):
        sentence = words(12, mark) + " " + words(11)
        assert lengths(Script((Turn("S1", (sentence,)),))) == [12, 11]

    def test_between_words_if_a_clause_is_too_long(self):
        script = Script((Turn("S1", (words(31),)),))
        first, second = texts(script)
        assert first.endswith(" word")
        assert second.startswith("[S1] word ")
        assert lengths(script) in ([15, 16], [16, 15])

    def test_a_long_word_is_whole_if_the_model_takes_it(self):
        word = "w" * 900
        assert f"[S1] {word}" in texts(f"Hello {word} there.")

    def test_a_longer_word_is_cut_between_characters(self):
        script = parse_script("é" * 1000)
        spoken = [re.sub(r"\[S.\] ", "", text) for text in texts(script)]
        assert "".join(spoken) == "é" * 1000
        assert max(len(text.encode()) for text in spoken) == 1022
        assert texts("w" * 1022) == ["[S1] " + "w" * 1022]

    def test_a_non_verbal_is_never_cut(self):
        text = " ".join(["(clears throat)"] * 40)
        assert all(
            re.fullmatch(r"\[S1\]( \(clears throat\))+", text)
            for text in texts(text, max_seconds=6)
        )

    def test_numbers_times_and_urls_are_not_cut(self):
        text = " ".join(["http://a.b/c,d 10:30 1,000"] * 20)
        joined = " ".join(re.sub(r"\[S.\] ", "", part) for part in texts(text, max_seconds=6))
        assert joined == text

    def test_what_is_too_short_is_joined_with_its_neighbours(self):
        turns = [Turn("S1", (words(14),)), Turn("S2", (words(1),)), Turn("S1", (words(14),))]
        assert lengths(Script(tuple(turns))) in ([15, 14], [14, 15])

    def test_a_sentence_is_cut_rather_than_a_chunk_too_short(self):
        turn = Turn("S1", (words(9, ",") + " " + words(10), words(2)))
        assert lengths(Script((turn,))) == [9, 12]

    def test_at_most_four_turns_if_they_are_long_enough(self):
        turns = tuple(Turn(f"S{1 + i % 2}", (words(2),)) for i in range(8))
        assert lengths(Script(turns)) == [8, 8]

    def test_more_turns_if_they_are_too_short(self):
        turns = tuple(Turn(f"S{1 + i % 2}", ("Yes.",)) for i in range(10))
        (text,) = texts(Script(turns))
        assert text.count("[S") == 10

    def test_chunks_begin_with_s1_if_nothing_speaks_against_it(self):
        turns = tuple(Turn(f"S{1 + i % 2}", (words(5),)) for i in range(12))
        assert all(text.startswith("[S1]") for text in texts(Script(turns)))

    def test_the_texts_fit_the_model(self):
        script = Script((Turn("S1", tuple(words(3) for _ in range(9))),))
        sizes = [encode_text(text, 100).size for text in texts(script, max_text=100)]
        assert len(sizes) == 5


class TestCrowds:
    @pytest.mark.parametrize("tiny", ["a ", "a, ", "a. ", "a\n\n", "[S1] a [S2] b ", "漢 "])
    def test_tiny_units_are_planned_in_bounded_work(self, tiny, monkeypatch):
        costs, cost = [], planner._cost
        monkeypatch.setattr(planner, "_cost", lambda *args: costs.append(1) or cost(*args))
        text = tiny * (20_000 // len(tiny))
        chunks = plan(parse_script(text)).chunks
        assert len(costs) < 10 * len(text)
        spoken = " ".join(untagged(chunk.text) for chunk in chunks)
        assert spoken.split() == re.sub(r"\[S.\]", "", text).split()
        assert all(5 <= chunk.seconds <= 20 for chunk in chunks)

    @pytest.mark.parametrize(
        "prose",
        [
            "Yes. No. [S1] Well, I do not know. [S2] So, what is it, then? " * 20,
            "this long unpunctuated paragraph wanders through several thoughts of hers " * 40,
        ],
    )
    def test_there_is_none_in_prose(self, prose):
        units, _ = next(planner._passages(parse_script(prose), PlanLimits()))
        assert list(planner._ends(units, PlanLimits())) == list(range(1, len(units) + 1))


@pytest.mark.parametrize(
    "limits",
    [
        {"min_seconds": 20},
        {"min_seconds": -1},
        {"max_seconds": float("nan")},
        {"max_seconds": 1e9},
        {"min_seconds": "5"},
        {"max_turns": 0},
        {"max_turns": "a"},
        {"max_text": 7},
    ],
)
def test_limits_are_checked(limits):
    with pytest.raises(InvalidConfigError):
        PlanLimits(**limits)


word = st.one_of(
    st.sampled_from(
        [*NON_VERBALS, "a,", "10:30", "-", "so;", "http://x.org/a,b", "(oh,", "I", "“é”"]
    ),
    st.text("ab,;.-'é漢🙂", min_size=1, max_size=12),
    st.integers(1, 120).map("x".__mul__),
    st.integers(1, 30).map("🙂".__mul__),
)
sentence = st.lists(word, min_size=1, max_size=30).map(" ".join)
turn = st.builds(
    Turn, st.sampled_from(["S1", "S2"]), st.lists(sentence, min_size=1, max_size=4).map(tuple)
)
pause = st.builds(Pause, st.sampled_from([0.0, 0.5, 1.25]))
scripts = st.builds(
    lambda first, rest: Script((first, *rest)),
    turn,
    st.lists(turn | turn | turn | pause, max_size=8),
)
limits = st.builds(
    lambda low, reach, **rest: PlanLimits(min_seconds=low, max_seconds=low + reach, **rest),
    st.floats(0, 8),
    st.floats(0.01, 20),
    max_turns=st.integers(1, 5),
    max_text=st.sampled_from([8, 9, 20, 60, 200, 1024]),
    closing_tag=st.booleans(),
)


def untagged(text):
    return re.sub(r" ?\[S[12]\] ?", " ", text).strip()


@settings(deadline=None)
@given(scripts, limits)
def test_a_plan_covers_its_script_once(script, limits):
    spans = [span for chunk in plan(script, limits).chunks for span in chunk.spans]
    assert spans == sorted(spans, key=lambda span: (span.turn, span.start))
    for index, item in enumerate(script.items):
        own = [span for span in spans if span.turn == index]
        if isinstance(item, Pause):
            assert not own
            continue
        assert (own[0].start, own[-1].end) == (0, len(item.text))
        for before, after in pairwise(own):
            assert item.text[before.end : after.start] in {"", " "}
            if before.end == after.start:  # within a word, which then is too long
                start = item.text.rfind(" ", 0, before.end) + 1
                word = item.text[start:].partition(" ")[0]
                most = limits.max_text - 2 - 2 * limits.closing_tag
                assert len(word.encode()) > most


@settings(deadline=None)
@given(scripts, limits)
def test_a_chunk_is_what_its_spans_say(script, limits):
    for index, chunk in enumerate(plan(script, limits).chunks):
        turns = [script.items[span.turn] for span in chunk.spans]
        spoken = [
            turn.text[span.start : span.end] for turn, span in zip(turns, chunk.spans, strict=True)
        ]
        assert chunk.index == index
        assert untagged(chunk.text) == " ".join(spoken)
        tags = re.findall(r"\[(S[12])\]", chunk.text)
        assert chunk.text.startswith("[S")
        assert chunk.text.endswith("]") == limits.closing_tag
        assert all(a != b for a, b in pairwise(tags))
        said = tags[:-1] if limits.closing_tag else tags
        assert said[0] == turns[0].speaker
        assert said[-1] == turns[-1].speaker
        assert chunk.speakers == tuple(dict.fromkeys(turn.speaker for turn in turns))
        assert encode_text(chunk.text, limits.max_text).size <= limits.max_text
        if chunk.seconds > limits.max_seconds + 1 / CHARACTERS_PER_SECOND:
            assert len(spoken) == 1
            assert " " not in spoken[0].replace("(clears throat)", "")


@settings(deadline=None)
@given(scripts, limits)
def test_pauses_stand_on_the_chunks_before_them(script, limits):
    silence = {}
    for index, item in enumerate(script.items):
        if isinstance(item, Pause):
            before = max(i for i in range(index) if isinstance(script.items[i], Turn))
            silence[before] = silence.get(before, 0) + item.seconds
    at, chunks = 0.0, plan(script, limits).chunks
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        last = chunk.spans[-1].turn
        ends = following is None or following.spans[0].turn != last
        assert chunk.pause_after == (silence.get(last, 0) if ends else 0)
        assert not any(span.turn in silence for span in chunk.spans[:-1])
        assert chunk.start == pytest.approx(at)
        at += chunk.seconds + chunk.pause_after
    assert plan(script, limits).seconds == pytest.approx(at)


@settings(deadline=None, max_examples=30)
@given(st.lists(word | st.integers(50, 150).map("a ".__mul__), min_size=1, max_size=4), limits)
def test_crowds_lose_nothing_and_fit(words, limits):
    words = " ".join(words).split()
    chunks = plan(Script((Turn("S1", (" ".join(words),)),)), limits).chunks
    spoken = [untagged(chunk.text) for chunk in chunks]
    assert "".join("".join(spoken).split()) == "".join(words)
    for chunk, text in zip(chunks, spoken, strict=True):
        assert encode_text(chunk.text, limits.max_text).size <= limits.max_text
        if chunk.seconds > limits.max_seconds + 1 / CHARACTERS_PER_SECOND:
            assert " " not in text.replace("(clears throat)", "")


@settings(deadline=None, max_examples=30)
@given(scripts, limits)
def test_no_other_way_to_cut_is_better(script, limits):
    units, _ = next(planner._passages(script, limits))
    units = units[:9]

    def cost(start, end):
        costs = dict(planner._last_chunks(units, end, range(end), limits))
        return costs.get(start)

    def total(bounds):
        costs = [cost(start, end) for start, end in pairwise(bounds)]
        return None if None in costs else tuple(map(sum, zip(*costs, strict=True)))

    ways = [
        total((0, *cuts, len(units)))
        for count in range(len(units))
        for cuts in combinations(range(1, len(units)), count)
    ]
    found = [0]
    for chunk in planner._partition(units, limits):
        found.append(found[-1] + len(chunk))
    best = min(way for way in ways if way is not None)
    assert total(found)[:5] == best[:5]
    assert total(found)[5] == pytest.approx(best[5])


@given(st.text(max_size=60), limits)
@settings(deadline=None)
def test_any_text_that_is_parsed_is_planned(text, limits):
    try:
        script = parse_script(text)
    except (InvalidTextError, InvalidConfigError):
        return
    spoken = " ".join(untagged(chunk.text) for chunk in plan(script, limits).chunks)
    expected = " ".join(item.text for item in script.items if isinstance(item, Turn))
    assert spoken.replace(" ", "") == expected.replace(" ", "")
