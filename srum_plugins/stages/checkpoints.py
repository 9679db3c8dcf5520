"""What a training carries from one step to the next, and its checkpoints, from which it resumes to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from srum_plugins.errors import CheckpointError, DamagedError
from srum_plugins.runs.files import write_bytes, write_folder
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import check_folder
from srum_plugins.stages.optimizers import restore_state, state_tensors

KEPT = 2  # checkpoints

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True)
class TrainingState:
    """The parameters that move, the optimizer, and the parameters' moving average, float32 (empty if none is kept)."""

    parameters: Parameters
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]

    @classmethod
    def start(cls, parameters: Parameters, optimizer: torch.optim.Optimizer, averaged: bool) -> TrainingState:
        """The state before the first step. With ``averaged``, the average starts at the parameters."""
        values = parameters.items() if averaged else ()
        average = {name: parameter.detach().to(torch.float32, copy=True) for name, parameter in values}
        return cls(parameters, optimizer, average)

    @torch.no_grad()
    def update_average(self, decay: float, step: int) -> None:
        """Move the average after a step (from 0): a <- d * a + (1 - d) * parameters with d = min(decay, (step + 1) /
        (step + 10)), so that the start is forgotten soon."""
        share = 1.0 - min(decay, (step + 1) / (step + 10))
        for name, value in self.average.items():
            value.lerp_(self.parameters[name].float(), share)

    @torch.no_grad()
    def take_average(self) -> None:
        """Give the parameters their average's values, if one is kept."""
        for name, value in self.average.items():
            self.parameters[name].copy_(value)


def checkpoints(directory: StageDirectory) -> list[tuple[int, Path]]:
    """(steps done, folder) of the checkpoints on disk, oldest first."""
    found = (directory.path / "checkpoints").glob("step-*")
    return sorted((int(folder.name.removeprefix("step-")), folder) for folder in found)


def save(directory: StageDirectory, state: TrainingState, done: int) -> Path:
    """Write the state after ``done`` steps durably, then drop all but the newest checkpoints."""

    def fill(folder: Path) -> None:
        save_file(_saved(state.parameters), folder / "parameters.safetensors")
        save_file(_saved(state_tensors(state.optimizer, state.parameters)), folder / "optimizer.safetensors")
        if state.average:
            save_file(_saved(state.average), folder / "average.safetensors")
        # Metrics are part of the checkpoint, so that a resumed run has all of them and none twice.
        shutil.copyfile(directory.path / "metrics.jsonl", folder / "metrics.jsonl")

    folder = directory.path / "checkpoints" / f"step-{done:06d}"
    write_folder(folder, fill)
    for _, old in checkpoints(directory)[:-KEPT]:
        shutil.rmtree(old)
    return folder


def resume(directory: StageDirectory, state: TrainingState) -> int:
    """Load the newest checkpoint if there is one, cut the metrics back to it, and return the number of steps done.

    Raises:
        CheckpointError: a file is damaged or does not fit the model.
    """
    saved = checkpoints(directory)
    if not saved:
        write_bytes(directory.path / "metrics.jsonl", b"")
        return 0
    done, folder = saved[-1]
    try:
        check_folder(folder)
        values = load_file(folder / "parameters.safetensors")
        slots = load_file(folder / "optimizer.safetensors")
        average = load_file(folder / "average.safetensors") if state.average else {}
    except (DamagedError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"a checkpoint is damaged: {error} Without it training goes on from an earlier one."
        ) from error
    _fill(folder, state.parameters, values)
    _fill(folder, state.average, average)
    restore_state(state.optimizer, state.parameters, slots)
    write_bytes(directory.path / "metrics.jsonl", (folder / "metrics.jsonl").read_bytes())
    return done


@torch.no_grad()
def _fill(folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy saved values into tensors of the same names and shapes."""
    if values.keys() != tensors.keys():
        odd = sorted(values.keys() ^ tensors.keys())
        raise CheckpointError(f"{folder} does not fit the model: {odd[0]!r} and {len(odd) - 1} more differ in name")
    for name, tensor in tensors.items():
        if values[name].shape != tensor.shape:
            raise CheckpointError(f"{folder}: {name!r} is {tuple(values[name].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(values[name])


def _saved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
