"""What the built-in monitors compute: properties, and readings of scripted models and judges."""

import base64
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_backend
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.contracts import Answer, Generated, Located, ModelAdapter, Question
from srum_plugins.errors import ConfigError
from srum_plugins.monitors import understanding
from srum_plugins.monitors.grounding import GroundingMonitor, agreement, coverage, filtered
from srum_plugins.monitors.held_out import HeldOutJudge
from srum_plugins.monitors.latents import Latents, moved
from srum_plugins.monitors.options import (
    GroundingOptions,
    HeldOutJudgeOptions,
    LatentsOptions,
    Levels,
    RewardHackingOptions,
    UnderstandingOptions,
)
from srum_plugins.monitors.plugin import srum_monitors
from srum_plugins.monitors.question_files import read_questions
from srum_plugins.monitors.reward_hacking import RewardHacking
from srum_plugins.monitors.understanding import Understanding, first_choice
from srum_plugins.records import Box, Candidate, Failure, Grounding, Judgement, Prompt, Reading, Region, Score

PROMPTS = toy_backend.make_prompts(4, "train", "p")


class Run:
    """A scripted :class:`srum_plugins.contracts.Watched`."""

    def __init__(self, grounded: Sequence[Grounding] = ()) -> None:
        self.seed = 5
        self.prompts = PROMPTS
        self.grounded = grounded
        self.alphas: dict[str | None, list[float | None]] = {None: [0.5], "judge": [0.5]}

    def candidates(self) -> Sequence[tuple[Candidate, Grounding]]:
        return [(Candidate(one.candidate_id, "p0", 0, 0, "x.png", 8, 8), one) for one in self.grounded]

    def located(self, candidates: Sequence[Candidate]) -> list[Located]:
        return [Located(PROMPTS[0], one, Image.new("RGB", (8, 8))) for one in candidates]

    def latents(self, count: int) -> tuple[list[Prompt], list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        return list(PROMPTS[:count]), [torch.rand(3, 4, 4, generator=generator) for _ in PROMPTS[:count]]

    def generate(self, model: ModelAdapter, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Generated]:
        assert len(set(seeds)) == len(seeds)
        return [Generated(Image.new("RGB", (8, 8))) for _ in prompts]

    def judge(self, items: Sequence[Located], model: ModelAdapter, option: str | None = None) -> list[Judgement]:
        given = self.alphas[option]
        return [
            Judgement(
                item.candidate.id, Failure("no") if (value := given[i % len(given)]) is None else Score(value), ()
            )
            for i, item in enumerate(items)
        ]


def toy() -> toy_backend.ToyAdapter:
    return toy_backend.ToyAdapter(toy_backend.AdapterOptions(), "cpu")


def by_name(readings: Sequence[Reading]) -> dict[str, Reading]:
    return {one.name: one for one in readings}


# --- levels ------------------------------------------------------------------------------------------------------
@given(st.floats(0, 10), st.floats(0, 10), st.floats(-20, 20))
def test_a_higher_value_is_never_less_bad(first: float, second: float, value: float) -> None:
    levels, order = Levels(min(first, second), max(first, second)), ("ok", "warning", "stop")
    assert levels.of(value) == order[(value >= min(first, second)) + (value >= max(first, second))]
    assert Levels().of(value) == "ok"


@pytest.mark.parametrize(("levels", "words"), [((2.0, 1.0), "below"), ((-1.0, None), "zero or more")])
def test_levels_are_ordered(levels: tuple[float, float | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Levels(*levels)


# --- latents -----------------------------------------------------------------------------------------------------
@given(seed=st.integers(0, 50), shift=st.floats(-3, 3), scale=st.floats(0.2, 4))
def test_what_was_shifted_and_scaled_has_moved_that_far(seed: int, shift: float, scale: float) -> None:
    base = torch.randn(400, 3, generator=torch.Generator().manual_seed(seed))
    found = moved(base, base + shift * base.std(dim=0, correction=0))
    assert found.distance == pytest.approx(abs(shift), abs=1e-5)
    found = moved(base, scale * base)
    assert found.norm == pytest.approx(scale - 1, abs=1e-5)
    assert (found.outside == pytest.approx(0.0, abs=0.011)) if scale <= 1 else (found.outside >= 0.005)


def test_nothing_has_moved_from_itself_in_whatever_order() -> None:
    base = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    found = moved(base, base[torch.randperm(1000)])
    assert (found.norm, found.distance) == (pytest.approx(0.0, abs=1e-12), 0.0)
    assert 0.0 < found.outside <= 0.01
    assert moved(torch.ones(5, 2), torch.full((5, 2), 2.0)) == dataclasses.replace(
        moved(torch.ones(5, 2), torch.full((5, 2), 2.0)), norm=1.0, distance=None, outside=1.0
    )


def test_velocities_are_compared_with_those_of_the_base() -> None:
    model, monitor = toy(), Latents(LatentsOptions())
    monitor.before(Run(), model)
    assert {one.value for one in monitor.after(model) if one.name != "velocity_outside"} == {0.0}
    model.model.palette.data += 5.0
    readings = by_name(monitor.after(model))
    assert readings["velocity_distance"].level == readings["velocity_outside"].level == "stop"


def test_a_prediction_that_shows_nothing_is_a_note() -> None:
    class Silent(toy_backend.ToyAdapter):
        def predict(self, *arguments: Any, **options: Any) -> Any:
            return object()

    model, monitor = Silent(toy_backend.AdapterOptions(), "cpu"), Latents(LatentsOptions())
    monitor.before(Run(), model)
    (reading,) = monitor.after(model)
    assert reading.failure is not None and reading.failure.cause == "no velocity"


# --- reward hacking ----------------------------------------------------------------------------------------------
def steps(reference: Sequence[float], gain: float) -> list[dict[str, float]]:
    return [{"step": i, "winner_loss": value, "margin": gain * i} for i, value in enumerate(reference)]


@given(st.floats(0.1, 5), st.floats(0.1, 20), st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3))
def test_the_rise_of_the_reference_is_that_of_its_windows(before: float, factor: float, gain: float) -> None:
    monitor = RewardHacking(RewardHackingOptions(window=3))
    rows = steps([before] * 3 + [7.0] * 4 + [before * factor] * 3, gain)
    assert monitor.during(5, rows[:5], toy()) == []
    rise, reward = monitor.during(10, rows, toy())
    assert rise.value == pytest.approx(factor - 1, abs=1e-6)
    assert rise.level == RewardHackingOptions().rise.of(rise.value or 0.0)
    assert ("while the reward rose" in rise.message) == (gain > 0) == ((reward.value or 0) > 0)


def test_metrics_that_are_not_there_are_named() -> None:
    monitor = RewardHacking(RewardHackingOptions(window=1, reference="other"))
    (reading,) = monitor.during(2, [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 2.0}], toy())
    assert reading.failure is not None and reading.failure.detail.endswith("two of: loss")


# --- the held-out judge ------------------------------------------------------------------------------------------
def held_out(before: Sequence[float | None], own: Sequence[float | None], other: Sequence[float | None]) -> Any:
    run, monitor = Run(), HeldOutJudge(HeldOutJudgeOptions({"name": "x"}, images=8))
    run.alphas = {None: list(before), "judge": list(before)}
    monitor.before(run, toy())
    run.alphas = {None: list(own), "judge": list(other)}
    return by_name(monitor.during(1, [], toy()))


def test_a_gain_that_the_other_judge_does_not_see_is_a_stop() -> None:
    readings = held_out([0.5, 0.4], [0.9, 0.9], [0.5, 0.4])
    assert readings["gap"].value == pytest.approx(0.45)
    assert readings["gap"].level == "stop"
    assert held_out([0.5, 0.4], [0.9, 0.9], [0.9, 0.9])["gap"].value == pytest.approx(0.0)
    # Half of the images gain and half lose: the mean gap may be chance.
    unsure = held_out([0.5], [1.0, 0.4, 0.9, 0.2], [0.3, 0.5, 0.4, 0.6])["gap"]
    assert unsure.value is not None and unsure.value > 0.15 and unsure.level == "ok"


def test_images_that_a_judge_failed_at_are_left_out() -> None:
    readings = held_out([0.5, None], [0.7, 0.9], [0.5, None])
    assert readings["failed"].value == 0.5
    assert readings["gap"].value == pytest.approx(0.2)
    assert held_out([None], [0.5], [0.5])["gap"].failure is not None


# --- grounding ---------------------------------------------------------------------------------------------------
sides = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(lambda ab: (min(ab), max(ab) + 1))
boxes = st.lists(st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), sides, sides), max_size=5)


@given(boxes)
def test_coverage_is_that_of_the_pixels(drawn: list[Box]) -> None:
    covered = sum(
        any(box.x0 <= x < box.x1 and box.y0 <= y < box.y1 for box in drawn) for x in range(8) for y in range(8)
    )
    assert coverage(drawn, 8, 8) == pytest.approx(covered / 64)


@given(boxes, boxes)
def test_agreement_is_the_same_both_ways_and_whole_with_itself(one: list[Box], other: list[Box]) -> None:
    assert 0.0 <= agreement(one, other) <= 1.0
    assert agreement(one, other) == pytest.approx(agreement(other, one))
    assert agreement(one, one) == pytest.approx(1.0)


def test_grounding_is_counted_without_what_failed() -> None:
    full, half = Region(Box(0, 0, 8, 8)), Region(Box(0, 0, 4, 8))
    grounded = [
        Grounding("a", (full, half), {"small": 2}),
        Grounding("b", (Region(Box(0, 0, 1, 1), background=True),), {}),
        Grounding("c", (), failure=Failure("damaged")),
    ]
    readings = by_name(GroundingMonitor(GroundingOptions(native=1)).before(Run(grounded), toy()))
    values = {name: one.value for name, one in readings.items()}
    assert values == {"empty": 0.5, "boxes": 1.0, "coverage": 0.5, "filtered": 0.6, "disagreement": 0.5}
    assert readings["empty"].level == "warning"
    assert filtered([]) == 0.0
    (nothing,) = GroundingMonitor(GroundingOptions()).before(Run(grounded[2:]), toy())
    assert nothing.failure is not None


# --- understanding -----------------------------------------------------------------------------------------------
def png(colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def mme(folder: Path, images: int = 3) -> Path:
    (folder / "colour/images").mkdir(parents=True)
    lines = []
    for index in range(images):
        (folder / f"colour/images/{index}.png").write_bytes(png())
        lines += [f"{index}.png\tis it red?\tYes", f"{index}.png\tis it blue?\tNo"]
    (folder / "colour.txt").write_text("\r\n".join(lines))
    return folder


def test_an_mme_folder_is_read_in_whole_pairs(tmp_path: Path) -> None:
    folder = mme(tmp_path)
    read = read_questions(folder, None, 5)
    assert [(one.group, one.text, one.answer) for one in read] == [
        (f"colour/{index}.png", text, answer)
        for index in (0, 1)
        for text, answer in (("is it red?", "yes"), ("is it blue?", "no"))
    ]
    assert read[0].open().size == (8, 8)
    assert len(read_questions(folder / "colour.txt", None, 100)) == 6
    same = UnderstandingOptions(path=str(folder))
    first = understanding.identity(same)
    (folder / "colour/images/1.png").write_bytes(png("blue"))
    assert understanding.identity(same) != first
    assert understanding.identity(UnderstandingOptions()) == ""


def test_a_pope_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    row = {"question_id": 1, "image": "x.png", "text": "is it red?", "label": "yes"}
    (tmp_path / "pope.jsonl").write_text(json.dumps(row) + "\n")
    (one,) = read_questions(tmp_path / "pope.jsonl", None, 5)
    assert (one.text, one.choices, one.answer) == ("is it red?", ("yes", "no"), "yes")


def test_an_mmbench_table_is_read_without_its_rotations(tmp_path: Path) -> None:
    image = base64.b64encode(png()).decode()
    head = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer"]
    rows = [
        ["1", image, "what?", "look", "cat", "dog", "", "", "B"],
        ["2", "1", "which?", "", "x", "y", "z", "", "C"],
        ["1000001", "1", "what?", "look", "dog", "cat", "", "", "A"],
    ]
    (tmp_path / "b.tsv").write_text("\n".join("\t".join(row) for row in [head, *rows]))
    first, second = read_questions(tmp_path / "b.tsv", None, 9)
    assert first.text == "look\nwhat?\nA. cat\nB. dog\nAnswer with the letter of the right option."
    assert (first.choices, first.answer, second.choices) == (("A", "B"), "B", ("A", "B", "C"))
    assert second.image == first.image == png()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x.png\tred?", "a.txt:1: expected"),
        ("a.txt", "x.png\tred?\tmaybe", "the answer must be Yes or No, got 'maybe'"),
        ("a.txt", "x.png\tred?\tyes", "its image cannot be read"),
        ("a.txt", "\n", "has no question"),
        ("a.jsonl", "{}", "a.jsonl:1: expected a JSON object with image, text and label"),
        ("a.tsv", "index\tquestion\n1\twhat?", "no image, A, B, answer"),
        ("a.xlsx", "", "ends in '.xlsx'"),
        ("none", None, "there is no question file"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        understanding.check(UnderstandingOptions(path=str(tmp_path / name)))
    assert words in str(caught.value)


def test_understanding_is_compared_with_before(tmp_path: Path) -> None:
    model, monitor = toy(), Understanding(UnderstandingOptions(path=str(mme(tmp_path))))
    first = by_name(monitor.before(Run(), model))
    assert first["accuracy"].value == 1.0 and first["yes"].value == 0.5
    same = by_name(monitor.during(1, [], model))
    assert (same["changed"].value, same["shift"].value, same["drop"].value) == (0.0, 0.0, 0.0)
    model.model.probe.data = model.model.probe.flip(0)  # it confuses colours from now on
    other = by_name(monitor.after(model))
    assert (other["changed"].value, other["drop"].value, other["drop"].level) == (0.5, 0.5, "stop")
    assert other["shift"].value is not None and other["shift"].value > 0.5


def test_open_answers_count_by_how_they_begin(tmp_path: Path) -> None:
    class Talks(toy_backend.ToyAdapter):
        said = ("Yes, it is.", "I do not know")

        def answer(self, questions: Sequence[Question], decoding: Any = None) -> list[Answer]:
            return [Answer(self.said[index % 2]) for index in range(len(questions))]

    model = Talks(toy_backend.AdapterOptions(), "cpu")
    monitor = Understanding(UnderstandingOptions(path=str(mme(tmp_path)), ask="answer"))
    first = by_name(monitor.before(Run(), model))
    assert (first["accuracy"].value, first["unreadable"].value) == (0.5, 0.5)
    model.said = ("No.", "no")
    after = by_name(monitor.after(model))
    assert (after["changed"].value, after["drop"].value, after["unreadable"].value) == (1.0, 0.0, 0.0)
    assert "shift" not in after


@pytest.mark.parametrize(
    ("text", "found"),
    [("yes", "yes"), (" No, it is not", "no"), ("nobody", None), ("**Yes**", "yes"), ("it is yes", None), ("", None)],
)
def test_the_choice_that_an_answer_begins_with(text: str, found: str | None) -> None:
    assert first_choice(text, ("yes", "no")) == found


# --- the page ----------------------------------------------------------------------------------------------------
def test_every_option_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[1] / "docs/monitors.md").read_text()
    shown, monitor = {}, ""
    for name, option, default in re.findall(r"^\| (?:(`[\w-]+`) )?\| `(\w+)` \| (.*?) \|", text, re.MULTILINE):
        monitor = name.strip("`") or monitor
        shown[monitor, option] = default.strip("`")
    wanted = {}
    for provider in srum_monitors():
        for field in dataclasses.fields(provider.options):
            wanted[provider.name, field.name] = _shown(field.default)
    assert shown == wanted


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "must be given"
    if isinstance(value, Levels):
        return "{" + ", ".join(f"{name}: {_shown(one)}" for name, one in dataclasses.asdict(value).items()) + "}"
    return "null" if value is None else str(value)
