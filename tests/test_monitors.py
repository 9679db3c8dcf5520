"""Monitors in a run: they disturb nothing, lose nothing, and end a training that goes wrong."""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_backend
from engine_fixtures import contents, toy_config, toy_host, toy_run, write_config
from processes import launch
from toy_processes import toy_command

from srum_plugins import hookimpl
from srum_plugins.contracts import ModelAdapter, Monitor, Watched
from srum_plugins.errors import ConfigError, ContractError, SrumError
from srum_plugins.host import PluginHost
from srum_plugins.monitors import plugin as monitors_plugin
from srum_plugins.providers import Kind, Provider
from srum_plugins.records import Failure, Level, Noted, Reading, told
from srum_plugins.report import markdown, table
from srum_plugins.reporting.run_report import run_page
from srum_plugins.stages import train
from srum_plugins.stages.monitoring import facts, read_noted, spread, stopped_early
from srum_plugins.stages.session import Session
from srum_plugins.training.checkpoints import checkpoints

ALL = (
    "monitors=[{name: reward-hacking, every: 2, window: 2}, {name: grounding, native: 4}, "
    "{name: latents, every: 3, images: 3, distance: {stop: null}, outside: {stop: null}}, "
    "{name: understanding, every: 4}, {name: held-out-judge, every: 4, images: 4, judge: toy-choice}]"
)


@dataclasses.dataclass(frozen=True)
class ScriptOptions:
    """Says ``stop`` after so many steps (-1: never), and ``warning`` at every other reading."""

    at: int = -1
    every: int = 1


class Script(Monitor):
    """Draws from every generator there is, and says what it was told to."""

    def __init__(self, options: ScriptOptions) -> None:
        self.options = options
        self.every = options.every

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        assert isinstance(model, toy_backend.ToyAdapter)
        self.base = model.model.palette.detach().clone()
        return self._read(0, model)

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        assert [row["step"] for row in rows] == list(range(step))
        return self._read(step, model)

    def after(self, model: ModelAdapter) -> list[Reading]:
        return [Reading("moved", self._moved(model))]

    def _read(self, step: int, model: ModelAdapter) -> list[Reading]:
        assert not torch.is_grad_enabled()
        drawn = float(torch.rand(())) + random.random() + float(np.random.rand())
        level: Level = "stop" if step == self.options.at else "warning"
        return [Reading("moved", self._moved(model), level, "[a] message"), Reading("drawn", drawn)]

    def _moved(self, model: ModelAdapter) -> float:
        assert isinstance(model, toy_backend.ToyAdapter)
        return float((model.model.palette.detach() - self.base).norm())


class Odd(Script):
    def after(self, model: ModelAdapter) -> list[Reading]:
        return [Reading("same", 1.0), Reading("same", 2.0)]


class Plugin:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int, tuple[str, ...]]] = []

    @hookimpl
    def srum_monitors(self) -> list[Provider]:
        return [
            Provider("script", "as told", Script, ScriptOptions),
            Provider("odd", "gives two readings of one name", Odd, ScriptOptions),
        ]

    @hookimpl
    def srum_monitor(self, monitor: str, phase: str, step: int, readings: Sequence[Reading]) -> None:
        self.heard.append((monitor, phase, step, tuple(one.name for one in readings)))


def host() -> PluginHost:
    found = toy_host()
    found.register(monitors_plugin, "monitors")
    found.register(Plugin(), "script")
    return found


def stage(folder: Path) -> Path:
    return next((folder / "run/stages/train").glob("*/"))


def noted(folder: Path) -> list[Noted]:
    return read_noted(stage(folder) / "monitors.jsonl")


def done(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage(folder) / "done.json").read_text())
    return found


def trained(folder: Path) -> dict[str, bytes]:
    """What training makes but for monitors, by name within the stage."""
    found = contents(stage(folder))
    return {name: data for name, data in found.items() if name == "metrics.jsonl" or name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    toy_run(folder, "monitors=[]")
    return folder


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    toy_run(folder, ALL, host=host())
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    toy_run(folder, "monitors=[{name: script, at: 5}]", host=host())
    return folder


def test_training_is_the_same_to_the_bit_with_monitors_and_without(plain: Path, watched: Path, tmp_path: Path) -> None:
    assert not (stage(plain) / "monitors.jsonl").exists()
    assert len(trained(plain)) >= 6
    assert trained(watched) == trained(plain)
    toy_run(tmp_path, "monitors=script", host=host())  # which draws from all generators after every step
    assert trained(tmp_path) == trained(plain)


def test_the_built_in_monitors_read_before_during_and_after(watched: Path) -> None:
    read = {(one.monitor, one.phase, one.step): [] for one in noted(watched)}
    for one in noted(watched):
        read[one.monitor, one.phase, one.step].append(one.reading.name)
    assert [key for key in read if key[0] == "reward-hacking"] == [("reward-hacking", "during", s) for s in (4, 6, 8)]
    sampled = [f"{what}_{kind}" for what in ("velocity", "sampled") for kind in ("norm", "distance", "outside")]
    assert [read["latents", "during", step] for step in (3, 6, 8)] == [sampled] * 3
    assert read["latents", "after", 8] == sampled
    assert read["grounding", "before", 0] == ["empty", "boxes", "coverage", "filtered", "disagreement"]
    assert read["understanding", "during", 4][:2] == ["changed", "shift"]
    assert ("held-out-judge", "before", 0) in read and ("held-out-judge", "after", 8) in read
    values = {f"{one.monitor}/{one.reading.name}": one.reading.value for one in noted(watched) if one.phase == "after"}
    assert done(watched)["monitors_after"] == values
    assert values["understanding/changed"] == values["understanding/shift"] == 0.0  # that half is not trained
    assert values["held-out-judge/gap"] == 0.0  # it is the same judge
    assert values["latents/sampled_distance"] != 0.0
    assert (watched / "run/pictures/monitors.png").exists()


class Stop:
    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def srum_train_step_finished(self, step: int) -> None:
        if step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("undisturbed", "override", "step"),
    [("watched", ALL, 3), ("watched", ALL, 7), ("stopped", "monitors=[{name: script, at: 5}]", 3)],
)
def test_a_training_that_is_interrupted_has_every_reading_once(
    request: pytest.FixtureRequest, tmp_path: Path, undisturbed: str, override: str, step: int
) -> None:
    cut = host()
    cut.register(Stop(step), "stop")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, override, host=cut)
    toy_run(tmp_path, override, host=host())
    assert contents(tmp_path / "run") == contents(request.getfixturevalue(undisturbed) / "run")


def test_a_stop_keeps_the_last_checkpoint_before_it_and_says_so(stopped: Path, plain: Path, tmp_path: Path) -> None:
    facts = done(stopped)
    assert (facts["stopped_at"], facts["kept_step"], facts["steps"]) == (5, 3, 5)
    assert facts["stopped_by"].startswith("script: moved = ")
    assert [done for done, _ in checkpoints(_session(stopped).directory(train.STAGE))] == [3]
    # The weights are those of a training of 3 steps, and so are the figures after it.
    toy_run(tmp_path, "monitors=[]", "train.steps=3")
    name = "weights/model.safetensors"
    assert trained(stopped)[name] == trained(tmp_path)[name] != trained(plain)[name]
    after = [one for one in noted(stopped) if one.phase == "after"]
    moved = {one.step: one.reading.value for one in noted(stopped) if one.reading.name == "moved"}
    assert [one.step for one in after] == [3]
    assert after[0].reading.value == moved[3] != moved[5]
    summary = json.loads((stopped / "run/summary.json").read_text())
    assert summary["stopped"] == stopped_early(facts)
    assert "in_domain" in summary  # it was evaluated
    assert "STOPPED by a monitor after step 5" in markdown(summary)
    assert "\\[a\\] message" in markdown(summary)
    assert "STOPPED by a monitor" in str(table(summary).caption)
    page = run_page(_session(stopped), summary)
    assert "STOPPED by a monitor after step 5" in page
    assert "script: moved, last weights" in page


def _session(folder: Path) -> Session:
    made = host()
    return Session(toy_config(folder, "monitors=[{name: script, at: 5}]", host=made), made)


def test_a_stop_is_said_loudly_and_told_to_listeners(tmp_path: Path) -> None:
    made, plugin = toy_host(), Plugin()
    made.register(plugin, "script")
    said = toy_run(tmp_path, "monitors=[{name: script, at: 4, every: 2}]", host=made)
    assert [line for line in said if "STOPPED" in line] == [
        f"TRAINING WAS STOPPED by a monitor after step 4: {done(tmp_path)['stopped_by']}. "
        "Kept: the weights after step 3."
    ]
    assert plugin.heard == [
        ("script", "before", 0, ("moved", "drawn")),
        ("script", "during", 2, ("moved", "drawn")),
        ("script", "during", 4, ("moved", "drawn")),
        ("script", "after", 3, ("moved",)),
    ]


@pytest.mark.parametrize(("at", "steps"), [(0, 0), (2, 2)])
def test_a_stop_before_any_checkpoint_keeps_the_model_as_it_was(tmp_path: Path, at: int, steps: int) -> None:
    toy_run(tmp_path, f"monitors=[{{name: script, at: {at}}}]", host=host())
    facts = done(tmp_path)
    assert (facts["stopped_at"], facts["kept_step"], facts["steps"]) == (at, 0, steps)
    adapter = toy_backend.ToyAdapter(toy_backend.AdapterOptions(), "cpu")
    before = adapter.model.palette.detach().clone()
    adapter.load_trained(stage(tmp_path) / "weights")
    assert torch.equal(adapter.model.palette, before)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["in_domain"]["delta"] == 0.0
    assert "the weights from before training" in summary["stopped"]


def test_a_stop_keeps_the_best_checkpoint_where_one_is_named(tmp_path: Path) -> None:
    toy_run(
        tmp_path,
        "monitors=[{name: script, at: 7}]",
        "train.checkpoint_every=1",
        "train.keep_best=-loss",
        host=host(),
    )
    rows = [json.loads(line) for line in (stage(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    best = max(rows[:6], key=lambda row: row["loss"])["step"] + 1
    assert done(tmp_path)["kept_step"] == best != 6
    assert done(tmp_path)["best_checkpoint"] == f"step-{best:06d}"


def test_the_average_is_kept_too(tmp_path: Path) -> None:
    for name, *overrides in (("cut", "monitors=[{name: script, at: 5}]"), ("short", "monitors=[]", "train.steps=3")):
        (tmp_path / name).mkdir()
        toy_run(tmp_path / name, "train.ema=0.6", *overrides, host=host())
    name = "weights/model.safetensors"
    assert trained(tmp_path / "cut")[name] == trained(tmp_path / "short")[name]


def watched_command(rank: int, folder: str, override: str) -> int:
    return toy_command(rank, folder, "train.batch=4", override, host=host())


@pytest.mark.parametrize("override", ["monitors=[{name: script, at: 5}]", ALL])
def test_two_processes_stop_together_and_read_what_one_does(tmp_path: Path, override: str) -> None:
    write_config(tmp_path)
    assert launch(2, watched_command, str(tmp_path), override) == [0, 0], (tmp_path / "said-0.txt").read_text()
    (tmp_path / "one").mkdir()
    toy_run(tmp_path / "one", "train.batch=4", override, host=host())
    together, alone = noted(tmp_path), noted(tmp_path / "one")
    assert [(one.step, one.phase, one.monitor, one.reading.name) for one in together] == [
        (one.step, one.phase, one.monitor, one.reading.name) for one in alone
    ]
    for two, one in zip(together, alone, strict=True):
        assert two.reading.value == pytest.approx(one.reading.value, rel=1e-3, abs=1e-4)
    assert done(tmp_path).get("kept_step") == done(tmp_path / "one").get("kept_step")


# --- what a config says ------------------------------------------------------------------------------------------
def test_the_cheap_ones_that_are_installed_watch_by_default(tmp_path: Path) -> None:
    assert list(toy_config(tmp_path, host=host()).monitors) == ["reward-hacking", "latents", "grounding"]
    assert list(toy_config(tmp_path, host=toy_host()).monitors) == []
    latents = toy_config(tmp_path, host=host()).monitors["latents"].options
    named = toy_config(tmp_path, "monitors=[latents]", host=host()).monitors["latents"].options
    assert latents.norm.stop is None and latents.norm.warning == named.norm.warning  # nobody asked for a stop
    assert named.norm.stop is not None
    twice = toy_config(tmp_path, "monitors=[script, {name: script, at: 3}]", host=host())
    assert {label: choice.options.at for label, choice in twice.monitors.items()} == {"script#1": -1, "script#2": 3}
    held = toy_config(tmp_path, "monitors=[{name: held-out-judge, judge: toy-choice}]", host=host())
    assert held.resolved()["monitors"][0]["judge"] == {"name": "toy-choice", "fail_every": 0}
    assert held.monitors["held-out-judge"].parts["judge"].registered.kind is Kind.JUDGE


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("monitors=[scrypt]", "no monitor named 'scrypt'"),
        ("monitors=[{name: script, att: 3}]", "monitors[0].att: there is no such setting"),
        ("monitors=[script, {at: 3}]", "monitors[1] is missing"),
        ("monitors.script.at=3", "an option stands with its monitor"),
        ("monitors=[{name: held-out-judge, judge: {name: toy-choice, fail: 1}}]", "monitors[0].judge.fail"),
        ("monitors=[{name: held-out-judge, judge: nobody}]", "no judge named 'nobody'"),
        ("monitors=[held-out-judge]", "monitors[0].judge: a value is missing"),
        ("monitors=[{name: latents, norm: {warning: 2.0, stop: 1.0}}]", "norm.stop must not lie below warning"),
        ("monitors=[{name: latents, every: 0}]", "every must be at least 1"),
        ("monitor=script", "unknown key 'monitor'"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_loaded(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(SrumError) as caught:
        toy_config(tmp_path, override, host=host())
    assert words in str(caught.value)


def test_a_changed_monitor_makes_training_stale_and_nothing_before_it(stopped: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(stopped / "run", tmp_path / "run")
    said = toy_run(tmp_path, "monitors=[{name: script, at: 6}]", host=host())
    assert said[0] == "train is stale: monitors.script.at was 5, is 6"
    assert not any(line.startswith(("reward is", "judge is")) for line in said)


def test_a_monitor_that_needs_more_than_prediction_is_refused_where_weights_are_shared_out(tmp_path: Path) -> None:
    from srum_plugins import gate
    from srum_plugins.stages.pipeline import _watching

    config = toy_config(tmp_path, "monitors=[latents, {name: latents, images: 2}]", host=host())
    sharded = dataclasses.replace(config.train, sharding="fsdp2")
    gate.check_monitors(_watching(config), sharded, 1)
    gate.check_monitors(_watching(config), config.train, 2)
    with pytest.raises(ConfigError, match=r"^monitors\[1\] 'latents' needs a model that can generate during training"):
        gate.check_monitors(_watching(config), sharded, 2)


def test_readings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="two readings of one name: same, same"):
        toy_run(tmp_path, "monitors=[odd]", host=host())
    for wrong in (
        lambda: Reading("x", float("nan")),
        lambda: Reading("x", None),
        lambda: Reading("x", 1.0, failure=Failure("both")),
        lambda: Reading("x", None, "stop", failure=Failure("no value")),
    ):
        with pytest.raises(ContractError):
            wrong()


def test_a_level_after_training_stops_nothing() -> None:
    late = Noted(8, "after", "m", Reading("x", 2.0, "stop"))
    assert "stopped_by" not in facts([late], 8)
    assert facts([], 0) == {}
    failed = Reading("x", None, failure=Failure("no spread", "at all"))
    assert told("m", failed) == "m: x could not be read (no spread: at all)"


@pytest.mark.parametrize(("total", "count", "places"), [(10, 3, [0, 3, 6]), (2, 5, [0, 1]), (4, 4, [0, 1, 2, 3])])
def test_examples_are_spread_evenly(total: int, count: int, places: list[int]) -> None:
    assert spread(total, count) == places
