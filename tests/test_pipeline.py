"""The whole loop on the toy backend: what runs, what is reused, what is said."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_backend
from engine_fixtures import attentive_host, contents, directories, toy_config, toy_host, toy_run, write_config
from PIL import Image

from srum_plugins import hookimpl
from srum_plugins.attention.contract import Attention
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.contracts import ModelAdapter, Reward
from srum_plugins.errors import CapabilityError, ConfigError, ContractError, PluginError, StageError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider
from srum_plugins.records import Score
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.stages.evaluate import Measured, summarise
from srum_plugins.stages.pipeline import NAMES, STAGES
from srum_plugins.stages.session import Session


class Listener:
    """Writes down every event."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]

    @hookimpl
    def srum_run_started(self, run: RunInfo) -> None:
        self.events.append(("run_started", run.name))

    @hookimpl
    def srum_run_finished(self, run: RunInfo, summary: dict[str, Any]) -> None:
        self.events.append(("run_finished", dict(summary)))

    @hookimpl
    def srum_run_failed(self, run: RunInfo, error: BaseException) -> None:
        self.events.append(("run_failed", type(error)))

    @hookimpl
    def srum_stage_started(self, stage: str, done: int, total: int) -> None:
        self.events.append(("started", stage, done, total))

    @hookimpl
    def srum_stage_advanced(self, stage: str, done: int, total: int) -> None:
        self.events.append(("advanced", stage, done, total))

    @hookimpl
    def srum_stage_finished(self, stage: str, seconds: float, reused: bool) -> None:
        self.events.append(("finished", stage, reused))

    @hookimpl
    def srum_stage_failed(self, stage: str, error: BaseException) -> None:
        self.events.append(("failed", stage))

    @hookimpl
    def srum_train_step_finished(self, step: int, metrics: dict[str, float]) -> None:
        self.events.append(("step", step, dict(metrics)))

    @hookimpl
    def srum_metrics(self, stage: str, metrics: dict[str, float]) -> None:
        self.events.append(("metrics", stage, dict(metrics)))

    @hookimpl
    def srum_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.events.append(("table", name, list(rows)))

    @hookimpl
    def srum_images(self, name: str, image: Image.Image) -> None:
        self.events.append(("image", name, image.size))

    @hookimpl
    def srum_checkpoint_saved(self, step: int, folder: Path) -> None:
        self.events.append(("checkpoint", step, folder.name))


@pytest.fixture
def heard(tmp_path: Path) -> tuple[Listener, Path]:
    """A whole run with a listener."""
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    toy_run(tmp_path, host=host)
    return listener, tmp_path


def test_no_picture_of_another_configuration_stays(tmp_path: Path) -> None:
    changed = tmp_path / "run/pictures/changed.png"
    toy_run(tmp_path)
    assert changed.exists()
    toy_run(tmp_path, "train.lr=1e-12")  # changes no verdict
    assert not changed.exists() and (changed.parent / "before-after.png").exists()
    toy_run(tmp_path)
    assert changed.exists()


def test_a_stage_alone_shows_the_pictures_that_a_killed_run_had_no_time_to_show(tmp_path: Path) -> None:
    toy_run(tmp_path, only="generate")
    expected = contents(tmp_path / "run")
    (tmp_path / "run/pictures/candidates.png").unlink()
    toy_run(tmp_path, only="generate")
    assert contents(tmp_path / "run") == expected


def test_what_a_killed_run_left_half_written_goes_wherever_it_lies(tmp_path: Path) -> None:
    toy_run(tmp_path)
    expected = contents(tmp_path / "run")
    for folder in (".", "pictures", "stages/train"):
        (tmp_path / f"run/{folder}/.aside-1-half").write_text("wri")
    (tmp_path / "run/summary.json").unlink()
    toy_run(tmp_path)
    assert contents(tmp_path / "run") == expected


def test_a_run_tells_its_listeners_everything_in_order(heard: tuple[Listener, Path]) -> None:
    listener, folder = heard
    assert [event[0] for event in (listener.events[0], listener.events[-1])] == ["run_started", "run_finished"]
    assert listener.of("finished") == [(name, False) for name in NAMES]
    assert listener.of("started")[0] == ("generate", 0, 12)
    assert [event[1:] for event in listener.of("advanced") if event[0] == "generate"] == [(5, 12), (10, 12), (12, 12)]
    assert [event[1:] for event in listener.of("advanced") if event[0] == "evaluate"][-1] == (32, 32)
    assert listener.of("checkpoint") == [(2, "step-000003"), (5, "step-000006"), (7, "step-000008")]
    assert [step for step, _ in listener.of("step")] == list(range(8))
    pictures = {path.stem for path in (folder / "run/pictures").iterdir()}
    expected = {"candidates", "rewards", "training", "before-after", "changed"}
    assert pictures == {name for name, _ in listener.of("image")} == expected
    metrics = dict(listener.of("metrics"))
    assert metrics["generate"] == {"images": 12.0, "prompts": 4.0}
    assert metrics["judge"]["failed_global"] == 0.0
    assert metrics["train"]["examples"] == 12.0
    ((name, rows),) = listener.of("table")
    assert name == "results"
    assert len({tuple(row) for row in rows}) == 1


def test_the_summary_has_its_keys_and_the_right_figures(heard: tuple[Listener, Path]) -> None:
    listener, folder = heard
    summary = json.loads((folder / "run/summary.json").read_text())
    assert listener.of("run_finished") == [(summary,)]
    assert set(summary) == {"in_domain", "out_of_domain", "understanding", "measured", "arm", "seconds"}
    assert summary["arm"] == "toy-maps+srum"
    assert set(summary["seconds"]) == set(NAMES)
    assert summary["understanding"] == {
        "before": {"colour": 1.0},
        "after": {"colour": 1.0},
        "questions": {"colour": 4},
        "identical": True,
    }
    session = Session(toy_config(folder), toy_host())
    parts = session.directory(STAGES[-1]).path.glob("part-*.jsonl")
    records = [json.loads(line) for part in sorted(parts) for line in part.read_text().splitlines()]
    inside = [record["values"]["full"] for record in records if record["split"] == "in_domain"]
    figures = summary["in_domain"]
    assert figures["after"] == sum(inside) / len(inside)
    assert figures["prompts"] == len(inside) == 4
    assert figures["delta"] == pytest.approx(figures["after"] - figures["before"])
    assert figures["ci95"][0] <= figures["delta"] <= figures["ci95"][1]
    assert set(figures["categories"]) == {"warm", "cool"}
    assert set(figures["graded"]) == {"closeness"}
    assert "graded" not in figures["categories"]["warm"]


def test_the_second_run_does_nothing_and_says_so(heard: tuple[Listener, Path]) -> None:
    _, folder = heard
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    toy_backend.calls.clear()
    said = toy_run(folder, host=host)
    assert said == [f"nothing to do: all 6 stages are complete in {folder / 'run'} for this configuration"]
    assert listener.events == []
    assert toy_backend.calls["load"] == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")} == before


def test_changing_the_aggregator_reruns_reward_and_later_stages_only(heard: tuple[Listener, Path]) -> None:
    _, folder = heard
    first, kept = directories(folder / "run"), contents(folder / "run")
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    toy_backend.calls.clear()
    said = toy_run(folder, "aggregator=toy-flat", host=host)
    assert said == [
        "reward is stale: aggregator was toy-maps, is toy-flat",
        "train is stale: its input reward changed",
        "evaluate is stale: its input train changed",
    ]
    reused = {"generate": True, "ground": True, "judge": True, "reward": False, "train": False, "evaluate": False}
    assert dict(listener.of("finished")) == reused
    assert toy_backend.calls["generate"] == 3  # the images after training; those before it are shared
    assert toy_backend.calls["judge"] == toy_backend.calls["ground"] == 0
    second = directories(folder / "run")
    changed = {stage for stage in first if first[stage] != second[stage]}
    assert changed == {"reward", "train", "evaluate-images", "evaluate"}
    assert json.loads((folder / "run/summary.json").read_text())["arm"] == "toy-flat+srum"

    toy_backend.calls.clear()
    assert toy_run(folder) == []  # back again: all is there
    assert toy_backend.calls["load"] == 0
    assert directories(folder / "run") == second
    now = contents(folder / "run")
    assert {name: now[name] for name in kept} == kept


def test_every_setting_reruns_what_depends_on_it_and_no_more(heard: tuple[Listener, Path]) -> None:
    _, folder = heard

    def fingerprints(*overrides: str) -> dict[str, str]:
        session = Session(toy_config(folder, *overrides), toy_host())
        return {stage.name: session.directory(stage).fingerprint for stage in STAGES}

    base = fingerprints()
    for override, first in {
        "prompts.count=5": "generate",
        "generate.sampling.noise=0.1": "generate",
        "generate.chunk=6": "generate",
        "adapter.blur=0.4": "generate",
        "run.seed=4": "generate",
        "grounder=toy-locate": "ground",
        "ground.chunk=5": "ground",
        "judge.fail_every=2": "judge",
        "aggregator.background=0.1": "reward",
        "objective.lambda_c=0.1": "train",
        "train.steps=9": "train",
        "evaluate.chunk=4": "evaluate",
        "benchmark.count=5": "evaluate",
        "train.checkpoint_every=1": "",
        "run.name=other": "",
        "tracking.experiment=other": "",
    }.items():
        now = fingerprints(override)
        changed = [stage for stage in NAMES if now[stage] != base[stage]]
        assert changed == (list(NAMES[NAMES.index(first) :]) if first else []), override


def test_a_stage_alone_says_what_is_missing_or_stale(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="judge needs generate, but generate has not been run"):
        toy_run(tmp_path, only="judge")
    for stage in NAMES[:4]:
        toy_run(tmp_path, only=stage)
    with pytest.raises(
        StageError, match="reward needs ground, but ground is stale: grounder was toy-halves, is toy-lo"
    ):
        toy_run(tmp_path, "grounder=toy-locate", only="reward")
    said = toy_run(tmp_path, only="reward")
    assert said == [f"nothing to do: the stage reward is complete in {tmp_path / 'run'} for this configuration"]
    part = next((tmp_path / "run/stages/judge").glob("*/part-00001.jsonl"))
    (part.parent / "done.json").unlink()
    part.unlink()
    with pytest.raises(StageError, match=r"judge is not complete \(8 of 12\)"):
        toy_run(tmp_path, only="train")
    assert not (tmp_path / "run/summary.json").exists()


def test_stages_one_by_one_give_what_a_whole_run_gives(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    toy_run(tmp_path / "whole")
    for stage in NAMES:
        toy_run(tmp_path / "parts", only=stage)
    assert contents(tmp_path / "parts/run") == contents(tmp_path / "whole/run")


def test_candidates_depend_on_seed_prompt_and_index_only(tmp_path: Path) -> None:
    def images(name: str, *overrides: str) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        toy_run(tmp_path / name, *overrides, only="generate")
        return {path.name: path.read_bytes() for path in (tmp_path / name).glob("run/stages/generate/*/images/*")}

    base = images("base")
    other = images("chunks", "generate.chunk=7", "prompts.count=3", "generate.candidates=2")
    assert len(other) == 6
    assert all(base[name] == data for name, data in other.items())
    assert all(base[name] != data for name, data in images("seed", "run.seed=4").items())


def test_failed_judgements_are_left_out_and_counted(tmp_path: Path) -> None:
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    toy_run(tmp_path, "judge.fail_every=2", host=host)
    metrics = dict(listener.of("metrics"))
    assert metrics["judge"]["failed_global"] == 8
    assert metrics["reward"]["without_reward"] == 8
    assert metrics["train"]["examples"] == 4


def test_a_run_in_which_every_judgement_failed_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="every judgement failed"):
        toy_run(tmp_path, "judge.fail_every=1")


def test_the_gate_stands_before_the_model(tmp_path: Path) -> None:
    host = toy_host()

    class Blind:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            return [Provider("blind", "cannot look", toy_backend.ToyAdapter)]

    host.register(Blind(), "blind")
    toy_backend.calls.clear()
    with pytest.raises(CapabilityError, match="toy-choice"):
        toy_run(tmp_path, "adapter=blind", host=host)
    assert toy_backend.calls["load"] == 0
    assert not (tmp_path / "run").exists()


class Rogue:
    """Providers that break their contracts."""

    @hookimpl
    def srum_grounders(self) -> list[Provider]:
        from srum_plugins.records import Box, Grounding, Region

        class Outside(toy_backend.HalvesGrounder):
            def ground(self, items: Any, model: Any) -> Any:
                return [Grounding(item.candidate.id, (Region(Box(0, 0, 9, 4)),)) for item in items]

        class Lazy(toy_backend.HalvesGrounder):
            def ground(self, items: Any, model: Any) -> Any:
                return super().ground(items, model)[1:]

        class Mixed(toy_backend.HalvesGrounder):
            def ground(self, items: Any, model: Any) -> Any:
                return super().ground(items, model)[::-1]

        made = {"outside": Outside, "lazy": Lazy, "mixed": Mixed}
        providers = [Provider(name, "rogue", lambda options, kind=kind: kind()) for name, kind in made.items()]
        return [*providers, Provider("nothing", "rogue", lambda options: object())]

    @hookimpl
    def srum_judges(self) -> list[Provider]:
        class Short(toy_backend.ChoiceJudge):
            def judge(self, items: Any, groundings: Any, model: Any) -> Any:
                from srum_plugins.records import Judgement

                return [Judgement(item.candidate.id, Score(0.5), (Score(0.5),)) for item in items]

        return [Provider("short", "rogue", Short, toy_backend.JudgeOptions)]

    @hookimpl
    def srum_reward_aggregators(self) -> list[Provider]:
        class Other(toy_backend.FlatAggregator):
            size, score = 4, 1.0

            def aggregate(self, items: Any, seed: int) -> Any:
                flat = RewardMap(self.size, self.size, (), 1.0, 1.0)
                return [Reward(item.candidate.id, flat, self.score) for item in items]

        class Unsure(Other):
            size, score = 8, float("nan")

        made = {"other-size": Other, "unsure": Unsure}
        return [Provider(name, "rogue", lambda options, kind=kind: kind()) for name, kind in made.items()]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("grounder=outside", "lies outside the 8x8 image"),
        ("grounder=lazy", "returned 3 results for 4 items"),
        ("grounder=mixed", "result 0 is for 'p1-0', expected 'p0-0'"),
        ("grounder=nothing", "its factory returned a object, which is no Grounder"),
        ("judge=short", "has 2 regions, but got 1 local scores"),
        ("aggregator=other-size", "the map of candidate 'p0-0' is of 4x4 pixels, the image has 8x8"),
        ("aggregator=unsure", "the score of candidate 'p0-0' is nan"),
    ],
)
def test_broken_contracts_are_named(tmp_path: Path, override: str, words: str) -> None:
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    host.register(Rogue(), "rogue")
    with pytest.raises(ContractError) as caught:
        toy_run(tmp_path, override, host=host)
    assert words in str(caught.value)
    slot = override.split("=")[0]
    assert listener.of("failed") == [({"grounder": "ground", "aggregator": "reward"}.get(slot, slot),)]
    assert listener.of("run_failed") == [(ContractError,)]


def host_with_adapter(factory: Callable[..., Any]) -> PluginHost:
    """With the adapter ``rogue``, which says of itself what the toy says."""

    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            return [dataclasses.replace(toy_backend.srum_model_adapters()[0], name="rogue", factory=factory)]

    host = toy_host()
    host.register(Plugin(), "rogue")
    return host


@pytest.mark.parametrize(
    ("method", "gives", "words"),
    [
        ("generate", lambda found: [one.image for one in found], "generate gave a Image, expected Generated(image)"),
        ("encode", list, "encode gave list, expected a tensor (B, C, H, W)"),
        ("encode", lambda found: found[0], "encode gave (3, 4, 4), expected a tensor (B, C, H, W)"),
        ("start_training", lambda found: [*found.values()], "start_training gave a list, expected parameters by name"),
        ("start_training", lambda found: {}, "adapter 'rogue' of (in process) names no trainable parameter"),
    ],
)
def test_an_adapter_that_gives_something_else_is_told(
    tmp_path: Path, method: str, gives: Callable[[Any], Any], words: str
) -> None:
    def other(self: Any, *arguments: Any, **settings: Any) -> Any:
        return gives(getattr(toy_backend.ToyAdapter, method)(self, *arguments, **settings))

    rogue = type("Rogue", (toy_backend.ToyAdapter,), {method: other})
    with pytest.raises(ContractError, match=re.escape(words)):
        toy_run(tmp_path, "adapter=rogue", host=host_with_adapter(rogue))


def test_before_and_after_must_be_the_same_prompts() -> None:
    one = [Measured("a", "x", "", 1, {"full": 1.0})]
    with pytest.raises(ContractError, match="same prompts and seeds"):
        summarise(one, [Measured("b", "x", "", 1, {"full": 1.0})], seed=0)
    with pytest.raises(ContractError, match="split 'arm'"):
        bad = [Measured("a", "arm", "", 1, {"full": 1.0})]
        summarise(bad, bad, seed=0)


def test_a_figure_that_some_prompts_lack_is_reported_over_those_that_have_it() -> None:
    values: list[dict[str, float]] = [{"full": 1.0}, {"full": 0.0, "count": 0.25}, {"full": 1.0, "count": 0.75}]
    side = [Measured(str(index), "x", "", index, figures) for index, figures in enumerate(values)]
    graded = summarise(side, side, seed=0)["x"]["graded"]
    assert {name: (figures["before"], figures["prompts"]) for name, figures in graded.items()} == {"count": (0.5, 2)}


def test_before_and_after_draw_the_same_from_the_global_state(tmp_path: Path) -> None:
    draws: list[float] = []

    class Careless(toy_backend.ToyAdapter):
        def generate(self, requests: Any, sampling: Any) -> Any:
            draws.append(float(torch.rand(())))
            return super().generate(requests, sampling)

        def understanding_digest(self) -> str:
            draws.append(float(torch.rand(())))
            return super().understanding_digest()

    host = host_with_adapter(Careless)
    for stage in NAMES[:-1]:
        toy_run(tmp_path, "adapter=rogue", only=stage, host=host)
    draws.clear()
    toy_run(tmp_path, "adapter=rogue", only="evaluate", host=host)
    half = len(draws) // 2
    assert half == 4  # three chunks and the questions
    assert draws[:half] == draws[half:]


def test_a_summary_of_another_configuration_does_not_stay(heard: tuple[Listener, Path]) -> None:
    _, folder = heard
    summary = folder / "run/summary.json"
    before = summary.read_bytes()
    toy_run(folder, "aggregator=toy-flat", only="reward")
    assert not summary.exists()
    toy_run(folder)
    assert summary.read_bytes() == before


def test_other_weights_under_the_same_config_are_another_run(tmp_path: Path) -> None:
    """Else the new run's train steps would be taken for those that MLflow has already."""

    def info(identity: str) -> RunInfo:
        class Plugin:
            @hookimpl
            def srum_model_adapters(self) -> list[Provider]:
                toy = toy_backend.srum_model_adapters()[0]
                return [dataclasses.replace(toy, name="weighty", identity=lambda options: identity)]

        host = toy_host()
        host.register(Plugin(), "weighty")
        return Session(toy_config(tmp_path, "adapter=weighty", host=host), host).info

    assert info("a").config_hash == info("a").config_hash != info("b").config_hash


def test_an_adapter_gets_the_attention_that_works_and_listeners_hear_of_it(tmp_path: Path) -> None:
    given: list[Attention] = []
    heard: list[tuple[str, list[str]]] = []

    def factory(options: Any, device: str, attention: Attention) -> ModelAdapter:
        given.append(attention)
        return toy_backend.ToyAdapter(options, device)

    class Listener:
        @hookimpl
        def srum_attention_chosen(self, attention: str, refused: Mapping[str, str]) -> None:
            heard.append((attention, list(refused)))

    host = attentive_host(factory)
    host.register(Listener(), "listener")
    toy_run(tmp_path, "adapter=attentive", host=host)
    # Loaded again after training, but tried once.
    assert len(given) > 1 and {type(one) for one in given} == {SDPA}
    assert heard == [("sdpa", ["varlen"])]
    # Another kernel changes rounding only: what is there stays.
    assert toy_run(tmp_path, "adapter=attentive", "attention=dense", host=host) == []  # no stage is stale
    assert heard == [("sdpa", ["varlen"])]


def test_an_attention_that_does_not_work_is_refused_before_weights_load(tmp_path: Path) -> None:
    def factory(options: Any, device: str, attention: Attention) -> ModelAdapter:
        raise AssertionError("weights were loaded")

    host = attentive_host(factory)
    with pytest.raises(ConfigError, match="attention=varlen does not work here: it runs on cuda only"):
        toy_run(tmp_path, "adapter=attentive", "attention=varlen", host=host)
    with pytest.raises(PluginError, match=r"needs xformers, not installed: pip install 'srum-plugins\[xformers\]'"):
        toy_run(tmp_path, "adapter=attentive", "attention=xformers", host=host)


def test_a_grounder_that_needs_the_model_gets_it(tmp_path: Path) -> None:
    write_config(tmp_path, grounder="toy-locate")
    toy_run(tmp_path, only="generate")
    toy_run(tmp_path, only="ground")
    done = json.loads(next((tmp_path / "run/stages/ground").glob("*/done.json")).read_text())
    assert done["mended_clamped"] == done["regions"] > 0  # what was mended is counted
