"""The rehearsal of training: gradients, optimizer state, average and activations, on tensors without memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from srum_plugins.config import TrainSection
from srum_plugins.contracts import Judged, ModelAdapter, Objective, Reward
from srum_plugins.memory.eight_bit import EightBit
from srum_plugins.memory.tracker import Tracker
from srum_plugins.memory.workload import Learning, Size, Work
from srum_plugins.records import Candidate, Grounding, Judgement, Prompt, Score
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.training import optimizers
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.state import Parameters, TrainingState

FOREACH = ("cuda", "xpu")
"""Types of devices where torch's AdamW moves all parameters together, which takes more memory than one by one."""


@dataclass(frozen=True)
class Training:
    """Bytes. ``held`` names what there is after a backward pass, ``works`` are the parts of a step, and ``per_example``
    is what one more example in a batch adds to the peak of the first."""

    held: dict[str, int]
    works: list[Work]
    per_example: int


def network_bytes(model: ModelAdapter) -> dict[str, int]:
    """Bytes of the networks that an adapter consists of, by its attributes' names."""
    return {name: _bytes([*one.parameters(), *one.buffers()]) for name, one in _networks(model).items()}


def rehearse(
    model: ModelAdapter, learning: Learning, size: Size, latents: Tensor, prompt: Prompt, device: str, tracker: Tracker
) -> Training:
    """Begin as the stage does, and make three steps: the first fills the optimizer's state, the second is measured, and
    the last has one example more.

    ``size`` is that of the images and ``latents`` (1, C, H, W) what one is encoded to; ``prompt`` is that of every
    example; ``device`` is the type of the run's device.
    """
    settings, objective = learning.settings, learning.objective
    data = _data(model, objective, settings, size, latents, prompt)
    before, weights = tracker.live, sum(network_bytes(model).values())
    with torch.device("meta"):  # peft makes its layers without a word of a device
        parameters = model.start_training(learning.adapter, base=objective.uses_base)
    gc.collect()
    # What an adapter remembers of its weights may go when they are to move, so that less is left than there was.
    base = max(0, tracker.live - before - (sum(network_bytes(model).values()) - weights))
    state = TrainingState.start(settings, parameters, partial(_optimizer, device))

    def step(examples: int) -> tuple[int, int]:
        return _step(model, objective, state, data, settings, examples, tracker)

    batch = min(settings.microbatch or settings.batch, settings.batch)
    step(batch)
    forward, update = step(batch)
    moved = [name for name, value in state.moved.items() if value.grad is not None]
    held = {
        **_weights(model, parameters),
        "base": base,
        "gradients": _bytes(parameters[name] for name in moved),
        "optimizer": _bytes(leaf for leaf in tree_leaves(list(state.optimizer.state.values())) if _on_device(leaf)),
        "average": _bytes(state.average.values()),
    }
    if settings.master_weights:
        held["master weights"] = _bytes(state.moved.values())
    total = sum(held.values())
    works = [
        Work("train", f"forward and backward, batch of {batch}", total, forward - total),
        Work("train", "update", total, update - total),
    ]
    more, _ = step(batch + 1)
    return Training(held, works, more - forward)


def _step(
    model: ModelAdapter,
    objective: Objective,
    state: TrainingState,
    data: Dataset,
    settings: TrainSection,
    examples: int,
    tracker: Tracker,
) -> tuple[int, int]:
    """One step as :func:`srum_plugins.training.step.Trainer.step` makes it, without reading its figures: the peaks of
    forward and backward, and of the update."""
    state.zero_grad()
    gc.collect()
    tracker.restart()
    batch = data.batch([0] * examples)
    draws = model.draw(batch.latents[0], torch.Generator().manual_seed(0))
    # Adapters read on the host whose prompts are dropped; keeping all takes most.
    draws = replace(draws, drop=torch.zeros(examples, dtype=torch.bool))
    for _ in range(1 if settings.microbatch in (None, settings.batch) else 2):  # the second finds gradients there
        loss, _ = objective.loss(model, batch, draws)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        del loss
    forward = tracker.peak
    tracker.restart()
    state.take_gradients()
    torch.nn.utils.clip_grad_norm_(list(state.moved.values()), settings.grad_clip or math.inf)
    state.step(settings.ema, 0)
    return forward, tracker.peak


def _optimizer(device: str, settings: TrainSection, parameters: Parameters) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw8bit":
        return EightBit(parameters.values())
    optimizer = optimizers.build(settings, parameters)
    for group in optimizer.param_groups:
        group["foreach"] = device in FOREACH
    return optimizer


def _data(
    model: ModelAdapter, objective: Objective, settings: TrainSection, size: Size, latents: Tensor, prompt: Prompt
) -> Dataset:
    """The objective's own example of two candidates, of which one is clearly better."""
    width, height = size
    judged, rewards = [], []
    for index, score in enumerate((1.0, -1.0)):
        name = f"{prompt.id}-{index}"
        candidate = Candidate(name, prompt.id, index, index, f"{name}.png", width, height)
        judged.append(Judged(prompt, candidate, Grounding(name, ()), Judgement(name, Score(1.0), ())))
        rewards.append(Reward(name, RewardMap(width, height, (), alpha=1.0, background=1.0), score))
    examples = objective.examples(judged, rewards)
    grid = model.token_grid(width, height)
    return Dataset(
        examples=examples[:1],
        latents={one.candidate.id: torch.zeros(latents.shape[1:], dtype=latents.dtype) for one in judged},
        grids=[grid],
        size=settings.batch,
        seed=0,
        device=latents.device,
    )


def _weights(model: ModelAdapter, parameters: Parameters) -> dict[str, int]:
    """Bytes of each network, those that training moves apart."""
    moved = {id(parameter) for parameter in parameters.values()}
    found: dict[str, int] = {}
    for name, network in _networks(model).items():
        trained = _bytes(parameter for parameter in network.parameters() if id(parameter) in moved)
        whole = _bytes([*network.parameters(), *network.buffers()])
        found |= {f"{name}, frozen": whole - trained, f"{name}, trained": trained} if trained else {name: whole}
    return found


def _networks(model: ModelAdapter) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(model).items() if isinstance(value, nn.Module)}


def _on_device(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_meta


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
