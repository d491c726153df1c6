import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.errors import DiaError, InvalidConfigError, InvalidTextError
from dia_ort.script import (
    NON_VERBALS,
    WORD,
    Change,
    Pause,
    Script,
    Turn,
    find_marks,
    parse_script,
    split_pauses,
)


def turns(text, speakers=None):
    """The items, a turn as its speaker and sentences, a pause as its seconds."""
    return [
        (item.speaker, *item.sentences) if isinstance(item, Turn) else item.seconds
        for item in parse_script(text, speakers).items
    ]


def changes(text):
    return {(c.kind, c.before, c.after, c.count) for c in parse_script(text).changes}


class TestForms:
    def test_tags(self):
        assert turns("[S1] Hello. How are you? [S2] Fine!") == [
            ("S1", "Hello.", "How are you?"),
            ("S2", "Fine!"),
        ]

    def test_plain_text_is_the_first_speakers(self):
        assert turns("Hello.\nHow are you?") == [("S1", "Hello.", "How are you?")]

    def test_text_before_the_first_tag_is_the_first_speakers_and_warned_of(self):
        script = parse_script("Hello there. [S2] Hi.")
        assert [turn.speaker for turn in script.items] == ["S1", "S2"]
        assert script.warnings == ("'Hello there.' stands before the first tag: S1 speaks it",)

    @pytest.mark.parametrize("tag", ["[s2]", "[ S2 ]", "[S 2]"])
    def test_tags_are_written_as_the_model_knows_them(self, tag):
        script = parse_script(f"[S1] Hi. {tag} Ho.")
        assert script.items[1] == Turn("S2", ("Ho.",))
        assert script.changes == (Change("speaker tag", tag, "[S2]", 1),)

    def test_a_tag_without_words_is_left_out_and_reported(self):
        script = parse_script("[S1] [S2] Hi. [S1]")
        assert script.items == (Turn("S2", ("Hi.",)),)
        assert script.changes == (Change("empty turn", "[S1]", "", 2),)

    @pytest.mark.parametrize("text", ["[S3] Hi.", "[S1] Hi. [S0] Ho", "[S12] x"])
    def test_other_tags_are_refused(self, text):
        with pytest.raises(InvalidTextError, match=r"has the tag .* knows \[S1\] and \[S2\]"):
            parse_script(text)

    @pytest.mark.parametrize("text", ["", " \n\t", "[S1] [S2]", "\u200b", "🙂", "[S1] ... [S2] ?"])
    def test_a_script_without_words_is_refused(self, text):
        with pytest.raises(InvalidTextError, match="no words"):
            parse_script(text)

    @pytest.mark.parametrize("text", ["(laughs)", "7", "漢", "ज", "٣", "🙂 [S2] Hi."])
    def test_a_letter_or_digit_of_any_language_is_a_word(self, text):
        assert parse_script(text).items

    def test_what_only_the_parser_reads_is_found(self):
        text = "\ufeff[S1] a [s2] b [pause 1s] c [S 1] (laughs) [pause 1s] [x]"
        assert find_marks(text) == ["[S 1]", "[pause 1s]", "[s2]", "\ufeff"]
        assert find_marks("[S1] a [S2] b") == []


class TestDialogue:
    @pytest.mark.parametrize(
        "text",
        [
            "Ann: Hi.\nBob: Ho.",
            "**Ann:** Hi.\n\n**Bob:** Ho.",
            "**Ann**: Hi.\n*Bob*: Ho.\n",
            "Ann:\nHi.\r\nBob:\r\nHo.",
            "ANN : Hi.\nBOB : Ho.",
            "S1: Hi.\nS2: Ho.",
            "Dr. Ann O'Neil: Hi.\nSpeaker 2: Ho.",
            "王: Hi.\n李: Ho.",
        ],
    )
    def test_names_become_speakers_in_order(self, text):
        assert turns(text) == [("S1", "Hi."), ("S2", "Ho.")]

    def test_names_are_reported(self):
        assert ("speaker name", "**Ann:**", "[S1]", 2) in changes(
            "**Ann:** A\n**Bob:** B\n**Ann:** C"
        )

    def test_a_turn_goes_on_in_the_next_line(self):
        assert turns("Ann: One\ntwo. Three.\nBob: Four.") == [
            ("S1", "One two.", "Three."),
            ("S2", "Four."),
        ]

    def test_speakers_that_are_named_s1_and_s2_stand_for_themselves(self):
        assert turns("S2: Hi.\nS1: Ho.") == [("S2", "Hi."), ("S1", "Ho.")]

    @pytest.mark.parametrize(
        ("speakers", "expected"),
        [
            ({"ann": "S2"}, "S2 S1"),
            ({" Bob": "S1"}, "S2 S1"),
            ({"Ann": "S2", "Bob": "S2"}, "S2 S2"),
            ({"Ann": "S1"}, "S1 S2"),
        ],
    )
    def test_a_mapping_comes_first_and_another_name_takes_what_it_leaves(self, speakers, expected):
        items = parse_script("Ann: Hi.\nBob: Ho.", speakers).items
        assert " ".join(item.speaker for item in items) == expected

    def test_a_third_name_is_mapped_or_refused(self):
        text = "Ann: Hi.\nBob: Ho.\nThe Old Man: Hm."
        assert turns(text, {"the old man": "S2"})[2] == ("S2", "Hm.")
        with pytest.raises(
            InvalidTextError,
            match=r"'Ann' and 'Bob' and 'The Old Man'.* write S1 or S2 instead .*"
            r"--speaker \"The Old Man=S1\" .*parse_script\(text, {'The Old Man': 'S1'}\)",
        ):
            parse_script(text)

    def test_a_mapped_name_needs_no_capitals(self):
        assert turns("the man in black: Hi.", {"The man in black": "S2"}) == [("S2", "Hi.")]

    def test_a_mapped_name_is_normalised_as_the_text_is(self):
        assert turns("O\u2019Neil: Hi.", {"O\u2019Neil": "S2"}) == [("S2", "Hi.")]

    def test_a_mapped_name_that_does_not_occur_is_warned_of(self):
        assert parse_script("Hi.", {"Ann": "S1"}).warnings == (
            "no line begins with 'ann' and a colon, so its speaker is not used",
        )

    @pytest.mark.parametrize("speakers", [{"Ann": "S3"}, {"Ann": "s1"}, {" ": "S1"}])
    def test_a_mapping_is_to_a_speaker_that_dia_has(self, speakers):
        with pytest.raises(InvalidConfigError, match="map a name to S1 or S2"):
            parse_script("Ann: Hi.", speakers)

    def test_what_stands_in_parentheses_after_a_name_is_kept(self):
        assert turns("Ann (laughs): Hi.\n**Bob (sighs):** Ho.") == [
            ("S1", "(laughs) Hi."),
            ("S2", "(sighs) Ho."),
        ]

    @pytest.mark.parametrize(
        "text", ["# Title\n\nAnn: Hi.\nBob: Ho.", "Ann: Hi.\n\nHe left.\n\nBob: Ho."]
    )
    def test_a_paragraph_that_names_no_speaker_is_refused(self, text):
        with pytest.raises(InvalidTextError, match=r"names no speaker.*begins with 'Ann:'"):
            parse_script(text)

    def test_pauses_may_stand_alone(self):
        text = "Ann: Hi.\n\n[pause 1s]\n\nBob: Ho.\n\n[pause 2]\nAnn: Hm.\n\n[pause 3]"
        assert turns(text) == [("S1", "Hi."), 1, ("S2", "Ho."), 2, ("S1", "Hm."), 3]

    def test_a_name_in_another_form_is_warned_of(self):
        script = parse_script("Ann: Hi.\nBob: Ho.\nAnn and Bob: Bye.")
        assert script.items[-1] == Turn("S2", ("Ho.", "Ann and Bob: Bye."))
        assert "'Ann and Bob:' is read aloud" in script.warnings[0]


class TestColons:
    @pytest.mark.parametrize(
        "text",
        [
            "10:30 is late.\n11:30 is later.",
            "http://a.b is one.\nhttps://c.d is another.",
            "and he said: no.\nand she said: yes.",
            "See: this.",
            "Ratio 1:2 it is.\nRatio 2:3 it is.",
            "What a long way to say a name it is: yes.\nAnd Then There Were Five Names: ten.",
            'He said: "Ann: come."',
        ],
    )
    def test_prose_stays_prose(self, text):
        (turn,) = parse_script(text).items
        assert turn.speaker == "S1"
        assert turn.text == text.replace("\n", " ")

    def test_a_single_line_that_looks_like_a_name_is_read_and_warned_of(self):
        script = parse_script("Note: it rains.")
        assert script.items == (Turn("S1", ("Note: it rains.",)),)
        assert '--speaker "Note=S1"' in script.warnings[0]
        assert "parse_script(text, {'Note': 'S1'})" in script.warnings[0]

    @pytest.mark.parametrize("text", ["Ann: [S1] Hi.\nBob: [S2] Ho.", "Ann: Hi. [S2] Ho."])
    def test_tags_and_names_together_are_refused(self, text):
        with pytest.raises(InvalidTextError, match=r"speaker tags, and a line .*'Ann:'"):
            parse_script(text)

    def test_tags_and_mapped_names_together_are_refused(self):
        with pytest.raises(InvalidTextError, match="speaker tags, and a line"):
            parse_script("[S1] Hi.\nAnn: Ho.", {"Ann": "S1"})

    def test_after_a_tag_a_name_is_text_and_warned_of(self):
        script = parse_script("[S1] Hi.\nWarning: one.\nNote: two.")
        assert script.items[0].text == "Hi. Warning: one. Note: two."
        assert len(script.warnings) == 2


class TestSentences:
    @pytest.mark.parametrize(
        "sentences",
        [
            ["One.", "Two!", "Three?", "Four..."],
            ['"No!" he said.', "(Yes.)", '"So?"', "Well."],
            ["Mr. Hale met Dr. J. Watson, e.g. Monday.", "It is I.", "Then he left."],
            ["The U.S. Army has 3.5 tons.", "Wow?!", "(laughs) Good."],
        ],
    )
    def test_where_they_end(self, sentences):
        assert turns(" ".join(sentences)) == [("S1", *sentences)]

    def test_a_blank_line_ends_one(self):
        assert turns("Chapter One\n\n\nIt rained\non.") == [("S1", "Chapter One", "It rained on.")]

    def test_line_breaks_are_reported(self):
        assert changes("[S1] a\nb\nc\n[S2] d\n\ne") == {("line break", "\n", " ", 2)}


class TestPauses:
    @pytest.mark.parametrize(
        ("mark", "seconds"),
        [
            ("[pause 0.8s]", 0.8),
            ("[pause 800ms]", 0.8),
            ("[pause 1]", 1),
            ("[Pause 1.5 S]", 1.5),
            ("[pause 0]", 0),
            ("[pause 10s]", 10),
        ],
    )
    def test_their_length(self, mark, seconds):
        script = parse_script(f"Hi. {mark} Ho.")
        assert script.items[1] == Pause(seconds)
        assert script.warnings == ()

    @pytest.mark.parametrize(
        "mark", ["[pause]", "[pause 11]", "[pause -1]", "[pause for effect]", "[pause 1e1]"]
    )
    def test_others_are_refused(self, mark):
        with pytest.raises(InvalidTextError, match=r"write a pause as \[pause 0.8s\]"):
            parse_script(f"Hi. {mark} Ho.")

    def test_the_speaker_stays(self):
        assert turns("[S2] Hi. [pause 1] Ho.") == [("S2", "Hi."), 1, ("S2", "Ho.")]

    def test_many_in_a_row_are_refused(self):
        with pytest.raises(InvalidTextError, match="pauses of 20 seconds in a row, and 10 are the"):
            parse_script("[S1] Hi. [pause 10] [S2] [pause 10] Ho.")

    def test_as_many_as_fill_the_most_are_not(self):
        assert len(parse_script("Hi." + " [pause 100ms]" * 100).items) == 101

    @pytest.mark.parametrize(
        ("text", "split"),
        [
            ("[S1] [pause 1s] Hi. [pause 2]", (1, "[S1] Hi. [pause 2]")),
            ("[pause 500ms]\n[S1][pause 1][S2] Hi.", (1.5, "[S1][S2] Hi.")),
            ("Hi. [pause 1]", (0, "Hi. [pause 1]")),
            ("[S1] [pause 1s] ", (1, "")),
            ("", (0, "")),
        ],
    )
    def test_those_at_the_beginning_are_split_from_the_rest(self, text, split):
        assert split_pauses(text) == split

    @pytest.mark.parametrize("text", ["[pause 11] Hi.", "[pause 6] [pause 6] Hi."])
    def test_those_at_the_beginning_are_checked_too(self, text):
        with pytest.raises(InvalidTextError):
            split_pauses(text)

    def test_brackets_that_are_left_are_warned_of(self):
        script = parse_script("[S1] hello. [S2 there. [pause 1s go. (laughs) [giggles] [")
        assert script.warnings == (
            "[giggles] is not a non-verbal that Dia knows, and may sound odd",
            "'[S2 there.' is neither a tag nor a pause, and is read aloud",
            "'[pause 1s go.' is neither a tag nor a pause, and is read aloud",
            "'[' is neither a tag nor a pause, and is read aloud",
        )

    @pytest.mark.parametrize("text", ["I think [pause 1] it is.", "I think... [pause 1] it is."])
    def test_one_inside_a_sentence_ends_it_and_says_so(self, text):
        script = parse_script(text)
        assert script.items[2] == Turn("S1", ("it is.",))
        assert "[pause 1] ends the sentence in which it stands" in script.warnings[0]

    @pytest.mark.parametrize(
        "text",
        [
            "Hi. [pause 1] Ho.",
            "Hi. [pause 1] ho.",
            '"Hi!" [pause 1] Ho.',
            "Hi (laughs) [pause 1] Ho.",
            "A Title\n\n[pause 1]\n\nit rained.",
            "[S1] Hi [pause 1] [S2] ho",
            "Hi [pause 1]",
        ],
    )
    def test_one_between_sentences_says_nothing(self, text):
        assert parse_script(text).warnings == ()

    def test_one_at_the_beginning_is_refused(self):
        with pytest.raises(InvalidTextError, match="begins with a pause"):
            parse_script("[S1] [pause 1] Hi.")


class TestNormalising:
    @pytest.mark.parametrize(
        ("text", "expected", "change"),
        [
            ("\u201ca\u201d", '"a"', ("quote", "\u201c", '"', 1)),
            ("it\u2019s", "it's", ("quote", "\u2019", "'", 1)),
            ("a\u2026", "a...", ("ellipsis", "\u2026", "...", 1)),
            ("5\u20136", "5-6", ("hyphen", "\u2013", "-", 1)),
            ("a\u2014b", "a - b", ("dash", "\u2014", "-", 1)),
            ("a \u2014 b", "a - b", ("dash", "\u2014", "-", 1)),
            ('"a\u2014" b', '"a -" b', ("dash", "\u2014", "-", 1)),
            ("\u2014 a", "- a", ("dash", "\u2014", "-", 1)),
            ("a--b", "a - b", ("dash", "--", "-", 1)),
            ("a\u00a0b", "a b", ("white space", "\u00a0", " ", 1)),
            ("a\tb", "a b", ("white space", "\t", " ", 1)),
            ("a   b", "a b", ("extra space", "  ", "", 1)),
            ("a\u200bb\u200b", "ab", ("invisible character", "\u200b", "", 2)),
            ("a\x07\x01", "a", ("invisible character", "\x01", "", 1)),
            ("cafe\u0301", "caf\u00e9", ("composition", "cafe\u0301", "caf\u00e9", 1)),
            ("a\r\n\r\nb", "a b", ("line end", "\r\n", "\n", 2)),
        ],
    )
    def test_what_trips_the_model_is_replaced_and_reported(self, text, expected, change):
        assert parse_script(text).items[0].text == expected
        assert change in changes(text)

    @pytest.mark.parametrize(
        "text", ["naïve café", "漢字 🙂", "run --fast now", "a-b - c", "1/2 & 50%"]
    )
    def test_the_rest_stays(self, text):
        script = parse_script(text)
        assert script == Script((Turn("S1", (text,)),))

    def test_lone_surrogates_are_refused(self):
        with pytest.raises(InvalidTextError, match="lone surrogate"):
            parse_script("a \ud83d")


class TestNonVerbals:
    def test_the_known_ones_stay(self):
        text = " ".join(NON_VERBALS)
        assert len(NON_VERBALS) == 21
        assert parse_script(text) == Script((Turn("S1", (text,)),))

    @pytest.mark.parametrize(
        ("aside", "hint"),
        [("(laugh)", "(laughs)"), ("(Sighs)", "(sighs)"), ("[coughs]", "(coughs)")],
    )
    def test_one_that_is_almost_known_is_warned_of(self, aside, hint):
        script = parse_script(f"Hi {aside} ho.")
        assert script.items[0].text == f"Hi {aside} ho."
        assert script.warnings[0].startswith(f"{aside} is not a non-verbal")
        assert script.warnings[0].endswith(f"do you mean {hint}?")

    def test_an_unknown_one_is_warned_of_once(self):
        (warning,) = parse_script("(door slams) Hi. (door slams)").warnings
        assert "do you mean" not in warning

    def test_prose_in_parentheses_is_not(self):
        assert parse_script("Hi (as he always said to me, 3 times).").warnings == ()


MARKS = (
    "[S1],[s2],[S2] ,Ann:,Bob: ,\n,\n\n,\r\n,[pause 1s],[pause 20ms] ,a.,B! ,c; ,\u2014,--,\u201c,"
    "\u2019,\u2026 ,\u200b,\u00a0,  ,é,e\u0301,漢,🙂,(laughs),(laugh),**,http://x.y,10:30,[pause,],"
    "[,S1],\x01,\t"
)
pieces = st.sampled_from(MARKS.split(","))
texts = st.lists(pieces | st.text(max_size=3), max_size=25).map("".join)


def letters(text):
    return [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]


@given(texts)
def test_any_text_is_parsed_whole_or_refused(text):
    try:
        script = parse_script("[S1]" + text.replace("[", ""))
    except DiaError:
        return
    spoken = " ".join(item.text for item in script.items)
    assert letters(spoken) == letters(text.replace("[", ""))


@given(texts)
def test_what_is_parsed_is_normal(text):
    try:
        script = parse_script(text)
    except DiaError:
        return
    for item in script.items:
        if isinstance(item, Turn) and WORD.search(item.text):
            again = parse_script(f"[{item.speaker}] {item.text}")
            assert again.changes == ()
            assert [turn.text for turn in again.items] == [item.text]
            assert all(sentence == sentence.strip() != "" for sentence in item.sentences)
