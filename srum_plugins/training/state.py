"""What a training carries from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from srum_plugins.config import TrainSection
from srum_plugins.training import optimizers

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True)
class TrainingState:
    """The parameters that the model works with; ``moved``, what the optimizer moves: the same, or their copies in
    float32; the optimizer; and the moving average of what is moved, float32 (empty if none is kept)."""

    parameters: Parameters
    moved: Parameters
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]

    @classmethod
    def start(
        cls,
        settings: TrainSection,
        parameters: Parameters,
        build: Callable[[TrainSection, Parameters], torch.optim.Optimizer] = optimizers.build,
    ) -> TrainingState:
        """The state before the first step. An average starts at the parameters."""
        moved = parameters
        if settings.master_weights:
            moved = {name: torch.nn.Parameter(_copy(value)) for name, value in parameters.items()}
        average = {name: _copy(value) for name, value in moved.items()} if settings.ema > 0 else {}
        return cls(parameters, moved, build(settings, moved), average)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Give the gradients of the parameters to what is moved."""
        if self.moved is self.parameters:
            return
        for name, parameter in self.parameters.items():
            self.moved[name].grad = None if parameter.grad is None else parameter.grad.to(torch.float32)
            parameter.grad = None

    def step(self, ema: float, step: int) -> None:
        """Move, and the average after it."""
        self.optimizer.step()
        self.give()
        self.update_average(ema, step)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for value in (*self.parameters.values(), *self.moved.values()):
            value.grad = None

    @torch.no_grad()
    def give(self) -> None:
        """Give the model what was moved."""
        if self.moved is not self.parameters:
            for name, value in self.moved.items():
                self.parameters[name].copy_(value)

    @torch.no_grad()
    def update_average(self, decay: float, step: int) -> None:
        """Move the average after a step (from 0): a <- d * a + (1 - d) * parameters with d = min(decay, (step + 1) /
        (step + 10)), so that the start is forgotten soon."""
        share = 1.0 - min(decay, (step + 1) / (step + 10))
        for name, value in self.average.items():
            value.lerp_(self.moved[name].float(), share)

    @torch.no_grad()
    def take_average(self) -> None:
        """Give the parameters their average's values, if one is kept."""
        for name, value in self.average.items():
            self.parameters[name].copy_(value)


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float32, copy=True)
