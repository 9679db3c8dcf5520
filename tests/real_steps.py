"""Real training steps whose memory is counted, to hold an estimate against."""

import gc
from collections.abc import Sequence

import torch

from srum_plugins.contracts import Example, ModelAdapter
from srum_plugins.memory.tracker import Tracker
from srum_plugins.memory.workload import Learning
from srum_plugins.records import Prompt
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.parallel import Single
from srum_plugins.training.state import TrainingState
from srum_plugins.training.step import Trainer
from srum_plugins.world import World


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
    state = TrainingState.start(learning.settings, parameters)
    names = [str(index) for index in range(len(latents))]
    flat = RewardMap(*size, (), alpha=1.0, background=1.0)
    data = Dataset(
        examples=[Example(Prompt(name, text), (name, name), (flat, flat)) for name in names],
        latents=dict(zip(names, latents, strict=True)),
        grids=[model.token_grid(*size)] * len(latents),
        size=len(latents),
        seed=0,
        device=latents[0].device,
    )
    trainer = Trainer(learning.settings, 0, model, state, data, Single(learning.objective, model), World())
    trainer.step(0)
    gc.collect()
    tracker.restart()
    trainer.step(1)
    return tracker.peak
