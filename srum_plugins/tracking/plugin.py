"""The tracking listener: what happens in a run is logged to MLflow.

Settings are the config section ``tracking`` (``enabled``, ``uri``, ``experiment``). A store that cannot be used when
the run starts is an error, because nothing is lost yet. Once the run goes on, tracking must not kill hours of work: the
first failure is logged as a warning, later ones are silent, and the run continues. Train metrics that could not be
sent are kept and tried again at the next checkpoint and at the end of the stage and of the run.

The same config in the same directory continues its MLflow run; train steps that are in it are not logged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import srum_plugins
from srum_plugins.errors import TrackingError
from srum_plugins.hookspecs import RunInfo, hookimpl
from srum_plugins.records import Phase, Reading
from srum_plugins.tracking.mlflow_run import MlflowRun, Point, open_run

_log = logging.getLogger(__name__)
_STEPS_PER_REQUEST = 20
_TRAIN = "train/"
_MONITOR = "monitor/"


@dataclass
class _Tracked:
    """A run that is being tracked."""

    mlflow: MlflowRun
    last_step: int
    last_reading: int
    pending: list[Point] = field(default_factory=list)
    failing: bool = False  # the last request failed
    warned: bool = False

    def attempt(self, action: Callable[[MlflowRun], None]) -> None:
        """Send the pending steps, then do the action; a failure is warned of once."""
        try:
            self.mlflow.log_steps(self.pending)
            self.pending.clear()
            action(self.mlflow)
            self.failing = False
        except Exception as error:  # a listener's trouble, of whatever class, must not stop the run
            self.failing = True
            if not self.warned:
                self.warned = True
                _log.warning("MLflow tracking failed, the run goes on without it: %s", error)


_tracked: dict[tuple[Path, str], _Tracked] = {}


def _attempt(run: RunInfo, action: Callable[[MlflowRun], None] = lambda mlflow: None) -> None:
    tracked = _tracked.get((run.directory, run.config_hash))
    if tracked is not None:
        tracked.attempt(action)


def _close(run: RunInfo, action: Callable[[MlflowRun], None]) -> None:
    tracked = _tracked.pop((run.directory, run.config_hash), None)
    if tracked is not None:
        tracked.attempt(lambda mlflow: None)
        tracked.pending.clear()  # steps that the store refuses must not keep the run from being closed
        tracked.attempt(action)


@hookimpl
def srum_run_started(run: RunInfo) -> None:
    """Open the MLflow run, and log config and versions. Raises TrackingError if the store cannot be used."""
    settings = run.config.get("tracking", {})
    if not settings.get("enabled", False):
        return
    mlflow = open_run(settings.get("uri"), settings["experiment"], run.name, run.directory, run.config_hash)
    try:
        mlflow.log_config(run.config)
        mlflow.drop_tag("srum.error")
        mlflow.set_tags(
            {
                "srum.version": srum_plugins.__version__,
                "srum.config_hash": run.config_hash,
                "srum.directory": str(run.directory),
                **{f"srum.plugin.{distribution}": version for distribution, version in run.versions.items()},
                **_nesting(run),
            }
        )
        last_step, last_reading = mlflow.last_step(_TRAIN), mlflow.last_step(_MONITOR)
    except Exception as error:  # nothing is lost yet, so say it, whatever its class
        raise TrackingError(
            f"MLflow cannot log this run: {error}\nTo go without tracking: tracking.enabled=false"
        ) from error
    _tracked[run.directory, run.config_hash] = _Tracked(mlflow, last_step, last_reading)


def _nesting(run: RunInfo) -> dict[str, str]:
    """The tag by which MLflow shows a run below another, if that is tracked too."""
    parent = run.parent and _tracked.get((run.parent.directory, run.parent.config_hash))
    return {"mlflow.parentRunId": parent.mlflow.run_id} if parent else {}


@hookimpl
def srum_attention_chosen(run: RunInfo, attention: str, refused: Mapping[str, str]) -> None:
    """Log the kernel as a tag, and why others are not used."""
    tags = {"srum.attention": attention, **{f"srum.attention.not.{name}": cause for name, cause in refused.items()}}
    _attempt(run, lambda mlflow: mlflow.set_tags(tags))


@hookimpl
def srum_train_step_finished(run: RunInfo, step: int, metrics: Mapping[str, float]) -> None:
    """Keep the metrics of the step; every 20 steps they are sent."""
    tracked = _tracked.get((run.directory, run.config_hash))
    if tracked is None or step <= tracked.last_step:
        return
    tracked.pending.append(Point.now(step, {f"{_TRAIN}{name}": value for name, value in metrics.items()}))
    # While the server is away, each attempt costs its time-outs: then only rarer events try again.
    if len(tracked.pending) >= _STEPS_PER_REQUEST and not tracked.failing:
        _attempt(run)


@hookimpl
def srum_monitor(run: RunInfo, monitor: str, phase: Phase, step: int, readings: Sequence[Reading]) -> None:
    """Log readings as ``monitor/<monitor>/<name>`` over the steps; those on the last weights as
    ``monitor_after/<monitor>/<name>``, without a step."""
    tracked = _tracked.get((run.directory, run.config_hash))
    if tracked is None:
        return
    values = {f"{monitor}/{one.name}": one.value for one in readings if one.value is not None}
    if phase == "after":
        tracked.attempt(lambda mlflow: mlflow.log_figures({f"monitor_after/{key}": v for key, v in values.items()}))
    elif step > tracked.last_reading and values:
        tracked.pending.append(Point.now(step, {f"{_MONITOR}{key}": value for key, value in values.items()}))


@hookimpl
def srum_checkpoint_saved(run: RunInfo) -> None:
    """Send what is pending, so that a run resumed from this checkpoint has no gap."""
    _attempt(run)


@hookimpl
def srum_stage_finished(run: RunInfo, stage: str, seconds: float, reused: bool) -> None:
    """Log the stage's duration, unless nothing was done."""
    _attempt(run, lambda mlflow: None if reused else mlflow.log_figures({f"{stage}/seconds": seconds}))


@hookimpl
def srum_stage_failed(run: RunInfo) -> None:
    """Send what is pending."""
    _attempt(run)


@hookimpl
def srum_metrics(run: RunInfo, stage: str, metrics: Mapping[str, float]) -> None:
    """Log a stage's figures as ``<stage>/<name>``."""
    _attempt(run, lambda mlflow: mlflow.log_figures({f"{stage}/{name}": value for name, value in metrics.items()}))


@hookimpl
def srum_table(run: RunInfo, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log a result table."""
    _attempt(run, lambda mlflow: mlflow.log_table(name, rows))


@hookimpl
def srum_images(run: RunInfo, name: str, image: Image.Image) -> None:
    """Log a picture."""
    _attempt(run, lambda mlflow: mlflow.log_image(name, image))


@hookimpl
def srum_report(run: RunInfo, path: Path) -> None:
    """Log the report."""
    _attempt(run, lambda mlflow: mlflow.log_file(path))


@hookimpl
def srum_run_finished(run: RunInfo, summary: Mapping[str, Any]) -> None:
    """Log the summary, and close the MLflow run as finished."""

    def finish(mlflow: MlflowRun) -> None:
        if summary:
            mlflow.log_json("summary.json", summary)
        mlflow.end("FINISHED")

    _close(run, finish)


@hookimpl
def srum_run_failed(run: RunInfo, error: BaseException) -> None:
    """Close the MLflow run as failed, or as killed if the user interrupted it, with the error as a tag."""

    def fail(mlflow: MlflowRun) -> None:
        mlflow.set_tags({"srum.error": f"{type(error).__name__}: {error}"})
        mlflow.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    _close(run, fail)
