"""Experiments of several runs on the toy backend: what is shared, what is kept, and what becomes of failures."""

import json
from pathlib import Path
from typing import Any

import pytest
import toy_backend
import yaml
from engine_fixtures import directories, toy_host, write_config
from processes import launch
from toy_processes import ablation_command

from srum_plugins import hookimpl
from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.experiment import run_arms
from srum_plugins.ablations.plan import Experiment, plan
from srum_plugins.ablations.results import Results
from srum_plugins.ablations.stress import curves, sensitivity_curve, stress_arms
from srum_plugins.cli import main
from srum_plugins.errors import ConfigError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost
from srum_plugins.tracking import plugin as tracking
from srum_plugins.tracking.mlflow_run import default_uri
from srum_plugins.world import World

SMALL = ("train.steps=2", "train.warmup=0", "prompts.count=2", "benchmark.count=2")
FLAT = Arm("flat", "weight 1 everywhere", ("aggregator=toy-flat",), "flat")
MAPS = Arm("maps", "the toy's maps", ("aggregator=toy-maps",), "maps")
BASE = Arm("base", "before training", (), "base", trained=False)
# Candidates of one reward make no pairs, which is found when training is about to begin.
BROKEN = Arm("broken", "no pairs", ("aggregator=toy-flat", "objective=paired"), "broken")


class Heard:
    """A listener that keeps what it was told of runs."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str | None]] = []
        self.ended: list[tuple[str, str]] = []
        self.steps = 0
        self.tables: dict[str, Any] = {}

    @hookimpl
    def srum_run_started(self, run: RunInfo) -> None:
        self.started.append((run.name, run.parent.name if run.parent else None))

    @hookimpl
    def srum_run_finished(self, run: RunInfo) -> None:
        self.ended.append((run.name, "finished"))

    @hookimpl
    def srum_run_failed(self, run: RunInfo) -> None:
        self.ended.append((run.name, "failed"))

    @hookimpl
    def srum_train_step_finished(self) -> None:
        self.steps += 1

    @hookimpl
    def srum_table(self, run: RunInfo, name: str, rows: Any) -> None:
        self.tables[run.name, name] = rows


def experiment(
    folder: Path, host: PluginHost, *arms: Arm, seeds: tuple[int, ...] = (3, 4), name: str = "ablation", **more: Any
) -> Experiment:
    path = folder / "toy.yaml"
    if not path.exists():
        write_config(folder, **more)
    return plan(name, path, SMALL, arms, seeds, "flat" if FLAT in arms else None, host)


def go(folder: Path, *arms: Arm, **more: Any) -> tuple[Results, Heard, list[str]]:
    host, heard = toy_host(), Heard()
    host.register(heard, "heard")
    said: list[str] = []
    results = run_arms(experiment(folder, host, *arms, **more), host, World(), said.append)
    return results, heard, said


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, Heard, list[str]]:
    folder = tmp_path_factory.mktemp("ablation")
    return folder, *go(folder, BASE, FLAT, MAPS)


def test_arms_of_a_seed_share_all_but_reward_training_and_evaluation(
    done: tuple[Path, Results, Heard, list[str]],
) -> None:
    folder, results, heard, _ = done
    for seed in (3, 4):
        counts = {stage: len(names) for stage, names in directories(folder / f"run-arms/seed-{seed}").items()}
        assert counts == {
            "generate": 1, "ground": 1, "judge": 1, "baseline-images": 1, "baseline": 1,
            "reward": 2, "train": 2, "evaluate-images": 2, "evaluate": 2,
        }  # fmt: skip
    assert heard.steps == 2 * 2 * 2
    assert list(results.outcomes) == [(arm, seed) for arm in ("base", "flat", "maps") for seed in (3, 4)]
    assert results.failures == {}


def test_the_experiment_is_a_run_and_its_arms_are_its_children(done: tuple[Path, Results, Heard, list[str]]) -> None:
    _, results, heard, _ = done
    arms = [f"{arm}, seed {seed}" for seed in (3, 4) for arm in ("flat", "maps")]
    assert heard.started == [("toy ablation", None), *((name, "toy ablation") for name in arms)]
    assert heard.ended == [*((name, "finished") for name in arms), ("toy ablation", "finished")]
    assert heard.tables["toy ablation", "ablation"] == [row.plain() for row in results.rows]


def test_the_tables_are_written_with_the_figures_of_each_arm(done: tuple[Path, Results, Heard, list[str]]) -> None:
    folder, results, _, _ = done
    place = folder / "run-arms/ablation"
    written = json.loads((place / "results.json").read_text())
    assert written["rows"] == [row.plain() for row in results.rows]
    assert written["arms"]["flat"] == {"about": FLAT.about, "overrides": ["aggregator=toy-flat"]}
    assert written["control"] == "flat"
    assert {(one["arm"], one["seed"]) for one in written["by_seed"]} == set(results.outcomes)
    # The outcome is that of the arm, though the run directory's own summary is of the one that ran last.
    summaries = {(one["arm"], one["seed"]): one["summary"] for one in written["by_seed"]}
    assert summaries["flat", 3]["arm"] == "toy-flat+srum"
    assert summaries["maps", 3] == json.loads((folder / "run-arms/seed-3/summary.json").read_text())
    for (arm, seed), found in results.outcomes.items():
        if arm != "base":
            marks = [mark for mark in found.marks if mark.split == "in_domain"]
            delta = sum(mark.after - mark.before for mark in marks) / len(marks)
            assert delta == pytest.approx(summaries[arm, seed]["in_domain"]["delta"])
    base = [row for row in results.rows if row.arm == "base"]
    assert all(row.base is None and row.before == row.after for row in base)
    assert (place / "table.md").read_text().startswith("**toy ablation, seeds 3 4**")
    assert (place / "table.csv").read_text().count("\n") == 1 + len(results.rows)


def test_what_is_complete_is_not_run_again_and_only_what_is_missing_is_made(
    done: tuple[Path, Results, Heard, list[str]],
) -> None:
    folder, results, _, _ = done
    table = (folder / "run-arms/ablation/results.json").read_bytes()
    again, heard, _ = go(folder, BASE, FLAT, MAPS)
    assert (heard.steps, heard.started) == (0, [("toy ablation", None)])
    assert again.rows == results.rows
    assert (folder / "run-arms/ablation/results.json").read_bytes() == table
    # An outcome that was lost or damaged is read from the stages again.
    (folder / "run-arms/ablation/outcomes/seed-3/flat.json").write_text("{}")
    mended, heard, _ = go(folder, BASE, FLAT, MAPS)
    assert heard.steps == 0
    assert heard.started[1:] == [("flat, seed 3", "toy ablation")]
    assert mended.rows == results.rows


def test_killed_in_the_middle_it_goes_on(
    done: tuple[Path, Results, Heard, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killer(Heard):
        @hookimpl
        def srum_train_step_finished(self) -> None:
            self.steps += 1
            if self.steps == 3:
                raise KeyboardInterrupt

    host, killer = toy_host(), Killer()
    host.register(killer, "killer")
    with pytest.raises(KeyboardInterrupt):
        run_arms(experiment(tmp_path, host, BASE, FLAT, MAPS), host, World(), lambda text: None)
    assert killer.ended == [("flat, seed 3", "finished"), ("maps, seed 3", "failed"), ("toy ablation", "failed")]
    results, heard, _ = go(tmp_path, BASE, FLAT, MAPS)
    assert ("flat, seed 3", "toy ablation") not in heard.started
    assert results.rows == done[1].rows


def test_an_arm_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    results, heard, said = go(tmp_path, FLAT, BROKEN, MAPS, seeds=(3,))
    assert list(results.outcomes) == [("flat", 3), ("maps", 3)]
    assert results.failures["broken", 3].cause == "RewardError"
    assert "pair" in results.failures["broken", 3].detail
    assert any(line.startswith("broken, seed 3: failed") for line in said)
    assert heard.ended[-1] == ("toy ablation", "failed")
    assert "broken, seed 3: failed, RewardError" in (tmp_path / "run-arms/ablation/table.md").read_text()
    assert "1 runs failed" in str(results.failed())


def test_two_arms_of_one_configuration_are_told(done: tuple[Path, Results, Heard, list[str]]) -> None:
    twin = Arm("twin", "the same again", MAPS.overrides, "twin")
    results, heard, said = go(done[0], MAPS, twin, seeds=(3,))
    assert "twin is the same configuration as maps, and has its results" in said
    assert heard.steps == 0
    assert results.outcomes["twin", 3].marks == results.outcomes["maps", 3].marks


def test_mistakes_are_told_before_anything_runs(tmp_path: Path) -> None:
    wrong = Arm("wrong", "", ("trian.steps=4",), "wrong")
    host = toy_host()
    with pytest.raises(ConfigError, match=r"arm 'wrong': unknown key 'trian'"):
        experiment(tmp_path, host, FLAT, wrong)
    with pytest.raises(ConfigError, match="no arm is trained"):
        experiment(tmp_path, host, BASE)
    with pytest.raises(ConfigError, match="a seed occurs twice"):
        experiment(tmp_path, host, FLAT, seeds=(1, 1))
    assert not (tmp_path / "run-arms").exists()


@pytest.mark.slow
def test_mlflow_shows_the_arms_below_the_ablation_with_its_table(tmp_path: Path) -> None:
    host = toy_host()
    host.register(tracking, "tracking")
    run = {**toy_backend.config(tmp_path / "run")["run"], "report": True}
    planned = experiment(tmp_path, host, FLAT, MAPS, seeds=(3,), tracking={"enabled": True}, run=run)
    run_arms(planned, host, World(), lambda text: None)
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(planned.results))
    found = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("srum").experiment_id])
    }
    assert set(found) == {"toy ablation", "flat, seed 3", "maps, seed 3"}
    parent = found["toy ablation"].info.run_id
    for name in ("flat, seed 3", "maps, seed 3"):
        assert found[name].data.tags["mlflow.parentRunId"] == parent
        assert found[name].info.status == "FINISHED"
        assert found[name].data.metrics["train/loss"] > 0
    assert found["toy ablation"].info.status == "FINISHED"
    assert "mlflow.parentRunId" not in found["toy ablation"].data.tags
    assert "ablation/maps/in_domain/minus_base" in found["toy ablation"].data.metrics
    page = (planned.results / "report.html").read_text()
    assert Path(client.download_artifacts(parent, "report.html")).read_text() == page
    table = json.loads(Path(client.download_artifacts(parent, "tables/ablation.json")).read_text())
    assert [row[0] for row in table["data"]] == ["flat", "flat", "maps", "maps"]
    run_arms(planned, host, World(), lambda text: None)
    assert len(client.search_runs([found["toy ablation"].info.experiment_id])) == 3


def test_boxes_that_get_worse_make_a_curve(tmp_path: Path) -> None:
    arms = stress_arms(["drop", "jitter"], [1.0, 0.5])
    assert [arm.name for arm in arms] == ["clean", "drop-0.5", "drop-1", "jitter-0.5", "jitter-1"]
    results, heard, _ = go(tmp_path, arms[0], arms[2], seeds=(3,), name="stress-grounding")
    assert {stage: len(names) for stage, names in directories(tmp_path / "run-arms/seed-3").items()} == {
        "generate": 1, "baseline-images": 1, "baseline": 1, "ground": 2, "judge": 2, "reward": 2, "train": 2,
        "evaluate-images": 2, "evaluate": 2,
    }  # fmt: skip
    assert heard.started[0] == ("toy stress-grounding", None)
    found = curves(results.rows, ["drop", "jitter"], [0.5, 1.0])
    assert list(found) == ["drop"]  # of jitter nothing was measured
    assert [point.level for point in found["drop"]["in_domain"]] == [0.0, 1.0]
    clean = next(row for row in results.rows if (row.arm, row.split) == ("clean", "in_domain"))
    assert found["drop"]["in_domain"][0].gain == clean.base
    drawn = sensitivity_curve(found)
    assert drawn is not None and drawn.width > 300
    assert sensitivity_curve({}) is None


@pytest.mark.slow
def test_two_processes_make_the_table_together(tmp_path: Path) -> None:
    write_config(tmp_path, train={"steps": 2, "batch": 4, "warmup": 0})
    overrides = ("prompts.count=2", "benchmark.count=2")
    assert launch(2, ablation_command, str(tmp_path), *overrides) == [0, 0]
    written = json.loads((tmp_path / "run-arms/ablation/results.json").read_text())
    assert [row["arm"] for row in written["rows"]] == [arm for arm in ("base", "flat", "maps") for _ in range(2)]
    assert written["failures"] == []
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "run-arms/seed-3/stages").rglob("part-*.jsonl"))]
    assert launch(1, ablation_command, str(tmp_path), *overrides) == [0]
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "run-arms/seed-3/stages").rglob("part-*.jsonl"))]
    assert again == times


@pytest.mark.parametrize(
    ("kinds", "levels", "words"),
    [(["jiter"], [0.5], "Did you mean 'jitter'"), (["jitter"], [0.0], "must lie in"), (["jitter"], [1.5], "got 1.5")],
)
def test_levels_and_kinds_are_checked(kinds: list[str], levels: list[float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stress_arms(kinds, levels)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    host = toy_host()
    monkeypatch.setattr(PluginHost, "load", lambda *blocked, **said: host)
    monkeypatch.setenv("COLUMNS", "140")
    config = str(write_config(tmp_path))
    (tmp_path / "ablations").mkdir()
    for arm in (FLAT, MAPS):
        content = {"about": arm.about, "overrides": list(arm.overrides)}
        (tmp_path / f"ablations/{arm.name}.yaml").write_text(yaml.safe_dump(content))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    code, out, err = call("ablate", config, "--list")
    assert (code, err) == (0, "")
    assert "weight 1 everywhere" in out and "aggregator=toy-maps" in out
    code, out, err = call("ablate", config, "--arms", "flat", "mpas")
    assert (code, out) == (2, "")
    assert "there is no arm 'mpas'. Did you mean 'maps'" in err
    code, out, err = call("ablate", config, "--control", "flat", "--arms", "flat", "maps", "--seeds", "3", *SMALL)
    assert (code, err) == (0, "")
    assert "minus flat" in out and "maps, seed 3: in_domain" in out
    ran = yaml.safe_load((tmp_path / "run-arms/seed-3/config.yaml").read_text())
    assert (ran["train"]["steps"], ran["run"]["seed"]) == (2, 3)
    code, out, err = call("stress", "grounding", config, "--kinds", "drop", "--levels", "1", "--seeds", "3", *SMALL)
    assert (code, err) == (0, "")
    assert "drop-1" in out and "minus clean" in out
    assert (tmp_path / "run-arms/stress-grounding/stress-grounding.png").stat().st_size > 1000
    code, out, err = call("ablate", config, "--seeds", "x")
    assert (code, out) == (2, "")
    assert "--seeds" in err and "'x'" in err
