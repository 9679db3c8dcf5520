"""Tracking against a real MLflow store (SQLite): what is logged, resuming, and failures."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.errors import TrackingError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.records import Failure, Phase, Reading
from srum_plugins.tracking import plugin
from srum_plugins.tracking.mlflow_run import MlflowRun, Point, _batches, default_uri, flatten

LONG = "red cube " * 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent of all run directories: their store takes seconds to create, and is shared as users share it."""
    return tmp_path_factory.mktemp("all runs")


@pytest.fixture
def run(runs: Path, request: pytest.FixtureRequest) -> RunInfo:
    config = {
        "run": {"name": "demo", "seed": 0},
        "adapter": {"name": "shapes", "note": LONG, "sizes": [1, 2]},
        "train": {"lr": 1e-4, "reference": None},
        "tracking": {"enabled": True, "uri": None, "experiment": "tests"},
    }
    return RunInfo("demo", runs / request.node.name, config, "abc123", {"srum-plugins": "0.1.0", "stranger": "2.0"})


def stored(run: RunInfo) -> Any:
    """The MLflow run of a run, read by a client of its own."""
    return client(run).get_run(json.loads((run.directory / "mlflow.json").read_text())[run.config_hash])


def client(run: RunInfo) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(default_uri(run.directory))


def artifact(run: RunInfo, path: str) -> Path:
    """An artifact, which must lie beside the store."""
    file = run.directory.parent / "mlflow-artifacts" / stored(run).info.run_id / "artifacts" / path
    assert file.is_file(), sorted(file.parent.parent.rglob("*"))
    return file


def train(run: RunInfo, first: int, last: int) -> None:
    for step in range(first, last):
        plugin.srum_train_step_finished(run, step, {"loss": 1.0 / (step + 1), "grad norm%": 2.0})


def steps(run: RunInfo, key: str = "train/loss") -> list[int]:
    return [metric.step for metric in client(run).get_metric_history(stored(run).info.run_id, key)]


def test_a_whole_run_is_logged(run: RunInfo) -> None:
    plugin.srum_run_started(run)
    assert stored(run).info.status == "RUNNING"
    plugin.srum_stage_finished(run, "generate", 12.5, reused=False)
    plugin.srum_stage_finished(run, "ground", 0.0, reused=True)
    train(run, 0, 45)
    assert len(steps(run)) == 40  # sent by twenties
    plugin.srum_checkpoint_saved(run)
    assert steps(run) == list(range(45))
    plugin.srum_metrics(run, "evaluate", {"in_domain/full": 0.75})
    plugin.srum_table(run, "results", [{"category": "colour", "after": 0.5}, {"category": "count", "after": 0.25}])
    plugin.srum_images(run, "before_after", Image.new("RGB", (4, 3), "red"))
    (run.directory / "report.html").write_text("<p>first")
    plugin.srum_report(run, run.directory / "report.html")
    (run.directory / "report.html").write_text("<p>second")
    plugin.srum_report(run, run.directory / "report.html")
    plugin.srum_run_finished(run, {"arm": "paired"})

    result = stored(run)
    assert result.info.status == "FINISHED"
    assert result.info.run_name == "demo"
    assert result.data.params["adapter.name"] == "shapes"
    assert result.data.params["adapter.sizes"] == "[1, 2]"
    assert result.data.params["train.lr"] == "0.0001"
    assert result.data.params["train.reference"] == "null"
    assert "see artifact" in result.data.params["adapter.note"]
    assert artifact(run, "params/adapter.note.txt").read_text() == LONG
    assert "lr: 0.0001" in artifact(run, "config.yaml").read_text()
    assert result.data.tags["srum.config_hash"] == "abc123"
    assert result.data.tags["srum.plugin.stranger"] == "2.0"
    assert not [tag for tag in result.data.tags if "git" in tag]
    assert result.data.metrics["generate/seconds"] == 12.5
    assert "ground/seconds" not in result.data.metrics
    assert result.data.metrics["evaluate/in_domain/full"] == 0.75
    assert result.data.metrics["train/grad norm_"] == 2.0
    assert json.loads(artifact(run, "tables/results.json").read_text())["data"] == [["colour", 0.5], ["count", 0.25]]
    assert Image.open(artifact(run, "pictures/before_after.png")).size == (4, 3)
    assert json.loads(artifact(run, "summary.json").read_text()) == {"arm": "paired"}
    assert artifact(run, "report.html").read_text() == "<p>second"


def test_a_run_resumes_into_the_same_mlflow_run_and_logs_nothing_twice(run: RunInfo) -> None:
    plugin.srum_run_started(run)
    plugin.srum_metrics(run, "judge", {"alpha": 0.5})
    plugin.srum_table(run, "results", [{"n": 1}])
    train(run, 0, 30)
    plugin.srum_run_failed(run, RuntimeError("lost the node"))
    failed = stored(run)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["srum.error"] == "RuntimeError: lost the node"
    assert steps(run) == list(range(30))

    plugin.srum_run_started(run)
    resumed = stored(run)
    assert resumed.info.run_id == failed.info.run_id
    assert resumed.info.status == "RUNNING"
    assert "srum.error" not in resumed.data.tags
    plugin.srum_metrics(run, "judge", {"alpha": 0.5})
    train(run, 25, 50)  # from the last checkpoint
    plugin.srum_table(run, "results", [{"n": 2}])
    plugin.srum_run_finished(run, {})
    assert steps(run) == list(range(50))
    assert steps(run, "judge/alpha") == [0]
    assert json.loads(artifact(run, "tables/results.json").read_text()) == {"columns": ["n"], "data": [[2]]}


def test_another_config_in_the_same_directory_has_its_own_mlflow_run(run: RunInfo) -> None:
    other = replace(run, config_hash="def456")
    for each in (run, other):
        plugin.srum_run_started(each)
        plugin.srum_run_finished(each, {})
    ids = json.loads((run.directory / "mlflow.json").read_text())
    assert set(ids) == {"abc123", "def456"}
    assert ids["abc123"] != ids["def456"]


def test_a_run_that_was_deleted_in_mlflow_is_begun_anew(run: RunInfo) -> None:
    plugin.srum_run_started(run)
    plugin.srum_run_finished(run, {})
    first = stored(run).info.run_id
    client(run).delete_run(first)
    plugin.srum_run_started(run)
    plugin.srum_run_finished(run, {})
    assert stored(run).info.run_id != first


def test_a_keyboard_interrupt_is_killed(run: RunInfo) -> None:
    plugin.srum_run_started(run)
    plugin.srum_run_failed(run, KeyboardInterrupt())
    assert stored(run).info.status == "KILLED"


def test_a_deleted_experiment_is_named_with_its_cure(run: RunInfo) -> None:
    doomed = {**run.config, "tracking": {"enabled": True, "uri": None, "experiment": "doomed"}}
    plugin.srum_run_started(replace(run, config=doomed))
    plugin.srum_run_finished(run, {})
    client(run).delete_experiment(client(run).get_experiment_by_name("doomed").experiment_id)
    with pytest.raises(TrackingError, match=r"'doomed'.*was deleted: restore it"):
        plugin.srum_run_started(replace(run, config=doomed, config_hash="new"))


def test_an_unreachable_server_is_an_error_that_says_how_to_go_without(
    run: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = {"enabled": True, "uri": "http://127.0.0.1:9", "experiment": "tests"}
    with pytest.raises(TrackingError, match=r"(?s)http://127.0.0.1:9 cannot be used.*tracking\.enabled=false"):
        plugin.srum_run_started(replace(run, config={"tracking": nowhere}))
    plugin.srum_run_failed(run, TrackingError("as the host reports it"))  # nothing was opened: must not raise
    assert not (run.directory / "mlflow.json").exists()


def test_a_broken_id_file_is_named(run: RunInfo) -> None:
    run.directory.mkdir()
    (run.directory / "mlflow.json").write_text("{")
    with pytest.raises(TrackingError, match=r"mlflow\.json is not JSON"):
        plugin.srum_run_started(run)


def test_a_failure_later_is_warned_of_once_and_what_waits_is_sent_when_the_server_is_back(
    run: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin.srum_run_started(run)
    attempts: list[int] = []

    def away(self: MlflowRun, points: list[Point]) -> None:
        attempts.append(len(points))
        raise ConnectionError("server away")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(MlflowRun, "log_steps", away)
        train(run, 0, 60)
        assert attempts == [20]  # no time-outs at every step while the server is away
        plugin.srum_checkpoint_saved(run)
        plugin.srum_images(run, "grid", Image.new("RGB", (2, 2)))
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow tracking failed, the run goes on without it: server away"
    ]
    assert steps(run) == []
    plugin.srum_checkpoint_saved(run)
    assert steps(run) == list(range(60))
    plugin.srum_run_finished(run, {})


def test_steps_that_the_store_refuses_do_not_keep_the_run_open(run: RunInfo, caplog: pytest.LogCaptureFixture) -> None:
    plugin.srum_run_started(run)
    plugin.srum_train_step_finished(run, 0, {"x" * 300: 1.0})  # longer than a key may be
    plugin.srum_run_finished(run, {})
    assert "tracking failed" in caplog.text
    assert stored(run).info.status == "FINISHED"


@pytest.mark.parametrize("config", [{}, {"tracking": {"enabled": False, "uri": None, "experiment": "x"}}])
def test_without_tracking_nothing_is_written_and_mlflow_is_not_imported(tmp_path: Path, config: dict[str, Any]) -> None:
    program = f"""
import sys
from pathlib import Path
from PIL import Image
from srum_plugins.hookspecs import RunInfo
from srum_plugins.tracking import plugin
run = RunInfo("quiet", Path({str(tmp_path)!r}) / "quiet", {config!r}, "abc")
plugin.srum_run_started(run)
plugin.srum_train_step_finished(run, 0, {{"loss": 1.0}})
plugin.srum_images(run, "grid", Image.new("RGB", (2, 2)))
plugin.srum_run_finished(run, {{}})
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(1, 700), max_size=12))
def test_batches_keep_order_and_whole_steps_within_the_limit(sizes: list[int]) -> None:
    points = [Point(step, {str(i): 0.0 for i in range(size)}, 0) for step, size in enumerate(sizes)]
    batches = list(_batches(points))
    assert [point for batch in batches for point in batch] == points
    assert all(batch and sum(len(point.values) for point in batch) <= 1000 for batch in batches)


def test_flatten_keeps_every_leaf() -> None:
    config = {"a": {"b": {"c": 1, "d": True}, "e": {}}, "f": "x.y", "g": [{"h": 1}]}
    assert flatten(config) == {"a.b.c": "1", "a.b.d": "true", "a.e": "{}", "f": "x.y", "g": '[{"h": 1}]'}


def test_readings_of_monitors_are_logged_once_by_step(run: RunInfo) -> None:
    def read(step: int, phase: Phase = "during") -> None:
        readings = [Reading("far", step / 2), Reading("gone", None, failure=Failure("no spread"))]
        plugin.srum_monitor(run, "latents", phase, step, readings)

    plugin.srum_run_started(run)
    read(0, "before")
    read(5)
    plugin.srum_checkpoint_saved(run)
    plugin.srum_run_failed(run, KeyboardInterrupt())
    plugin.srum_run_started(run)
    for step in (5, 10):  # the first again, since its checkpoint
        read(step)
    read(8, "after")
    plugin.srum_run_finished(run, {})
    assert steps(run, "monitor/latents/far") == [0, 5, 10]
    assert stored(run).data.metrics["monitor_after/latents/far"] == 4.0
    assert not [key for key in stored(run).data.metrics if "gone" in key]
