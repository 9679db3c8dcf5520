"""Checkpoints, from which a training resumes to the bit.

A checkpoint is a folder of safetensors files that hold whole tensors, whatever the number of processes and the
sharding, so that any other number can go on from it. Each process writes a part of the tensors.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srum_plugins.config import TrainSection
from srum_plugins.errors import CheckpointError, DamagedError
from srum_plugins.runs.files import ASIDE, begun_folder, commit_folder, storing, write_bytes
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import check_folder
from srum_plugins.training.optimizers import restore_state, state_tensors
from srum_plugins.training.shared_tensors import fill, full
from srum_plugins.training.state import TrainingState
from srum_plugins.world import World

METRICS = "metrics.jsonl"
MONITORS = "monitors.jsonl"
LOGS = (METRICS, MONITORS)
"""What a training writes as it goes on, and a checkpoint keeps: so a resumed one has all of it and nothing twice."""


def checkpoints(directory: StageDirectory) -> list[tuple[int, Path]]:
    """(steps done, folder) of the checkpoints on disk, oldest first."""
    found = (directory.path / "checkpoints").glob("step-*")
    return sorted((int(folder.name.removeprefix("step-")), folder) for folder in found)


def save(directory: StageDirectory, state: TrainingState, done: int, settings: TrainSection, world: World) -> Path:
    """Write the state after ``done`` steps durably, all processes together, then drop what is not to be kept."""
    folder = directory.path / "checkpoints" / f"step-{done:06d}"
    own = "" if world.size == 1 else f"-{world.rank}-of-{world.size}"
    parts: dict[str, Mapping[str, Tensor]] = {
        "parameters": state.moved,
        "optimizer": state_tensors(state.optimizer, state.moved),
    }
    if state.average:
        parts["average"] = state.average
    with storing(folder), ExitStack() as stack:
        begun = stack.enter_context(begun_folder(folder)) if world.main else None
        aside = Path(world.tell("checkpoint begun", lambda: str(begun)))
        for name, tensors in parts.items():
            save_file(_saved(tensors, world), aside / f"{name}{own}.safetensors")
        if world.main:
            for log in LOGS:
                if (directory.path / log).exists():
                    shutil.copyfile(directory.path / log, aside / log)
        world.meet("checkpoint written")
        if world.main:
            commit_folder(aside, folder)
    if world.main:
        drop(directory, settings)
    world.meet("checkpoint saved")
    return folder


def drop(directory: StageDirectory, settings: TrainSection) -> None:
    """Remove the checkpoints that are not to be kept."""
    for old in dropped(checkpoints(directory), read_metrics(directory), settings):
        # One that is removed in part would be a damaged one.
        shutil.rmtree(old.rename(old.with_name(f"{ASIDE}{old.name}")))


def dropped(
    saved: Sequence[tuple[int, Path]], rows: Sequence[Mapping[str, float]], settings: TrainSection
) -> list[Path]:
    """The checkpoints that are neither among the newest nor the best."""
    kept = {folder for _, folder in saved[-settings.keep :]}
    if settings.keep_best is not None:
        kept.add(best(saved, rows, settings.keep_best, settings.checkpoint_every))
    return [folder for _, folder in saved if folder not in kept]


def best(saved: Sequence[tuple[int, Path]], rows: Sequence[Mapping[str, float]], metric: str, every: int) -> Path:
    """The checkpoint with the lowest mean of a metric over the steps since the one before it (``-NAME``: the highest);
    of several the earliest. There was one after ``every`` so many steps, which may be dropped by now."""
    sign, name = (-1.0, metric[1:]) if metric.startswith("-") else (1.0, metric)

    def score(done: int) -> float:
        start = (done - 1) // every * every
        values = [row[name] for row in rows if start <= row["step"] < done and name in row]
        return sign * sum(values) / len(values) if values else math.inf

    return min(saved, key=lambda pair: (score(pair[0]), pair[0]))[1]


def to_keep(directory: StageDirectory, settings: TrainSection) -> tuple[int, Path] | None:
    """(steps done, folder) of the checkpoint that a training keeps when a monitor ends it: the best by ``keep_best``,
    else the newest. None if there is none yet."""
    saved = checkpoints(directory)
    if not saved or settings.keep_best is None:
        return saved[-1] if saved else None
    folder = best(saved, read_metrics(directory), settings.keep_best, settings.checkpoint_every)
    return next(pair for pair in saved if pair[1] == folder)


def read_metrics(directory: StageDirectory) -> list[dict[str, float]]:
    """The metrics of all steps so far."""
    text = (directory.path / METRICS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def resume(directory: StageDirectory, state: TrainingState, world: World | None = None) -> int:
    """Load the newest checkpoint if there is one, cut the metrics back to it, and return the number of steps done.

    Raises:
        CheckpointError: a file is damaged or does not fit the model.
    """
    world = world or World()
    folders = world.tell("checkpoints", lambda: [(done, str(folder)) for done, folder in checkpoints(directory)])
    if not folders:
        if world.main:
            write_bytes(directory.path / METRICS, b"")
            (directory.path / MONITORS).unlink(missing_ok=True)
        return 0
    done, folder = folders[-1][0], Path(folders[-1][1])
    restore(folder, state, world)
    if world.main:
        for log in LOGS:
            if (folder / log).exists():
                write_bytes(directory.path / log, (folder / log).read_bytes())
            else:
                (directory.path / log).unlink(missing_ok=True)
    return done


def restore(folder: Path, state: TrainingState, world: World) -> None:
    """Give the state, all processes together, what a checkpoint holds. Raises as :func:`resume` does."""
    try:
        if world.main:
            check_folder(folder)
        world.meet("checkpoint checked")
        _fill(folder, "parameters", state.moved)
        _fill(folder, "average", state.average)
        restore_state(state.optimizer, state.moved, dict(_tensors(folder, "optimizer")))
    except (DamagedError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"a checkpoint is damaged: {error} Without it training goes on from an earlier one."
        ) from error
    state.give()


def sizes(folder: Path) -> int:
    """How many numbers are trained, as a checkpoint's headers say."""
    count = 0
    for file in _files(folder, "parameters"):
        with safe_open(file, "pt") as stored:
            count += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    return count


def _files(folder: Path, part: str) -> list[Path]:
    """``parameters.safetensors``, or ``parameters-0-of-2.safetensors`` and so on."""
    files = sorted(folder.glob(f"{part}*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no {part}. Delete it to go on from an earlier checkpoint.")
    return files


def _tensors(folder: Path, part: str) -> Iterator[tuple[str, Tensor]]:
    for file in _files(folder, part):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no mapping
                yield name, stored.get_tensor(name)


def _fill(folder: Path, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved values into tensors of the same names and shapes."""
    if not tensors:
        return
    left = set(tensors)
    for name, value in _tensors(folder, part):
        if name not in left:
            raise CheckpointError(f"{folder} does not fit the model: it holds {name!r}, which is not trained")
        left.remove(name)
        if value.shape != tensors[name].shape:
            raise CheckpointError(f"{folder}: {name!r} is {tuple(value.shape)}, not {tuple(tensors[name].shape)}")
        fill(tensors[name], value)
    if left:
        raise CheckpointError(f"{folder} does not fit the model: {min(left)!r} and {len(left) - 1} more are missing")


def _saved(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The whole tensors that this process writes, on the CPU: those of one that is shared out pass by all of them."""
    own = {}
    for index, (name, value) in enumerate(tensors.items()):
        whole = full(value.detach())
        if index % world.size == world.rank:
            own[name] = whole.cpu().contiguous().clone()
    return own
