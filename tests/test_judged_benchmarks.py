"""The benchmarks t2i-compbench, t2i-reasonbench and file: formats, formulas, what is read of answers, whole runs.

All prompts and questions here are made up; the benchmarks' own are not shipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import srum_compbench.plugin
import srum_prompt_file.plugin
import srum_reasonbench.plugin
import srum_shapes.plugin
import yaml
from engine_fixtures import toy_config, toy_host
from hypothesis import given
from hypothesis import strategies as st
from loopback import Request, Response, completion, loopback
from PIL import Image
from srum_compbench.asking import Asking, AskingOptions
from srum_compbench.data import COMPOSITES, FILES, digest, read_prompts
from srum_compbench.hundred import HundredBenchmark, HundredOptions, read_hundred
from srum_compbench.options import CATEGORIES, CompBenchOptions
from srum_compbench.reading import score_of
from srum_http.options import EndpointOptions
from srum_prompt_file.lines import read_prompts as read_lines
from srum_reasonbench import data as reason_data
from srum_reasonbench.benchmark import ReasonBenchmark, figure
from srum_reasonbench.options import DIMENSIONS, ReasonBenchOptions
from srum_reasonbench.scoring import WRONG_COUNT, read_scores, weighted_mean
from srum_rubric.parsing import AMBIGUOUS, NO_SCORE, OUT_OF_RANGE, REFUSED, TRUNCATED
from srum_rubric.wording import GLOBAL

from srum_plugins.config import load
from srum_plugins.contracts import GREEDY, Answer, Decoding, ModelAdapter, Question
from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.records import Failure, Prompt
from srum_plugins.stages.evaluate import Measured, summarise
from srum_plugins.stages.pipeline import run

DOCS = (Path(__file__).parents[1] / "docs/benchmarks.md").read_text()
RED = Image.new("RGB", (8, 8), "red")
means = st.floats(0, 1)


def cause(found: Any) -> str:
    assert isinstance(found, Failure), found
    return found.cause


# --- what is read of an answer -----------------------------------------------------------------------------------
@given(st.integers(0, 100), st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_the_score_of_any_json_answer_is_read(score: int, said: str) -> None:
    text = json.dumps({"score": score, "explanation": said})
    for answer in (text, f"```json\n{text}\n```", f"<think>{{hm</think>Here: {text}", f'{{"a": 1}} {text}'):
        if "think>" not in said:
            assert read_hundred(Answer(answer)) == score / 100


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_a_score_in_range_or_a_failure(text: str, truncated: bool) -> None:
    for said in (text, f'{{"score": {text}}}', f'{{"score": "{text}", "explanation": "x"}}'):
        found = read_hundred(Answer(said, truncated))
        assert isinstance(found, Failure) or 0.0 <= found <= 1.0
        scores = read_scores(Answer(said, truncated), 2)
        assert isinstance(scores, Failure) or (len(scores) == 2 and set(scores) <= {0.0, 0.5, 1.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"score": 85.5, "explanation": ""}', 0.855),
        ('{"score": "85"}', 0.85),
        ('{"Score": 0}', 0.0),
        ('{"score": -0.0}', 0.0),
        ('{"score": 70, "explanation": "a "red" dog"}', 0.7),
        ('{"score": 70, "explanation": "it', 0.7),
        ('{"score": 70} and so {"score": 70.0}', 0.7),
        ('{"score": 850}', OUT_OF_RANGE),
        ('{"score": -1}', OUT_OF_RANGE),
        ('{"score": true}', NO_SCORE),
        ('{"score": NaN}', NO_SCORE),
        ('{"score": "85/100"}', NO_SCORE),
        ('{"score": "good"}', NO_SCORE),
        ('{"score": <your number>}', NO_SCORE),
        ('{"score": 10} {"score": 20}', AMBIGUOUS),
        ("85", NO_SCORE),
        ("", NO_SCORE),
        ("I cannot judge this image.", REFUSED),
        ("<think>It is", TRUNCATED),
        ("{" * 3000, NO_SCORE),
        ('{"a":' * 3000, NO_SCORE),
    ],
)
def test_what_is_a_score_of_100_and_what_is_not(text: str, expected: float | str) -> None:
    found = read_hundred(Answer(text))
    assert (found.cause if isinstance(found, Failure) else found) == expected


def test_a_number_that_the_budget_cut_off_is_no_score() -> None:
    assert cause(score_of(Answer('{"score": 8', truncated=True))) == TRUNCATED
    assert score_of(Answer('{"score": 80, "expl', truncated=True)) == 80


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"reason": "x", "score": [1, 0.5]}', (1.0, 0.5)),
        ('{"reason": "a "b" c", "score": ["0", 1]}', (0.0, 1.0)),
        ('{"score": [1]}', WRONG_COUNT),
        ('{"score": [1, 1, 1]}', WRONG_COUNT),
        ('{"score": 1}', WRONG_COUNT),
        ('{"score": [1, 0.7]}', OUT_OF_RANGE),
        ('{"score": [1, null]}', NO_SCORE),
        ('{"score": {"q1": 1}}', NO_SCORE),
        ('{"score": [1, 0.5]} {"score": [1, 1]}', AMBIGUOUS),
    ],
)
def test_what_are_scores_of_two_questions(text: str, expected: Any) -> None:
    found = read_scores(Answer(text), 2)
    assert (found.cause if isinstance(found, Failure) else found) == expected


# --- formulas ----------------------------------------------------------------------------------------------------
def judged(figures: Mapping[str, float], name: str = "full") -> list[Measured]:
    """One prompt a category. The other figure is there too, as it must be."""
    return [Measured(category, "x", category, 0, {"full": 0.0, name: value}) for category, value in figures.items()]


@given(st.fixed_dictionaries(dict.fromkeys(CATEGORIES, means)))
def test_complex_is_the_mean_of_three_and_overall_the_mean_of_eight(found: dict[str, float]) -> None:
    side = judged(found)
    composites = summarise(side, side, 0, COMPOSITES)["x"]["composites"]
    complex_ = (found["complex"] + found["complex_action"] + found["complex_spatial"]) / 3
    seven = [value for name, value in found.items() if not name.startswith("complex")]
    assert composites["complex of three"]["before"] == pytest.approx(complex_)
    assert composites["overall of eight"]["before"] == pytest.approx((sum(seven) + complex_) / 8)


def test_overall_is_of_categories_not_of_prompts() -> None:
    side = [
        Measured(f"{name}{index}", "x", name, 0, {"full": float(name == "color")})
        for name in CATEGORIES
        for index in range(20 if name == "color" else 1)
    ]
    assert summarise(side, side, 0, COMPOSITES)["x"]["composites"]["overall of eight"]["after"] == pytest.approx(1 / 8)


@given(st.fixed_dictionaries(dict.fromkeys(DIMENSIONS, means)))
def test_reasonbench_overall_is_the_plain_mean_of_four_for_each_figure(found: dict[str, float]) -> None:
    side = judged(found, "quality")
    composites = summarise(side, side, 0, reason_data.COMPOSITES)["x"]["composites"]
    assert composites["quality of four"]["after"] == pytest.approx(sum(found.values()) / 4)
    assert composites["reasoning of four"]["after"] == 0.0
    assert composites["quality of idiom"]["after"] == pytest.approx(found["idiom"])


scores = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5)


@given(scores, scores)
def test_entity_and_scientific_weigh_seven_to_three(main: list[float], details: list[float]) -> None:
    for name, group in (("entity", "entity_evaluation"), ("scientific", "scientific_evaluation")):
        weights = reason_data.FILES[name].reasoning
        found = weighted_mean({group: main, "other_details_evaluation": details}, weights)
        expected = 0.7 * sum(main) / len(main) + 0.3 * sum(details) / len(details)
        assert found == pytest.approx(expected) and 0.0 <= found <= 1.0
    assert weighted_mean({"reason_evaluation": main}, reason_data.FILES["idiom"].reasoning) == sum(main) / len(main)


def test_a_group_without_scores_is_a_failure_and_no_part_of_a_mean() -> None:
    found = figure({"a": (1.0,), "b": Failure(WRONG_COUNT, "2 for 3")}, {"a": 0.7, "b": 0.3})
    assert found == Failure(WRONG_COUNT, "b: 2 for 3")


# --- T2I-CompBench's files ----------------------------------------------------------------------------------------
def comp_items() -> list[dict[str, Any]]:
    return [
        {"Question": f" a {colour} thing of {name} ", "Category": name, "Question_id": 100 * place + index}
        for place, name in enumerate(CATEGORIES)
        for index, colour in enumerate(("red", "green"))
    ]


def test_the_json_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(comp_items()))
    prompts = read_prompts(CompBenchOptions(path=path))
    assert len(prompts) == 20 and {one.split for one in prompts} == {"compbench_vlm_judged"}
    assert prompts[0] == Prompt("3d_spatial-0", "a red thing of 3d_spatial", "3d_spatial", "compbench_vlm_judged")
    few = read_prompts(CompBenchOptions(path=path, categories=("color", "shape"), per_category=1))
    assert [one.id for one in few] == ["color-100", "shape-700"]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_text_form_is_read(tmp_path: Path, ends: str) -> None:
    for name in FILES.values():
        (tmp_path / name).write_bytes(ends.join([f"a red {name}", "", " a green one. "]).encode())
    (tmp_path / "color_train.txt").write_text("never read\n")
    prompts = read_prompts(CompBenchOptions(path=tmp_path))
    assert {one.category for one in prompts} == set(CATEGORIES) and len(prompts) == 20
    assert prompts[1] == Prompt("3d_spatial-0001", "a green one.", "3d_spatial", "compbench_vlm_judged")
    before = digest(tmp_path)
    (tmp_path / "color_train.txt").write_text("changed\n")
    assert digest(tmp_path) == before
    (tmp_path / "non_spatial_val.txt").write_text("changed\n")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "is no JSON"),
        ("{}", "holds no JSON list"),
        ("[]", "no prompt of any category"),
        ('[{"Question": "x"}]', "item 0: expected an object with .* It lacks Category, Question_id"),
        ('[{"Question": "", "Category": "color", "Question_id": 1}]', "item 0: Question must be a text"),
        ('[{"Question": "x", "Category": "colour", "Question_id": 1}]', "no category 'colour'.*color"),
        ('[{"Question": "x", "Category": "color", "Question_id": true}]', "Question_id must be"),
        (json.dumps([{"Question": "x", "Category": "color", "Question_id": 1}] * 2), "item 1: .* twice"),
    ],
)
def test_a_json_file_of_another_form_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_prompts(CompBenchOptions(path=tmp_path / "val.json"))


def test_files_that_are_not_there_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*docs/benchmarks.md"):
        digest(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="no prompt of any category"):
        read_prompts(CompBenchOptions(path=tmp_path))
    with pytest.raises(ConfigError, match=r"there is no .*shape_val.txt"):
        read_prompts(CompBenchOptions(path=tmp_path, categories=("shape",)))
    with pytest.raises(ValueError, match="categories: there is no 'shpe'"):
        CompBenchOptions(path=tmp_path, categories=("shpe",))


# --- T2I-ReasonBench's files --------------------------------------------------------------------------------------
def group(count: int, prefix: str = "", first: int = 1) -> dict[str, str]:
    found = {}
    for number in range(first, first + count):
        found |= {f"{prefix}q{number}": f"Is it {number}?", f"{prefix}c{number}": "1: yes, 0.5: partly, 0: no"}
    return found


def reason_folder(folder: Path, change: Callable[[str, list[dict[str, Any]]], Any] = lambda name, listed: None) -> Path:
    """Two made-up prompts a dimension: the second one has irregular keys."""
    for name, files in reason_data.FILES.items():
        prompts = [{"id": number, "prompt": f"a red {name} {number}", "tag": "x"} for number in (1, 2)]
        asked = [
            {"id": str(number), **{one: group(2) for one in (*files.reasoning, "quality_evaluation")}}
            for number in (1, 2)
        ]
        asked[1][next(iter(files.reasoning))] = {**group(2, "sci_", first=3), "scoring": "as above"}
        asked[1]["quality_evaluation"] = {"aq2": "Is it sharp?", "ac2": {"1": "yes", "0": "no"}}
        change(name, asked)
        for path, listed in ((files.prompts, prompts), (files.questions, asked)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(json.dumps(listed))
    return folder


def test_reasonbench_is_read_with_its_irregular_keys(tmp_path: Path) -> None:
    items = reason_data.read_items(ReasonBenchOptions(path=reason_folder(tmp_path)))
    assert [item.prompt.id for item in items[:3]] == ["entity-0001", "entity-0002", "idiom-0001"]
    assert [one.name for one in items[0].groups] == [
        "entity_evaluation",
        "other_details_evaluation",
        "quality_evaluation",
    ]
    odd = items[1].groups
    assert odd[0].questions == ("Is it 3?", "Is it 4?")
    assert (odd[2].questions, odd[2].criteria) == (("Is it sharp?",), ("1: yes; 0: no",))
    few = ReasonBenchOptions(path=tmp_path, dimensions=("idiom",), per_dimension=1)
    assert [item.prompt.id for item in reason_data.read_items(few)] == ["idiom-0001"]
    assert len({reason_data.digest(few), reason_data.digest(ReasonBenchOptions(path=tmp_path))}) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda listed: listed.pop(), "id 2: .* has no questions for it"),
        (lambda listed: listed[0].pop("quality_evaluation"), "id 1: expected quality_evaluation, an object"),
        (lambda listed: listed[0]["quality_evaluation"].pop("c2"), "a criterion for every question"),
        (lambda listed: listed[0]["quality_evaluation"].update(c2=["x"]), "quality_evaluation, c2: must be a text"),
        (lambda listed: listed[1].update(id=1), "item 1: the id 1 occurs twice"),
        (lambda listed: listed[1].update(id="x"), "item 1: expected an object with a whole number"),
    ],
)
def test_reasonbench_files_of_another_form_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    reason_folder(tmp_path, lambda name, listed: change(listed))
    with pytest.raises(ConfigError, match=words):
        reason_data.read_items(ReasonBenchOptions(path=tmp_path))


# --- own prompts -------------------------------------------------------------------------------------------------
def test_own_prompts_are_read(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a red cube\r\n\n  two blue balls\n")
    assert [(one.id, one.text, one.split) for one in read_lines(tmp_path / "own.txt")] == [
        ("1", "a red cube", "vlm_judged"),
        ("3", "two blue balls", "vlm_judged"),
    ]
    (tmp_path / "own.jsonl").write_text('{"prompt": "a {text} cube", "id": "c", "category": "x", "split": "y"}\n\n')
    assert read_lines(tmp_path / "own.jsonl") == [Prompt("c", "a {text} cube", "x", "y")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("red", r"own.jsonl:1: "),
        ('["red"]', "must be an object"),
        ('{"prompt": 3}', "prompt must be a text"),
        ('{"text": "x"}', "a line has no 'text'"),
        ('{"id": "x"}', "a line needs prompt"),
        ('{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "a"}', r"own.jsonl:2: the id 'a' is that of line 1"),
        ("", "has no prompts"),
    ],
)
def test_own_prompts_of_another_form_are_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "own.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=words):
        read_lines(tmp_path / "own.jsonl")


# --- asking ------------------------------------------------------------------------------------------------------
class Scripted:
    """A model that answers in turn; keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        self.asked += [(one.text, one.seed, decoding.temperature) for one in questions]
        return [Answer(self.answers.pop(0), tokens=2) for _ in questions]


def test_what_cannot_be_read_is_asked_again_by_a_draw() -> None:
    model = Scripted('{"score": 50}', "hm", '{"score": 101}', '{"score": 20}')
    prompts = [Prompt("a", "a red cube"), Prompt("b", "a {text} cube")]
    benchmark = HundredBenchmark(prompts, HundredOptions(retries=2))
    first, second = benchmark.score(prompts, [RED, RED], model)  # type: ignore[arg-type]
    assert (first.values, first.raw, first.tokens) == ({"full": 0.5}, ('{"score": 50}',), 2)
    assert (second.values, second.tokens) == ({"full": 0.2}, 6)
    assert second.raw == ("hm", '{"score": 101}', '{"score": 20}')
    assert [temperature for _, _, temperature in model.asked] == [0.0, 0.0, 0.7, 0.7]
    assert len({seed for _, seed, _ in model.asked}) == 4
    assert "a {text} cube" in model.asked[1][0]


def test_what_stays_unread_is_the_failure_of_its_last_answer() -> None:
    model = Scripted("hm", '{"score": 101}')
    (verdict,) = HundredBenchmark([], HundredOptions(retries=1)).score([Prompt("a", "x")], [RED], model)  # type: ignore[arg-type]
    assert verdict.values == {} and verdict.failures["full"].cause == OUT_OF_RANGE
    assert verdict.raw == ("hm", '{"score": 101}')


def test_reasonbench_describes_first_and_never_tells_the_prompt(tmp_path: Path) -> None:
    benchmark = ReasonBenchmark(ReasonBenchOptions(path=reason_folder(tmp_path), dimensions=("entity",), retries=0))
    prompts = benchmark.prompts()
    model = Scripted(
        "a {questions} scene",
        "<think>it is",
        '{"score": [1, 0]}',
        '{"score": [1, 1]}',
        '{"score": [1, 0.5, 0]}',
    )
    first, second = benchmark.score(prompts, [RED, RED], model)  # type: ignore[arg-type]
    assert first.values == {"full": pytest.approx(0.7 * 0.5 + 0.3)}
    assert first.failures == {"quality": Failure(WRONG_COUNT, "quality_evaluation: 3 for 2 questions: '[1, 0.5, 0]'")}
    assert len(first.raw) == 4 and first.tokens == 8
    assert {name: one.cause for name, one in second.failures.items()} == dict.fromkeys(
        ("full", "quality"), "no description"
    )
    texts = [text for text, _, _ in model.asked]
    assert not any(prompt.text in text for prompt in prompts for text in texts)
    assert "a {questions} scene" in texts[2] and "1. Is it 1?\n   Scores: 1: yes, 0.5: partly, 0: no" in texts[2]


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for settings, words in (
        ({"retries": -1}, "retries"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"revision": "abc"}, "revision is that of an endpoint"),
    ):
        with pytest.raises(ValueError, match=words):
            AskingOptions(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\{text\}"):
        HundredOptions(template="how good?")
    with pytest.raises(ValueError, match=r"\{questions\}"):
        ReasonBenchOptions(path=tmp_path, template="{description}")


# --- whole runs --------------------------------------------------------------------------------------------------
def bench_host() -> PluginHost:
    host = toy_host()
    for module in (srum_compbench.plugin, srum_reasonbench.plugin, srum_prompt_file.plugin):
        host.register(module, module.__name__)
    return host


def bench_run(folder: Path, *overrides: str) -> dict[str, Any]:
    host = bench_host()
    return run(toy_config(folder, *overrides, host=host), host, say=lambda text: None)


def endpoint(url: str) -> str:
    return f"benchmark.endpoint={{url: '{url}', model: tiny, cache: null, backoff: 0.01, attempts: 1}}"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_compbench_through_the_pipeline_by_an_endpoint(tmp_path: Path) -> None:
    items = comp_items()
    (tmp_path / "val.json").write_text(json.dumps(items))

    def script(request: Request) -> Response:
        if "green thing of shape" in request.text:
            return completion("I will not say")
        return completion(json.dumps({"score": 80 if "of color" in request.text else 40, "explanation": "so"}))

    with loopback(script) as server:
        chosen = ["benchmark=t2i-compbench", f"benchmark.path={tmp_path / 'val.json'}", "benchmark.retries=1"]
        summary = bench_run(tmp_path, *chosen, endpoint(server.url), "benchmark.revision=r7")
        asked = len(server.requests)
    found = summary["compbench_vlm_judged"]
    assert asked == 2 * (20 + 1)  # one on each side is asked again
    assert found["failed"] == {"before": 1, "after": 1} and found["prompts"] == 19
    assert found["categories"]["shape"] == {
        "before": 0.4,
        "after": 0.4,
        "delta": 0.0,
        "ci95": [0.0, 0.0],
        "prompts": 1,
        "failed": {"before": 1, "after": 1},
    }
    assert found["composites"]["overall of eight"]["after"] == pytest.approx((0.8 + 7 * 0.4) / 8)
    assert found["composites"]["overall of eight"]["prompts"] == 19
    told = summary["measured"]["benchmark"]
    assert (told["revision"], told["endpoint"]["model"], len(told["identity"])) == ("r7", "tiny", 64)


def test_reasonbench_through_the_pipeline_by_an_endpoint(tmp_path: Path) -> None:
    def script(request: Request) -> Response:
        if request.text.startswith("Describe"):
            return completion("a red tile")
        count = len(re.findall(r"^\d+\. ", request.text, re.MULTILINE))
        return completion(json.dumps({"reason": "so", "score": [0.5] * count}))

    with loopback(script) as server:
        chosen = ["benchmark=t2i-reasonbench", f"benchmark.path={reason_folder(tmp_path / 'copy')}"]
        summary = bench_run(tmp_path, *chosen, endpoint(server.url))
    found = summary["reasonbench_vlm_judged"]
    assert set(found["categories"]) == set(DIMENSIONS)
    assert {name: one["after"] for name, one in found["composites"].items()} == dict.fromkeys(
        (one.name for one in reason_data.COMPOSITES), 0.5
    )


def test_an_endpoint_that_is_not_there_stops_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a red cube\n")
    options = HundredOptions(endpoint=EndpointOptions(url="http://127.0.0.1:9/v1", model="m", cache=None, attempts=1))
    with pytest.raises(Exception, match=r"benchmark\.endpoint\.url"):
        Asking(options).ask([Question(RED, "?")], [read_hundred], None)


def test_without_an_endpoint_the_model_must_be_able_to_answer(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a red cube\n")
    with pytest.raises(Exception, match=r"the benchmark 'file' .* needs a model that can 'answer'"):
        bench_run(tmp_path, "benchmark=file", f"benchmark.path={tmp_path / 'own.txt'}")


def test_the_shipped_model_answers_in_another_form_and_no_figure_is_made_up() -> None:
    """It knows the words of the judge ``rubric``, and no JSON."""
    host = PluginHost.load(entry_points=())
    host.register(srum_shapes.plugin, "shapes")
    provider = host.get(Kind.ADAPTER, "shapes").provider
    model: ModelAdapter = provider.factory(provider.options(), "cpu")
    prompts = [Prompt("a", "a red square"), Prompt("b", "two blue circles")]
    benchmark = HundredBenchmark(prompts, HundredOptions(retries=1, max_tokens=64, template=GLOBAL))
    verdicts = benchmark.score(prompts, [Image.new("RGB", (32, 32), "red")] * 2, model)
    assert [sorted(verdict.failures) for verdict in verdicts] == [["full"], ["full"]]
    assert all(verdict.values == {} and len(verdict.raw) == 2 for verdict in verdicts)
    assert all(text for verdict in verdicts for text in verdict.raw)
    with pytest.raises(ContractError, match="no word 'judge'"):
        HundredBenchmark(prompts, HundredOptions()).score(prompts[:1], [RED], model)


def test_the_documented_configs_are_read(tmp_path: Path) -> None:
    host = bench_host()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    names = []
    for index, block in enumerate(blocks):
        base = toy_config(tmp_path, host=host).resolved()
        path = tmp_path / f"{index}.yaml"
        path.write_text(yaml.safe_dump({**base, **yaml.safe_load(block)}))
        names.append(load(path, [], host).providers[Kind.BENCHMARK].name)
    assert set(names) == {"t2i-compbench", "t2i-reasonbench", "file", "toy"}  # one is of training prompts
