"""Real training steps whose memory is counted, to hold an estimate against."""

import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from srum_plugins.contracts import ModelAdapter, TrainBatch
from srum_plugins.memory.tracker import Tracker
from srum_plugins.memory.workload import Learning
from srum_plugins.records import Prompt
from srum_plugins.stages import optimizers
from srum_plugins.stages.checkpoints import TrainingState
from srum_plugins.stages.train import train_step


def peak_of_a_step(
    model: ModelAdapter,
    latents: Sequence[torch.Tensor],
    size: tuple[int, int],
    text: str,
    learning: Learning,
    tracker: Tracker,
) -> int:
    """The peak of a training step on these latents, after one that makes the optimizer's state."""
    parameters = model.start_training(learning.adapter, base=learning.objective.uses_base)
    optimizer = optimizers.build(learning.settings, parameters)
    state = TrainingState.start(parameters, optimizer, averaged=learning.settings.ema > 0)
    grid, count = model.token_grid(*size), len(latents)
    weights = torch.ones(count * grid[0] * grid[1])
    prompts = tuple(Prompt(str(index), text) for index in range(count))
    batch = TrainBatch(prompts, (list(latents),) * 2, (weights,) * 2, (grid,) * count)
    settings = SimpleNamespace(train=learning.settings, run=SimpleNamespace(seed=0))
    session: Any = SimpleNamespace(config=settings, objective=learning.objective)
    train_step(session, model, state, batch, 0)
    gc.collect()
    tracker.restart()
    train_step(session, model, state, batch, 1)
    return tracker.peak
