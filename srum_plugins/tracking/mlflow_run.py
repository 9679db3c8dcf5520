"""One MLflow run, addressed by its id: a thin layer on ``MlflowClient``.

MLflow's fluent API (``mlflow.start_run``) is not used: its active run is global to the thread, and is closed as
FINISHED at exit even after a failure. MLflow takes seconds to import, so it is imported when a run is opened.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image

from srum_plugins.errors import TrackingError
from srum_plugins.runs.files import ASIDE, sync, write_json

_METRICS_PER_BATCH = 1000  # limits of the MLflow server
_PARAMS_PER_BATCH = 100
_TAG_LENGTH = 5000
_PARAM_LENGTH = 500  # servers allow 500 (old) to 6000 characters; longer values are unreadable in a table anyway
_SQLITE = "sqlite:///"

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """The metrics of one step, with the time in milliseconds at which they were measured."""

    step: int
    values: Mapping[str, float]
    time_ms: int

    @classmethod
    def now(cls, step: int, values: Mapping[str, float]) -> Point:
        """These values, measured now."""
        return cls(step, values, int(time.time() * 1000))


def default_uri(directory: Path) -> str:
    """The SQLite store that the runs of one parent directory share: ``mlflow.db`` beside the run directory."""
    return _SQLITE + str(directory.resolve().parent / "mlflow.db")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted keys. Lists and anything but text are written as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


class MlflowRun:
    """An open MLflow run. Methods raise whatever MLflow raises; the caller decides what a failure means."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        data = client.get_run(run_id).data
        self._params: set[str] = set(data.params)
        self._tags: set[str] = set(data.tags)
        self._latest: dict[str, float] = dict(data.metrics)

    def last_step(self, prefix: str) -> int:
        """The last step at which a metric whose name begins with ``prefix`` was logged; -1 if there is none."""
        histories = (
            self._client.get_metric_history(self.run_id, key) for key in self._latest if key.startswith(prefix)
        )
        return max((metric.step for history in histories for metric in history), default=-1)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """The resolved config as ``config.yaml`` and as parameters. Parameters of an MLflow run never change, so those
        that it has are left alone. Values too long for a parameter become text artifacts under ``params/``."""
        from mlflow.entities import Param

        self._client.log_text(self.run_id, OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
        new: list[Any] = []
        for key, value in flatten(config).items():
            name = _legal(key)
            if name in self._params:
                continue
            if len(value) > _PARAM_LENGTH:
                self._client.log_text(self.run_id, value, f"params/{name}.txt")
                value = f"({len(value)} characters: see artifact params/{name}.txt)"
            new.append(Param(name, value))
        for start in range(0, len(new), _PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _PARAMS_PER_BATCH])
        self._params |= {param.key for param in new}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same name."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(_legal(k), v[:_TAG_LENGTH]) for k, v in tags.items()])
        self._tags |= set(tags)

    def drop_tag(self, name: str) -> None:
        """Remove a tag if it is there."""
        if name in self._tags:
            self._client.delete_tag(self.run_id, name)
            self._tags.remove(name)

    def log_steps(self, points: Sequence[Point]) -> None:
        """Metrics of many steps in few requests. The metrics of one step are never torn apart, so that
        :meth:`last_step` is right after an interruption."""
        from mlflow.entities import Metric

        for batch in _batches(points):
            metrics = [Metric(_legal(k), float(v), p.time_ms, p.step) for p in batch for k, v in p.values.items()]
            self._client.log_batch(self.run_id, metrics=metrics)

    def log_figures(self, figures: Mapping[str, float]) -> None:
        """Metrics without a step. A figure that the run has already with the same value is not logged twice."""
        named = {_legal(key): float(value) for key, value in figures.items()}
        new = {key: value for key, value in named.items() if self._latest.get(key) != value}
        if new:
            self.log_steps([Point.now(0, new)])
            self._latest |= new

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table as ``tables/<name>.json``, replacing an earlier one (MLflow's own ``log_table`` appends)."""
        if not rows:
            return
        path = f"tables/{_legal(name)}.json"
        columns = list(rows[0])
        if any(item.path == path for item in self._client.list_artifacts(self.run_id, "tables")):
            data = [[row[column] for column in columns] for row in rows]
            self._client.log_dict(self.run_id, {"columns": columns, "data": data}, path)
        else:  # also registers the table with MLflow's table view
            self._client.log_table(self.run_id, {column: [row[column] for row in rows] for column in columns}, path)

    def log_image(self, name: str, image: Image.Image) -> None:
        """A picture as ``pictures/<name>.png``, replacing an earlier one."""
        self._client.log_image(self.run_id, image, artifact_file=f"pictures/{_legal(name)}.png")

    def log_file(self, path: Path) -> None:
        """A file as an artifact of its own name, replacing an earlier one."""
        self._client.log_artifact(self.run_id, str(path))

    def log_json(self, name: str, data: Mapping[str, Any]) -> None:
        """A JSON artifact."""
        self._client.log_dict(self.run_id, dict(data), name)

    def end(self, status: Status) -> None:
        """Close the run."""
        self._client.set_terminated(self.run_id, status)


def open_run(uri: str | None, experiment: str, name: str, directory: Path, config_hash: str) -> MlflowRun:
    """Open the MLflow run of this config in this directory: the one that ``<directory>/mlflow.json`` names for the
    hash, or else a new one, whose id is then kept there. ``uri=None`` means :func:`default_uri`.

    Raises:
        TrackingError: the store cannot be reached or used.
    """
    uri = uri or default_uri(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _first_use(uri):
            return _open(uri, experiment, name, directory / "mlflow.json", config_hash)
    except TrackingError:
        raise
    except Exception as error:  # MLflow wraps what databases, HTTP and file systems raise in many classes
        raise TrackingError(
            f"MLflow at {uri} cannot be used: {str(error).strip() or type(error).__name__}\nStart the server or set "
            "tracking.uri to a store that can be reached, or go without tracking: tracking.enabled=false"
        ) from error


def _open(uri: str, experiment: str, name: str, ids_file: Path, config_hash: str) -> MlflowRun:
    # Defaults only; what users export counts. MLflow itself would retry for minutes, and report usage to its makers.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it announces each new database
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        _create(database)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    ids = _read_ids(ids_file)
    if config_hash in ids:
        try:
            known = client.get_run(ids[config_hash])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:  # a run that was deleted in the UI, or that this store has never seen, is begun anew
            if known.info.lifecycle_stage == "active":
                client.update_run(known.info.run_id, status="RUNNING")
                return MlflowRun(client, known.info.run_id)
    run_id: str = client.create_run(_experiment(client, uri, experiment), run_name=name).info.run_id
    write_json(ids_file, ids | {config_hash: run_id})
    return MlflowRun(client, run_id)


def _experiment(client: Any, uri: str, name: str) -> str:
    """The id of an experiment, created if need be, with its artifacts beside an SQLite store."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = sqlite_file(uri)
        artifacts = None if database is None else (database.parent / "mlflow-artifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:  # another run may have been faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} at {uri} was deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another with tracking.experiment=NAME"
        )
    return str(found.experiment_id)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for stores of other kinds."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def _first_use(uri: str) -> AbstractContextManager[object]:
    """Two runs that create the tables of one SQLite file at the same time break it, so they take turns."""
    database = sqlite_file(uri)
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(database.with_name(database.name + ".lock"))


def _create(database: Path) -> None:
    """A new SQLite store. MLflow makes its tables in some fifty steps and flushes each to the disk, which takes
    seconds: here all are flushed once, aside, so that a run that is killed meanwhile leaves no half of them either."""
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    aside = database.with_name(f"{ASIDE}{database.name}")
    aside.unlink(missing_ok=True)  # of a process that was killed: this one has the lock
    event.listen(Engine, "connect", hurry)
    try:
        uri = f"{_SQLITE}{aside}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
    finally:
        event.remove(Engine, "connect", hurry)
    sync(aside)
    aside.replace(database)


def _read_ids(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise TrackingError(f"{path} is not JSON ({error}); delete it to begin a new MLflow run") from error
    if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
        raise TrackingError(f"{path} must map config hashes to MLflow run ids; delete it to begin a new MLflow run")
    return ids


def _legal(name: str) -> str:
    """A name of the characters that MLflow allows in keys and that are safe in artifact paths."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Consecutive points, as many as fit in one request."""
    batch: list[Point] = []
    size = 0
    for point in points:
        if batch and size + len(point.values) > _METRICS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += len(point.values)
    if batch:
        yield batch
