"""Several judges as one: how scores are combined, and how a config with a list of judges is read, refused and run."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_fixtures import contents, toy_config, toy_host, toy_run, write_config
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins import hookimpl
from srum_plugins.config import load
from srum_plugins.contracts import Capability, Judge
from srum_plugins.ensemble import Combine, combined, combined_score, labels
from srum_plugins.errors import CapabilityError, ContractError, SrumError
from srum_plugins.host import PluginHost
from srum_plugins.memory.workload import workload
from srum_plugins.providers import Kind, Provider
from srum_plugins.records import Failure, Judgement, Score, from_json, to_json
from srum_plugins.runs.files import read_json

ways = st.sampled_from(["mean", "min"])
values = st.floats(-1, 1)
score_maps = st.dictionaries(st.sampled_from("abcdef"), values.map(Score), min_size=1)
failures = st.builds(Failure, st.sampled_from(["timeout", "no score"]), st.sampled_from(["", "30 s"]))
given_maps = st.dictionaries(st.sampled_from("abcdef"), st.one_of(values.map(Score), failures), min_size=1)


@given(score_maps, ways)
def test_a_combined_score_lies_among_those_that_it_is_made_of(scores: dict[str, Score], how: Combine) -> None:
    numbers = [score.value for score in scores.values()]
    found = combined_score(scores, how)
    assert isinstance(found, Score)
    assert min(numbers) <= found.value <= max(numbers)
    assert found.spread == max(numbers) - min(numbers) >= 0
    if how == "min":
        assert found.value == min(numbers)
    else:
        assert found.value == pytest.approx(sum(numbers) / len(numbers), abs=1e-12)


@given(given_maps, ways, st.randoms(use_true_random=False))
def test_the_order_of_judges_changes_no_value(scores: dict[str, Score | Failure], how: Combine, random: Any) -> None:
    shuffled = list(scores.items())
    random.shuffle(shuffled)
    one, other = combined_score(scores, how), combined_score(dict(shuffled), how)
    if isinstance(one, Score):
        assert isinstance(other, Score)
        assert (one.value, one.spread) == (other.value, other.spread)
    else:
        assert isinstance(other, Failure)


@given(values, ways, st.integers(1, 7))
def test_judges_that_agree_are_as_one(value: float, how: Combine, count: int) -> None:
    found = combined_score({str(index): Score(value) for index in range(count)}, how)
    assert isinstance(found, Score)
    assert (found.value, found.spread) == (value, 0.0)


@given(given_maps, ways)
def test_a_failure_stays_a_failure_and_names_who_failed(scores: dict[str, Score | Failure], how: Combine) -> None:
    failed = [label for label, one in scores.items() if isinstance(one, Failure)]
    found = combined_score(scores, how)
    assert isinstance(found, Failure) == bool(failed)
    if isinstance(found, Failure):
        assert found.cause.startswith(f"{failed[0]}: ")
        assert [part.split(":")[0] for part in found.detail.split("; ")] == failed


def test_the_reason_names_every_value() -> None:
    scores = {"choice": Score(0.25, "p = 0.250: a cat ?"), "rubric": Score(0.75)}
    assert combined_score(scores, "mean") == Score(0.5, "choice 0.250: p = 0.250: a cat ?; rubric 0.750", 0.5)
    failed = combined_score({**scores, "http": Failure("timeout", "after 9 s"), "b": Failure("budget")}, "min")
    assert failed == Failure("http: timeout", "http: timeout: after 9 s; b: budget")


@given(st.lists(st.sampled_from(["choice", "rubric", "http"]), max_size=6))
def test_labels_stay_apart_and_keep_the_names(names: list[str]) -> None:
    found = labels(names)
    assert len(set(found)) == len(names)
    assert [label.partition("#")[0] for label in found] == names
    assert all(("#" in label) == (names.count(name) > 1) for label, name in zip(found, names, strict=True))


def test_a_judgement_keeps_what_every_judge_said() -> None:
    one = Judgement("c", Score(0.5), (Score(1.0), Failure("no score")), ("A", "B"), 7, "w1")
    other = Judgement("c", Score(1.0), (Score(-1.0), Score(0.0)), ("C",), 4, "w2")
    found = combined({"x": one, "y": other}, "mean")
    assert found.candidate_id == "c"
    assert found.alpha == Score(0.75, "x 0.500; y 1.000", 0.5)
    assert found.local == (Score(0.0, "x 1.000; y -1.000", 2.0), Failure("x: no score", "x: no score"))
    assert found.raw == ("x: A", "x: B", "y: C")
    assert found.tokens == 11
    uncounted = Judgement("c", Score(1.0), (Score(-1.0), Score(0.0)))
    assert combined({"x": one, "y": uncounted}, "mean").tokens is None
    assert from_json(Judgement, json.loads(json.dumps(to_json(found)))) == found


def test_the_wording_is_that_of_all_judges() -> None:
    def wording(**texts: str) -> str:
        return combined(
            {label: Judgement("c", Score(1), (), wording=text) for label, text in texts.items()}, "mean"
        ).wording

    assert wording(x="a", y="b") == wording(x="a", y="b")
    assert len({wording(x="a", y="b"), wording(x="b", y="a"), wording(x="a", y="c"), wording(x="a", z="b")}) == 4


# --- in a config and a run --------------------------------------------------------------------------------------------
class Says(Judge):
    """The same scores for all, and what it was given."""

    def __init__(self, alpha: Score | Failure, short: bool = False) -> None:
        self.alpha, self.short, self.models = alpha, short, []

    def judge(self, items: Any, groundings: Any, model: Any) -> list[Judgement]:
        self.models.append(model)
        wanted = [len(grounding.regions) - self.short for grounding in groundings]
        return [
            Judgement(item.candidate.id, self.alpha, (Score(-0.5),) * number, ("said",), 3, "w")
            for item, number in zip(items, wanted, strict=True)
        ]


class Judges:
    """Judges that need no model, that need what the toy model lacks, and that break the contract."""

    def __init__(self) -> None:
        self.sure = Says(Score(0.25))

    @hookimpl
    def srum_judges(self) -> list[Provider]:
        answers = frozenset({Capability.ANSWER})
        made: Mapping[str, Callable[[Any], Any]] = {
            "sure": lambda options: self.sure,
            "silent": lambda options: Says(Failure("no score")),
            "short": lambda options: Says(Score(0.5), short=True),
            "none": lambda options: object(),
        }
        providers = [Provider(name, "says", factory) for name, factory in made.items()]
        return [*providers, Provider("talks", "needs answers", dict, needs=lambda options: answers)]


@pytest.fixture
def host() -> PluginHost:
    host = toy_host()
    host.register(Judges(), "judges")
    return host


def records(folder: Path) -> list[Judgement]:
    (path,) = (folder / "run/stages/judge").glob("*/part-00000.jsonl")
    return [from_json(Judgement, json.loads(line)) for line in path.read_text().splitlines()]


def facts(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "run/stages/judge").glob("*/done.json")
    return dict(read_json(path))


@pytest.mark.parametrize(
    "judge",
    [
        ["toy-choice", "sure"],
        ["toy-choice", {"name": "toy-choice", "fail_every": 2}],
        [{"name": "sure"}, "toy-choice", "sure"],
    ],
)
def test_a_resolved_list_of_judges_loads_as_the_same(tmp_path: Path, host: PluginHost, judge: list[Any]) -> None:
    config = load(write_config(tmp_path, judge=judge, judging={"combine": "min"}), (), host)
    resolved = config.resolved()
    assert [one["name"] for one in resolved["judge"]] == [one if isinstance(one, str) else one["name"] for one in judge]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(resolved))
    loaded = load(again, (), host)
    assert loaded.resolved() == resolved
    assert loaded.providers[Kind.JUDGE].options.combine == "min"


def test_a_list_on_the_command_line_replaces_the_judge_and_its_options(tmp_path: Path, host: PluginHost) -> None:
    path = write_config(tmp_path, judge={"name": "toy-choice", "fail_every": 2})
    config = load(path, ("judge=[sure, {name: toy-choice, fail_every: 3}]",), host)
    assert config.resolved()["judge"] == [{"name": "sure"}, {"name": "toy-choice", "fail_every": 3}]
    path = write_config(tmp_path, judge=["sure", "toy-choice"])
    assert load(path, ("judge=toy-choice", "judge.fail_every=3"), host).resolved()["judge"] == {
        "name": "toy-choice",
        "fail_every": 3,
    }


def test_a_list_of_one_is_that_judge(tmp_path: Path, host: PluginHost) -> None:
    assert load(write_config(tmp_path, judge=["sure"]), (), host).resolved()["judge"] == {"name": "sure"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["judge=[]"], ["judge: the list is empty", "toy-choice"]),
        (["judge=[toy-choice, sur]"], ["no judge named 'sur'", "'sure'"]),
        (["judge=[sure, {name: toy-choice, fail: 1}]"], ["judge[1].fail", "'fail_every'"]),
        (["judge=[sure, [sure, sure]]"], ["judge[1]", "['sure', 'sure']"]),
        (["judge=[sure, {fail_every: 1}]"], ["judge[1] is missing"]),
        (["judge=[sure, 3]"], ["judge[1]", "3"]),
        (["judge=[sure, toy-choice]", "judge.fail_every=1"], ["judge.fail_every", "stands with its judge"]),
        (["judging.combine=median"], ["judging.combine", "median"]),
        (["grounder=[toy-halves, toy-locate]"], ["grounder", "['toy-halves', 'toy-locate']"]),
    ],
)
def test_what_is_no_list_of_judges_is_refused(
    tmp_path: Path, host: PluginHost, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(SrumError) as caught:
        load(write_config(tmp_path), overrides, host)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_a_member_lacks_is_told_with_its_place_before_anything_runs(tmp_path: Path, host: PluginHost) -> None:
    with pytest.raises(CapabilityError, match=r"the judge\[1\] 'talks' of \(in process\).* needs .* 'answer'"):
        toy_run(tmp_path, "judge=[sure, talks]", host=host)
    toy_run(tmp_path, "judge=[sure, talks]", only="generate", host=host)  # no stage of theirs


def test_a_run_records_all_judges_and_how_far_they_are_apart(tmp_path: Path, host: PluginHost) -> None:
    toy_run(tmp_path, "judge=[toy-choice, sure]", "judging.combine=min", host=host)
    judged = records(tmp_path)
    alphas = [one.alpha for one in judged]
    assert all(isinstance(alpha, Score) and alpha.value <= 0.25 and alpha.spread is not None for alpha in alphas)
    assert {one.judge for one in judged} == {"toy-choice+sure"}
    assert judged[0].raw == ("sure: said",)
    assert judged[0].tokens is None  # the toy judge counts none
    for what in ("alpha", "local"):
        assert math.isfinite(facts(tmp_path)[f"{what}_spread_mean"])
        assert facts(tmp_path)[f"{what}_spread_mean"] > 0


def test_failures_of_a_member_are_counted_as_failures(tmp_path: Path, host: PluginHost) -> None:
    toy_run(tmp_path, "judge=[sure, silent]", only="generate", host=host)
    toy_run(tmp_path, "judge=[sure, silent]", only="ground", host=host)
    toy_run(tmp_path, "judge=[sure, silent]", only="judge", host=host)
    assert {one.alpha for one in records(tmp_path)} == {Failure("silent: no score", "silent: no score")}
    assert facts(tmp_path)["failed_global"] == facts(tmp_path)["candidates"]
    assert facts(tmp_path)["failed_local"] == 0
    assert "alpha_mean" not in facts(tmp_path)


def test_only_members_that_need_the_model_get_it(tmp_path: Path) -> None:
    host, judges = toy_host(), Judges()
    host.register(judges, "judges")
    toy_run(tmp_path, "judge=[toy-choice, sure]", host=host)
    assert set(judges.sure.models) == {None}


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("[sure, short]", "judge 'short' of (in process): candidate 'p0-0' has 2 regions, but got 1 local scores"),
        ("[sure, none]", "judge 'none' of (in process): its factory returned a object, which is no Judge"),
    ],
)
def test_broken_contracts_name_the_member(tmp_path: Path, host: PluginHost, judge: str, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        toy_run(tmp_path, f"judge={judge}", host=host)
    assert str(caught.value) == words


def test_what_is_stale_is_told_by_the_member_that_changed(tmp_path: Path, host: PluginHost) -> None:
    toy_run(tmp_path, "judge=[toy-choice, sure]", host=host)
    before = contents(tmp_path / "run")
    assert any("nothing to do" in line for line in toy_run(tmp_path, "judge=[toy-choice, sure]", host=host))
    assert contents(tmp_path / "run") == before

    def said(*overrides: str) -> str:
        return "\n".join(toy_run(tmp_path, *overrides, host=host))

    changed = said("judge=[{name: toy-choice, fail_every: 2}, sure]")
    assert "judge is stale: judge.members.toy-choice.fail_every was 0, is 2" in changed
    assert "judge.combine was mean, is min" in said(
        "judge=[{name: toy-choice, fail_every: 2}, sure]", "judging.combine=min"
    )
    assert "judge was toy-choice+sure, is sure" in said("judge=sure")
    assert "stale" not in said("judge=sure", "judging.combine=min")  # one judge has nothing to combine


def test_versions_and_the_estimate_of_memory_see_the_members(tmp_path: Path, host: PluginHost) -> None:
    config = toy_config(tmp_path, "judge=[sure, toy-choice]", host=host)
    assert config.versions == toy_config(tmp_path, "judge=sure", host=host).versions  # no "a+b" among them
    assert workload(config).asking["judge"].needs == {Capability.CHOICE}
    assert "judge" not in workload(toy_config(tmp_path, "judge=sure", host=host)).asking
