import random
import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from srum_rubric import parsing
from srum_rubric.parsing import parse_global, parse_regions
from srum_rubric.wording import ANYTHING, CROP, CROPS, GLOBAL, REGION, REGIONS

from srum_plugins.contracts import Answer
from srum_plugins.records import Failure, Judgement, Score, from_json, to_json

CAUSES = {
    parsing.NO_SCORE,
    parsing.OUT_OF_RANGE,
    parsing.MISSING_REGION,
    parsing.AMBIGUOUS,
    parsing.TRUNCATED,
    parsing.REFUSED,
}
NAMES = ("R1", "R2", "R3")
ASKED_GLOBAL = GLOBAL.replace("{text}", "a red circle")
ASKED_REGIONS = REGIONS.replace("{text}", "a red circle").replace(
    "{regions}", "\n".join(REGION.format(name=name, phrase=ANYTHING, x0=1, y0=2, x1=30, y1=14) for name in NAMES)
)

# --- adversarial answers: pieces of answers in any order, some changed, cut at any byte -------------------------------
NUMBERS = [
    *("0.5", "-0.5", "1", "1.0", "0", "-1.0", "+0.25", ".5", "-.5", "0.50", "00.5", "0.0", "-0", "-0.0"),
    *("−0.5", "－0.5", "０．５", "−１．０", "٠.٥", "०.५", "𝟎.𝟓", "½", "0²", "①", "0٫5", "–0.5", "‑0.5", "- 0.5"),
    *("1/2", "8/10", "90", "80%", "0.8%", "8 out of 10", "0.5-0.7", "0.5 - 0.7", "0.5, 0.7", "0,5", "0.5 0.6"),
    *("NaN", "nan", "inf", "-Infinity", "1e-1", "1E0", "0x1", "0_1", "1_0", "--0.5", "+-1", "0..5", "0.5.1", "0.5."),
    *(
        "1.",
        "0.",
        ".",
        "-",
        "1.0000000000000000000000001",
        "-1.00000000000000000001",
        "9" * 400,
        "0." + "0" * 400 + "1",
    ),
    *("~0.5", "<0.5", "0.5?", "(0.5)", '"0.5"', "half", "one", "0.5 (good)", "good 0.5", "0.5/1.0", "2", "-2", "1.01"),
    *("**0.8**", "*-0.5*", "`0.3`", "__1__", "0*5", "0`5", "\u200b0.5", "\u202e0.5", "0\u00ad.5", "0.5\u0301", "0.\n5"),
]
WORDS = [
    *(
        "a red circle",
        "nothing",
        "score",
        "Score: 0.4",
        "R2 | x | 0.1",
        "1.0",
        "I cannot see it",
        "sorry",
        "ＡＢＣ",
        "🟥",
    ),
    *("**bold**", "red \\| blue", "score: high", "what the region shows", "circle <3> <17> <14> <28> ;", "r1", "−", ""),
]
SIGNS = [":", " : ", "：", "|", " | ", "｜", " | | ", "=", "\t", " ", "", "\n", "-", "**:**", ":**"]
HEADS = [
    "score",
    "Score",
    "SCORE",
    "**score",
    "- score",
    "1. score",
    "| score",
    "ｓｃｏｒｅ",
    "final score",
    "reason",
    "> *score*",
]
NAMED = [
    "R1",
    "r1",
    "R2",
    "**R3**",
    "- R1",
    "| R2",
    "Ｒ２",
    "R4",
    "R01",
    "R",
    "R1:",
    "R 1",
    "1. r3",
    "R1 R2",
    "R²",
    "R٣",
]
BREAKS = ["\n", "\n", "\n", "\r\n", " \n ", "\r", "\u2028", "\x0b", "\x85", " ", "\n\n", "|\n|", ""]
TAGS = [
    "<think>",
    "</think>",
    "<THINK>",
    "</ think >",
    "< think>",
    "<think",
    "</thi",
    "<|think|>",
    "</think>\n",
    "<think>\n",
]
COPIED = [*ASKED_GLOBAL.splitlines(), *ASKED_REGIONS.splitlines(), ASKED_GLOBAL.lower(), ASKED_REGIONS]
ODD = [
    "\x00",
    "\ufeff",
    "\U0010ffff",
    "�",
    "```\n",
    "|---|---|---|\n",
    "{}",
    "\\",
    "'",
    "%s",
    "e\u0301" * 3,
    "I'm unable to",
]


@st.composite
def adversarial(draw: st.DrawFn) -> Answer:
    """Answers that are nearly right, in all ways at once. One draw of a seed stands for many, which would take long."""
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    odd = rng.choice([0.0, 0.1, 0.5, 1.0])  # how often a piece is another than the one that belongs there

    def one(fitting: Sequence[str], others: Sequence[str]) -> str:
        return rng.choice(others if rng.random() < odd else fitting)

    pieces: list[str] = []
    for _ in range(rng.randint(0, 9)):
        kind = rng.random()
        if kind < 0.35:
            pieces += [one(HEADS[:1], HEADS), one(SIGNS[:3], SIGNS), one(NUMBERS[:6], NUMBERS), one(BREAKS[:2], BREAKS)]
        elif kind < 0.8:
            cells = [one(NAMED[:4], NAMED), one(SIGNS[3:6], SIGNS), one(WORDS[:6], WORDS), one(SIGNS[3:6], SIGNS)]
            pieces += [*cells, one(NUMBERS[:6], NUMBERS), one(BREAKS[:2], BREAKS)]
        elif rng.random() < odd:
            pieces.append(rng.choice(rng.choice([NUMBERS, WORDS, SIGNS, BREAKS, TAGS, TAGS, COPIED, ODD])))
    text = "".join(pieces)
    if rng.random() < 0.2 and text:
        at = rng.randrange(len(text))
        text = text[:at] + chr(rng.choice([rng.randrange(0x20, 0x7F), rng.randrange(0x80, 0xD800)])) + text[at + 1 :]
    cut = rng.random() < 0.5
    if cut:
        data = text.encode()
        text = data[: rng.randint(0, len(data))].decode(errors=rng.choice(["replace", "ignore"]))
    return Answer(text, truncated=cut and rng.random() < 0.5)


# --- an oracle that shares nothing with the parser --------------------------------------------------------------------
def stated(text: str) -> set[float]:
    """The numbers that a text states at the end of a line, after a colon or a pipe, outside thoughts. A number is
    counted even where the parser refuses it: what the parser returns must be among these."""
    narrow = "".join(unicodedata.normalize("NFKC", c) if "！" <= c <= "～" else c for c in text).replace("−", "-")
    tag = r"<\s?(?:/\s?)?think\s?>"
    thought = re.compile(rf"<\s?think\s?>(?:(?!{tag}).)*<\s?/\s?think\s?>", re.IGNORECASE | re.DOTALL)
    while thought.search(narrow):
        narrow = thought.sub("\n", narrow)
    narrow = re.split(r"<\s?/\s?think\s?>", narrow, flags=re.IGNORECASE)[-1]
    if re.search(r"<\s?think\s?>", narrow, re.IGNORECASE):
        return set()
    found = set()
    for line in narrow.splitlines():
        ended = line.rstrip(" \t\xa0\u3000*_`|").removesuffix(".").rstrip(" \t\xa0\u3000*_`|")
        number = ended[len(ended.rstrip("+-.0123456789")) :]
        before = ended[: len(ended) - len(number)].rstrip(" \t\xa0\u3000*_`")
        if number.strip("+-.") and before.endswith((":", "|")):
            try:
                found.add(float(number))
            except ValueError:
                continue
    return found


def sound(result: Score | Failure, answer: Answer, least: float) -> None:
    if isinstance(result, Failure):
        assert result.cause in CAUSES and result.detail
    else:
        assert least <= result.value <= 1
        assert result.value in stated(answer.text)
        assert "\n" not in result.reason


@settings(max_examples=9000)
@given(adversarial())
def test_any_answer_about_the_whole_gives_a_stated_score_in_range_or_a_typed_failure(answer):
    sound(parse_global(answer, ASKED_GLOBAL), answer, 0.0)


@settings(max_examples=9000)
@given(adversarial())
def test_any_answer_about_regions_gives_stated_scores_in_range_or_typed_failures(answer):
    results = parse_regions(answer, NAMES, ASKED_REGIONS)
    assert tuple(results) == NAMES
    for result in results.values():
        sound(result, answer, -1.0)
    record = Judgement("c", Failure("no score"), tuple(results.values()))
    assert from_json(Judgement, to_json(record)) == record


@settings(max_examples=1000)
@given(st.text(), st.booleans())
def test_any_text_at_all_is_read_without_an_exception(text, truncated):
    answer = Answer(text, truncated)
    for result in (parse_global(answer), *parse_regions(answer, NAMES).values()):
        sound(result, answer, -1.0)


# --- what is well formed is read exactly ------------------------------------------------------------------------------
reasons = st.lists(st.text("abcdefg 0123456789.,;<>()%'ßé漢字-", min_size=1).map(str.strip), max_size=4).map(
    lambda parts: " ".join(" ".join(parts).split()).strip("-. ")
)
DIALECTS = {
    "asked": "{0}{1}",
    "blanks": "  {0} {1} ",
    "emphasis": "**{0}**{1}",
    "bullet": "- *{0}*{1}",
    "numbered": "1. {0}{1}",
    "table": "| {0}{1} |",
    "full stop": "{0}{1}.",
}
dialects = st.sampled_from(sorted(DIALECTS))
written = st.sampled_from(["{:.1f}", "{:.2f}", "{:+.3f}"])


def minus(text: str, sign: str) -> str:
    return text.replace("-", sign)


@settings(max_examples=500)
@given(reasons, st.integers(0, 1000), written, dialects, st.booleans(), st.sampled_from([":", " : ", "："]))
def test_a_well_formed_answer_about_the_whole_is_read_exactly(reason, thousandths, form, dialect, shout, colon):
    number = form.format(thousandths / 1000)
    lines = [f"reason{colon}{reason}", DIALECTS[dialect].format("SCORE" if shout else "score", f"{colon}{number}")]
    for text in ("\n".join(lines), " \n ".join(lines), "<think>\nscore: 0.3\n</think>\n" + "\r\n".join(lines)):
        assert parse_global(Answer(text), ASKED_GLOBAL) == Score(float(number), reason)


@settings(max_examples=500)
@given(
    st.lists(st.tuples(reasons, st.integers(-1000, 1000)), min_size=1, max_size=8),
    written,
    dialects,
    st.booleans(),
    st.sampled_from(["-", "−", "－"]),
    st.randoms(use_true_random=False),
)
def test_a_well_formed_answer_about_regions_is_read_exactly(scores, form, dialect, small, sign, random):
    lines, expected = [], {}
    for index, (reason, thousandths) in enumerate(scores):
        name, number = f"R{index + 1}", form.format(thousandths / 1000)
        cells = f" | {reason} | {minus(number, sign)}"
        lines.append(DIALECTS[dialect].format(name.lower() if small else name, cells))
        expected[name] = Score(float(number) + 0.0, reason)
    lines = [*lines, *random.sample(lines, random.randint(0, len(lines)))]
    random.shuffle(lines)
    asked = ASKED_REGIONS.splitlines()[-1]
    for text in ("\n".join(lines), f"{asked}\n" + " \n ".join(lines)):
        assert parse_regions(Answer(text), list(expected), ASKED_REGIONS) == expected


@given(st.lists(st.integers(-10, 10), min_size=1, max_size=5), st.integers(0, 200))
def test_of_a_cut_answer_exactly_the_complete_lines_count(tenths, at):
    lines = [f"R{index + 1} | a dog | {value / 10:.1f}\n" for index, value in enumerate(tenths)]
    text = "".join(lines)[:at]
    names = [f"R{index + 1}" for index in range(len(tenths))]
    found = parse_regions(Answer(text, truncated=True), names)
    for index, name in enumerate(names):
        if len("".join(lines[: index + 1])) <= at:
            assert found[name] == Score(tenths[index] / 10, "a dog")
        else:
            assert isinstance(found[name], Failure) and found[name].cause == parsing.TRUNCATED


# --- by name ----------------------------------------------------------------------------------------------------------
def alone(text: str) -> Score | Failure:
    """As the score of a region, which may be negative."""
    return parse_regions(Answer(f"R1 | a dog | {text}"), ("R1",))["R1"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("0.5", 0.5), ("-0.5", -0.5), ("−0.5", -0.5), ("－０．５", -0.5), ("+.25", 0.25), ("1", 1.0), ("-1", -1.0)],
        *[("0.50", 0.5), ("00.5", 0.5), ("0.8.", 0.8), ("**0.8**.", 0.8), ("`-0.0`", 0.0), ("0." + "3" * 5000, 1 / 3)],
    ],
)
def test_numbers(text, value):
    found = alone(text)
    assert isinstance(found, Score) and found.value == value
    assert str(found.value) != "-0.0"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1/2",
            "80%",
            "8 out of 10",
            "0.5-0.7",
            "0.5 to 0.7",
            "0,5",
            "NaN",
            "inf",
            "-inf",
            "1e-1",
            "0x1",
            "1_0",
            "1.",
        ),
        *("0.", "- 0.5", "–0.5", "--0.5", "~0.5", "0.5 (good)", "0²", "½", "٠.٥", "𝟎.𝟓", "0.5\u0301", "half", "", "?"),
        *("0*5", "0.5 | 0.7", "0.5 R2 | a cat | 0.7"),
    ],
)
def test_what_may_be_a_number_is_none(text):
    found = alone(text)
    assert isinstance(found, Failure) and found.cause == parsing.NO_SCORE


@pytest.mark.parametrize("text", ["90", "-1.5", "1.0000000000000000000000000001", "−2", "9" * 5000, "1.01."])
def test_numbers_out_of_range_are_told_and_never_clamped(text):
    assert alone(text).cause == parsing.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", parsing.NO_SCORE),
        ("It looks good.", parsing.NO_SCORE),
        ("reason: a dog", parsing.NO_SCORE),
        ("score:\n0.5", parsing.NO_SCORE),
        ("The final score: 0.5", parsing.NO_SCORE),
        ("reason: a dog, score: 0.5", parsing.NO_SCORE),
        ("score: -0.5", parsing.OUT_OF_RANGE),
        ("score: 0.5\nscore: 0.6", parsing.AMBIGUOUS),
        ("score: 0.5\nscore: 5/10", parsing.AMBIGUOUS),
        ("score: 0.5\n<think>hm</think>\nscore: 0.7", parsing.AMBIGUOUS),
        ("score: 0.<think>hm</think>5", parsing.NO_SCORE),
        ("sco<think>hm</think>re: 0.5", parsing.NO_SCORE),
        ("<think>It is fine. score: 0.5", parsing.TRUNCATED),
        ("<think>a <think>b</think> score: 0.5", parsing.TRUNCATED),
        ("score: 0.5\n<think>or not", parsing.TRUNCATED),
        ("I'm sorry, but I can't judge people.", parsing.REFUSED),
        ("I cannot see an image.", parsing.REFUSED),
        ("score: N/A, I am unable to tell", parsing.REFUSED),
        (ASKED_GLOBAL, parsing.NO_SCORE),
        (ASKED_GLOBAL.lower().replace(":", " :").replace("(", "( "), parsing.NO_SCORE),
    ],
)
def test_answers_about_the_whole_that_state_no_score(text, cause):
    found = parse_global(Answer(text), ASKED_GLOBAL)
    assert isinstance(found, Failure) and found.cause == cause


def test_an_answer_may_repeat_the_question_think_and_repeat_itself():
    text = f"{ASKED_GLOBAL}\nscore: 0.1 </think> <think> <think>score: 0.2</think> </think>\n"
    text += "Reason: a red circle.\n**Score:** 0.90\nReason: a red circle.\n| score | 0.9 |"
    assert parse_global(Answer(text), ASKED_GLOBAL) == Score(0.9, "a red circle.")


def test_all_before_the_end_of_a_thought_that_nothing_opened_is_thought():
    text = "score: 0.1\n<think>score: 0.2</think>\nscore: 0.3\n</think>\nscore: 0.4"
    assert parse_global(Answer(text)) == Score(0.4)


def test_a_cut_answer_counts_up_to_its_last_complete_line():
    assert parse_global(Answer("score: 0.5\nreason: a do", True)) == Score(0.5)
    assert parse_global(Answer("reason: a dog\nscore: 0.5\n", True)) == Score(0.5, "a dog")
    assert parse_global(Answer("reason: a dog\nscore: 0.5", True)).cause == parsing.TRUNCATED
    assert parse_global(Answer("I cannot do this.\nIf you", True)).cause == parsing.REFUSED


def test_the_small_models_blanks_and_letters():
    text = "r1 | red circle | 1.0 \n r2 | nothing | -1.0 \n"
    assert parse_regions(Answer(text), ("R1", "R2"), ASKED_REGIONS) == {
        "R1": Score(1.0, "red circle"),
        "R2": Score(-1.0, "nothing"),
    }
    text = "reason : red circle <3> <17> <14> <28> ; blue square <1> <2> <9> <9> \n score : 0.5"
    assert parse_global(Answer(text), ASKED_GLOBAL) == Score(
        0.5, "red circle <3> <17> <14> <28> ; blue square <1> <2> <9> <9>"
    )


def test_regions_fail_each_for_its_own_cause():
    text = "R1 | a dog | 0.5\nR2 | a cat | 3\nR3 | a cow\nR4 | a hen | 0.1\nR4 | a hen | 0.2\nR9 | a pig | 1.0"
    found = parse_regions(Answer(text), ("R1", "R2", "R3", "R4", "R5"))
    assert found["R1"] == Score(0.5, "a dog")
    assert [found[name].cause for name in ("R2", "R3", "R4", "R5")] == [
        parsing.OUT_OF_RANGE,
        parsing.NO_SCORE,
        parsing.AMBIGUOUS,
        parsing.MISSING_REGION,
    ]
    assert found["R5"].detail == "the answer has lines of R1, R2, R3, R4, R9 only"
    found = parse_regions(Answer("I'm sorry, I can't."), NAMES)
    assert {result.cause for result in found.values()} == {parsing.REFUSED}
    found = parse_regions(Answer("R1 | a dog | 0.5\nR1 | a cat | 0.5"), ("R1",))
    assert found == {"R1": Failure(parsing.AMBIGUOUS, "'a dog 0.5 / a cat 0.5'")}


@pytest.mark.parametrize("template", [REGIONS, CROPS])
def test_the_line_that_shows_the_form_is_no_answer_however_it_is_copied(template):
    line = template.splitlines()[-1]
    for copy in (line, line.lower(), f"- {line}", f"**{line}**", line.replace("(", " ( ").replace(".0", " . 0")):
        assert parse_regions(Answer(copy), ("R1",), template)["R1"].cause == parsing.NO_SCORE
        assert parse_regions(Answer(f"{copy}\nR1 | a dog | 0.5"), ("R1",), template)["R1"] == Score(0.5, "a dog")


@pytest.mark.parametrize(
    "text",
    [
        *("score: " + "9" * 10**5, "score: 0." + "1" * 10**5, "score: 0" + "." * 10**5, "score:" + "*" * 10**5 + "1."),
        *("<" * 10**5, "< " * 10**5, "<think>" * 10**4, "i " * 10**5, "R1 |" * 10**4, " " * 10**5, "\n" * 10**5),
    ],
    ids=lambda text: f"{text[:8]!r}...",
)
def test_long_answers_are_read_in_time(text):
    """A rule that takes the square of the length would take minutes."""
    parse_global(Answer(text))
    parse_regions(Answer(text), ("R1",))


def test_the_words_that_a_model_was_taught_are_these():
    """The shipped small model learnt to answer exactly these; others need a new pretraining."""
    assert CROP.format(name="R1", phrase="a dog") == "R1: a dog"
    assert REGION.format(name="R1", phrase="a dog", x0=1, y0=2, x1=3, y1=4) == "R1: a dog at 1 2 3 4"
    assert GLOBAL.splitlines()[-1] == "score: a number from 0.0 (nothing fits) to 1.0 (everything fits)"
