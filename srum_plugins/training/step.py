"""One optimizer step. What it sees is a pure function of (run seed, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from srum_plugins.config import TrainSection
from srum_plugins.contracts import Draws, ModelAdapter
from srum_plugins.errors import StageError
from srum_plugins.randomness import seed_torch
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.training import optimizers
from srum_plugins.training.dataset import Dataset, part
from srum_plugins.training.parallel import Single, pieces
from srum_plugins.training.shared_tensors import full
from srum_plugins.training.state import TrainingState
from srum_plugins.world import World


class NonFiniteError(StageError):
    """A loss, a metric or a gradient is not finite in some process; the optimizer has not moved in any."""


@dataclass(frozen=True)
class Trainer:
    """What makes steps: the settings, the model with its state, the data, and the processes that work together."""

    settings: TrainSection
    seed: int
    model: ModelAdapter
    state: TrainingState
    data: Dataset
    engine: Single
    world: World

    def step(self, step: int) -> dict[str, float]:
        """Make one; returns its metrics, of all processes together.

        Raises:
            NonFiniteError: before the optimizer moves, naming the candidates whose loss or gradient is not finite.
        """
        settings, state, chosen = self.settings, self.state, self.data.indices(step)
        state.zero_grad()  # before the forward: two sets of gradients are never held with it
        draws = self.data.draw(self.model, chosen, self._generator(step))
        figures: dict[str, float] = {}
        mine = list(pieces(self.engine.places(len(chosen)), settings.microbatch))
        for places in mine:
            batch = self.data.batch([chosen[place] for place in places], chosen)
            self._seed(step, places[0])
            found = self.engine.backward(batch, part(draws, places), last=places is mine[-1])
            figures = {name: figures.get(name, 0.0) + float(value) for name, value in found.items()}
        figures = self.engine.total(figures)
        state.take_gradients()
        moved = [value for value in state.moved.values() if value.grad is not None]
        norm = float(full(torch.nn.utils.clip_grad_norm_(moved, settings.grad_clip or math.inf)))
        for name, value in (*figures.items(), ("gradient norm", norm)):
            if not math.isfinite(value):
                what = f"the {name}" if name in ("loss", "gradient norm") else f"the metric {name!r}"
                raise NonFiniteError(
                    f"{what} of step {step} is {value}; training stopped before the update. Candidates: "
                    f"{', '.join(self._culprits(step, chosen, draws))}."
                )
        rate = learning_rate(settings, step)
        optimizers.set_rate(state.optimizer, rate)
        # Optimizers that round at random must do it alike in all processes, which have seen other examples until now.
        seed_torch(stable_seed(self.seed, "update", step))
        state.step(settings.ema, step)
        return {"loss": figures.pop("loss"), "grad_norm": norm, "lr": rate, **figures}

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(stable_seed(self.seed, "train", step))

    def _seed(self, step: int, place: int) -> None:
        """For models that draw from the global state, such as dropout."""
        seed_torch(stable_seed(self.seed, "train", step, *([place] if place else [])))

    def _culprits(self, step: int, chosen: list[int], draws: Draws) -> list[str]:
        """The candidates of the examples that are not finite alone; of all, if it takes several of them."""
        examples, odd = [self.data.examples[index] for index in chosen], []
        for place in self.engine.places(len(chosen)):
            self.state.zero_grad()
            self._seed(step, place)
            batch = self.data.batch([chosen[place]], chosen)
            found = self.engine.backward(batch, part(draws, [place]), together=False)
            slopes = [value.grad for value in self.state.parameters.values() if value.grad is not None]
            # All of them, since processes gather together what is shared out.
            finite = [bool(torch.isfinite(full(value)).all()) for value in (*found.values(), *slopes)]
            if not all(finite):
                odd.append(place)
        places = [place for some in self.world.gather("odd examples", odd) for place in some] or range(len(chosen))
        return sorted({name for place in places for name in examples[place].candidates})


def learning_rate(settings: TrainSection, step: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up that ends at ``lr`` after ``warmup`` steps, then
    ``constant``, or ``linear`` or ``cosine`` decay that would reach 0 one step after the last."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    if settings.decay == "linear":
        return settings.lr * (1.0 - share)
    if settings.decay == "cosine":
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * share))
    return settings.lr
