"""The judge ``questions``: reading lists, scoring answers, and asking one model for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from PIL import Image
from srum_questions.judge import QuestionsJudge, share_that_holds
from srum_questions.lists import read_questions
from srum_questions.options import QuestionsOptions
from srum_questions.plugin import srum_judges
from srum_questions.wording import WRITE
from srum_shapes.prompts import parse, to_prompt
from test_judges import located, picture

from srum_plugins.contracts import GREEDY, Answer, Capability, Decoding, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Failure, Grounding, Judgement, Region, Score, from_json, to_json

RED, BLUE, GREEN = (f"is there a {phrase} ?" for phrase in ("red circle", "blue square", "green cross"))
TEXT = "a red circle and a blue square"

shares = st.lists(st.floats(0, 1), min_size=1, max_size=8)
words = st.lists(st.text("abcdefgh'-0123456789", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join)
questions = words.filter(lambda text: text[0].isalpha() and text[0] != "q").map(lambda text: f"{text} ?")
bullets = st.sampled_from(
    ["", "- ", "* ", "+ ", "• ", "1. ", "12) ", "(3) ", "[4] ", "Q5: ", "Question 6: ", "7.", "> ", "## "]
)
bold = st.sampled_from(["", "*", "**", "_", "`", '"'])


# --- reading a list ---------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(bullets, bold, questions), max_size=6), st.sampled_from(["\n", "\r\n", " \n ", "\n\n"]))
def test_marks_are_taken_off_and_words_are_not(lines: list[tuple[str, str, str]], between: str) -> None:
    text = between.join(f"{bullet}{mark}{question}{mark}" for bullet, mark, question in lines)
    assert read_questions(text) == tuple(dict.fromkeys(question for _, _, question in lines))


@given(st.text())
def test_any_text_is_read_as_questions_that_are_read_again_alike(text: str) -> None:
    found = read_questions(text)
    assert all(question.endswith("?") and "\n" not in question for question in found)
    assert len({question.casefold() for question in found}) == len(found)
    assert len(found) <= len(text.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{RED} \n {BLUE}", (RED, BLUE)),
        (f"Here they are:\n1. {RED}\n2. {BLUE}\nI hope that helps!", (RED, BLUE)),
        ("- Is it RED?\n- is it red?\n- Is it  red?", ("Is it RED?",)),
        ("Are there 2 dogs?\n2.5 metres tall?\n3 cats?", ("Are there 2 dogs?", "2.5 metres tall?", "3 cats?")),
        ("**Is it red?**\n“Is it blue?”", ("Is it red?", "Is it blue?")),
        ('"STOP" is on the sign?\nIs the quiz hard?', ('"STOP" is on the sign?', "Is the quiz hard?")),
        ("Quick foxes?\nquestion marks?", ("Quick foxes?", "question marks?")),
        ("?\n1. ?\n---\n```\nIt is red.\nIs it red? yes", ()),
        ("", ()),
    ],
)
def test_lists_are_read(text: str, expected: tuple[str, ...]) -> None:
    assert read_questions(text) == expected


@given(st.lists(questions, min_size=1, max_size=5, unique_by=str.casefold), st.data())
def test_a_list_that_was_cut_off_keeps_its_whole_questions(lines: list[str], data: st.DataObject) -> None:
    text = "\n".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    whole = tuple(line for number, line in enumerate(lines) if len("\n".join(lines[: number + 1])) <= cut)
    assert read_questions(text[:cut]) == whole


# --- the score --------------------------------------------------------------------------------------------------------
@given(shares)
def test_the_share_is_a_share_and_knows_no_order(yes: list[float]) -> None:
    share = share_that_holds(yes)
    assert min(yes) - 1e-12 <= share <= max(yes) + 1e-12
    assert 0.0 <= share <= 1.0
    assert share == share_that_holds(yes[::-1]) == share_that_holds(sorted(yes))
    assert share_that_holds([1 - value for value in yes]) == pytest.approx(1 - share)


@given(shares, st.integers(0, 7), st.floats(0, 1))
def test_the_share_never_falls_when_an_answer_rises(yes: list[float], index: int, value: float) -> None:
    index %= len(yes)
    raised = [*yes[:index], max(value, yes[index]), *yes[index + 1 :]]
    assert share_that_holds(raised) >= share_that_holds(yes)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_sure_answers_are_counted(answers: list[bool]) -> None:
    assert share_that_holds([float(answer) for answer in answers]) == sum(answers) / len(answers)


@given(shares)
def test_what_the_model_does_not_know_counts_a_half(yes: list[float]) -> None:
    nearer = abs(share_that_holds([*yes, 0.5]) - 0.5)
    assert nearer <= abs(share_that_holds(yes) - 0.5)
    assert share_that_holds([0.5] * len(yes)) == 0.5


# --- the judge --------------------------------------------------------------------------------------------------------
class Writer(OracleModel):
    """Writes the given texts, one after the other, and answers by the oracle."""

    def __init__(self, *texts: str, sure: float = 0.9, truncated: bool = False) -> None:
        super().__init__(sure)
        self.texts, self.truncated = list(texts), truncated
        self.wanted: list[tuple[Question, Decoding]] = []

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        if any(question.image is not None for question in questions):
            return super().answer(questions, decoding)
        (question,) = questions
        self.wanted.append((question, decoding))
        text = self.texts[(len(self.wanted) - 1) % len(self.texts)]
        return [Answer(text, self.truncated, len(text.split()))]


def judge(model: OracleModel, image: Image.Image, *regions: Region, **options: Any) -> Judgement:
    (found,) = QuestionsJudge(QuestionsOptions(**options)).judge(
        [located(image, to_prompt(parse(TEXT), "p", ""))], [Grounding("c", regions)], model
    )
    return found


def test_the_share_of_the_written_questions_that_hold() -> None:
    image, regions = picture(TEXT)
    model = Writer(f"1. {RED}\n2. {BLUE}\n3. {GREEN}")
    found = judge(
        model, image, regions[0], Region(regions[1].box, "red circle"), Region(Box(0, 0, 4, 4), background=True)
    )
    assert isinstance(found.alpha, Score) and found.alpha.value == pytest.approx((0.9 + 0.9 + 0.1) / 3)
    assert found.alpha.reason == f"2 of 3 hold; p(yes) = 0.100: {GREEN}"
    assert [score.value for score in found.local if isinstance(score, Score)] == pytest.approx([0.8, -0.8, 0.0])
    assert found.raw == (
        f"1. {RED}\n2. {BLUE}\n3. {GREEN}",
        f"{RED} -> p(yes)=0.9, p(no)=0.1",
        f"{BLUE} -> p(yes)=0.9, p(no)=0.1",
        f"{GREEN} -> p(yes)=0.1, p(no)=0.9",
        "R1: is this a red circle ? -> p(yes)=0.9, p(no)=0.1",
        "R2: is this a red circle ? -> p(yes)=0.1, p(no)=0.9",
    )
    assert found.tokens == len(found.raw[0].split())
    assert from_json(Judgement, to_json(found)) == found
    assert [(question.text, decoding) for question, decoding in model.wanted] == [
        (WRITE.replace("{text}", TEXT), Decoding(max_tokens=256))
    ]
    assert all(question.image is image and question.choices == ("yes", "no") for question in model.asked)


def test_a_list_is_written_once_for_all_candidates_of_a_prompt() -> None:
    prompts = [to_prompt(parse(text), f"p{index}", "") for index, text in enumerate((TEXT, "two red circles", TEXT))]
    images = [picture(TEXT, seed)[0] for seed in range(3)]
    items = [located(image, prompt, f"c{n}") for n, (image, prompt) in enumerate(zip(images, prompts, strict=True))]
    groundings = [Grounding(f"c{n}", ()) for n in range(3)]
    model, asks = Writer(RED, BLUE), QuestionsJudge(QuestionsOptions())
    together = asks.judge(items, groundings, model)
    assert [question.text.rpartition(": ")[2] for question, _ in model.wanted] == [TEXT, "two red circles"]
    assert [found.raw[0] for found in together] == [RED, BLUE, RED]
    assert asks.judge(items[::-1], groundings[::-1], model) == together[::-1]
    assert len(model.wanted) == 2


def test_all_questions_about_all_images_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    image, regions = picture(TEXT)
    items = [located(image, to_prompt(parse(TEXT), "p", ""), f"c{n}") for n in range(2)]
    model = Writer(f"{RED}\n{BLUE}")
    calls: list[int] = []
    ask = model.choice_logprobs
    monkeypatch.setattr(model, "choice_logprobs", lambda asked: calls.append(len(asked)) or ask(asked))
    QuestionsJudge(QuestionsOptions()).judge(items, [Grounding(f"c{n}", tuple(regions)) for n in range(2)], model)
    assert calls == [8]


def test_a_list_without_questions_is_written_again_with_a_temperature_and_another_seed() -> None:
    image, _ = picture(TEXT)
    model = Writer("red circle", "it is red.", RED)
    found = judge(model, image, temperature=0.5, list_tokens=30)
    assert isinstance(found.alpha, Score) and found.raw[:3] == ("red circle", "it is red.", RED)
    assert found.tokens == 2 + 3 + 6
    asked = [(decoding.temperature, decoding.max_tokens, question.seed) for question, decoding in model.wanted]
    assert asked == [(0.0, 30, 0), (0.5, 30, 1), (0.5, 30, 2)]


def test_a_prompt_whose_questions_cannot_be_read_is_a_failure_and_its_regions_are_judged() -> None:
    image, (region, _) = picture(TEXT)
    for truncated, cause in ((False, "no questions"), (True, "truncated")):
        model = Writer("a red circle", truncated=truncated)
        found = judge(model, image, region, retries=1)
        assert isinstance(found.alpha, Failure) and found.alpha.cause == cause
        assert found.raw == ("a red circle",) * 2 + ("R1: is this a red circle ? -> p(yes)=0.9, p(no)=0.1",)
        assert isinstance(found.local[0], Score) and len(model.wanted) == 2


def test_whole_lines_of_a_list_that_was_cut_off_are_asked() -> None:
    found = judge(Writer(f"{RED}\n{BLUE}\nis there a gre", truncated=True), picture(TEXT)[0])
    assert isinstance(found.alpha, Score) and found.alpha.reason.startswith("2 of 2 hold")


def test_at_most_so_many_questions_are_asked() -> None:
    model = Writer(f"{RED}\n{BLUE}\n{GREEN}")
    judge(model, picture(TEXT)[0], max_questions=2)
    assert [question.text for question in model.asked] == [RED, BLUE]


def test_answers_that_are_no_probabilities_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Writer(RED)
    monkeypatch.setattr(model, "choice_logprobs", lambda asked: [(0.0, 0.0)] * len(asked))
    found = judge(model, picture(TEXT)[0])
    assert isinstance(found.alpha, Failure) and found.alpha.cause == "no probabilities"


def test_the_wording_changes_with_each_template() -> None:
    changes: list[dict[str, Any]] = [{}, {"template": "{text}"}, {"region_template": "{phrase}?"}, {"retries": 0}]
    hashes = [judge(Writer(RED), picture(TEXT)[0], **options).wording for options in changes]
    assert hashes[0] == hashes[3] and len(set(hashes)) == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"max_questions": 0},
        {"list_tokens": 0},
        {"retries": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"template": "write"},
        {"region_template": "is it ?"},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must"):
        QuestionsOptions(**setting)


def test_the_provider() -> None:
    (provider,) = srum_judges()
    assert provider.needs(QuestionsOptions()) == {Capability.ANSWER, Capability.CHOICE}
    made = provider.factory(QuestionsOptions())
    assert isinstance(made, QuestionsJudge)
    with pytest.raises(ContractError, match="needs a model"):
        made.judge([], [], None)
