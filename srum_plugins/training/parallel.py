"""How several processes make one step: each has a share of its examples, and the gradients of all are added up.

A loss is its batch's share of the step's (:class:`srum_plugins.contracts.TrainBatch`), so that sums over pieces and
processes are what one process would have. Without sharding that is torch's DistributedDataParallel; with ``fsdp2``
torch's ``fully_shard``, where each process holds a part of weights, gradients and optimizer state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from srum_plugins.contracts import Draws, ModelAdapter, Objective, TrainBatch
from srum_plugins.training.state import Parameters
from srum_plugins.world import World


class Single:
    """One process."""

    size = 1

    def __init__(self, objective: Objective, model: ModelAdapter) -> None:
        self._objective, self._model = objective, model

    def places(self, count: int) -> range:
        """The places in a step of ``count`` examples that are this process's."""
        return range(count)

    def backward(self, batch: TrainBatch, draws: Draws, last: bool = True, together: bool = True) -> dict[str, Tensor]:
        """Add the gradients of a batch to those that are there; its share of loss and metrics, detached. The gradients
        are whole after the ``last`` batch of a step. Those of a batch that is not done ``together`` stay apart."""
        loss, metrics = self._objective.loss(self._model, batch, draws)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return {"loss": loss.detach(), **metrics}

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Figures of all processes added up."""
        return dict(figures)


class _Shared(Single):
    """Several processes, which have equal shares: they must work in step."""

    def __init__(self, objective: Objective, model: ModelAdapter, world: World) -> None:
        super().__init__(objective, model)
        self.size, self._rank = world.size, world.rank

    def places(self, count: int) -> range:
        """See :meth:`Single.places`."""
        share = count // self.size
        return range(self._rank * share, (self._rank + 1) * share)

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        """See :meth:`Single.total`. All processes must name the same figures."""
        sums = torch.tensor(list(figures.values()), dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return dict(zip(figures, sums.tolist(), strict=True))


class Replicated(_Shared):
    """Each process holds all weights."""

    def __init__(self, objective: Objective, model: ModelAdapter, parameters: Parameters, world: World) -> None:
        super().__init__(objective, model, world)
        # Experts may rest in a batch of one process and work in that of another.
        self._wrapped = nn.parallel.DistributedDataParallel(
            _Loss(objective, model, parameters),
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def backward(self, batch: TrainBatch, draws: Draws, last: bool = True, together: bool = True) -> dict[str, Tensor]:
        """See :meth:`Single.backward`."""
        with nullcontext() if last and together else self._wrapped.no_sync():
            loss, metrics = self._wrapped(batch, draws)
            (loss * self.size).backward()  # of which torch takes the mean over processes
        return {"loss": loss.detach(), **metrics}


class _Loss(nn.Module):
    """An objective as a module, as DistributedDataParallel wants one."""

    def __init__(self, objective: Objective, model: ModelAdapter, parameters: Parameters) -> None:
        super().__init__()
        self._objective, self._model = objective, model
        self.moving = nn.ParameterList(parameters.values())

    def forward(self, batch: TrainBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return self._objective.loss(self._model, batch, draws)


class Sharded(_Shared):
    """Each process holds a part of everything. Gradients are shared out after every batch, so that never all are held;
    they are always those of all processes together. What no batch uses has a gradient of zeros."""

    def backward(self, batch: TrainBatch, draws: Draws, last: bool = True, together: bool = True) -> dict[str, Tensor]:
        """See :meth:`Single.backward`."""
        loss, metrics = self._objective.loss(self._model, batch, draws)
        (loss * self.size).backward()  # type: ignore[no-untyped-call]  # torch takes the mean over processes
        return {"loss": loss.detach(), **metrics}


def start(
    objective: Objective, model: ModelAdapter, parameters: Parameters, sharding: str, device: str, world: World
) -> tuple[Single, Parameters]:
    """How the processes of ``world`` make a step under ``train.sharding``, and the trainable parameters: anew if the
    weights were shared out. One process shares nothing out."""
    if world.size == 1:
        return Single(objective, model), parameters
    if sharding == "fsdp2":
        parameters = shard(model, device, world)
        return Sharded(objective, model, world), parameters
    return Replicated(objective, model, parameters, world), parameters


def shard(model: ModelAdapter, device: str, world: World) -> Parameters:
    """Share an adapter's weights out among all processes; its trainable parameters anew."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(torch.device(device).type, (world.size,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)

    def apply(module: nn.Module) -> None:
        # The outermost too: a second forward, of the base, must gather its own weights.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        module.set_reduce_scatter_unused_params(True)  # an expert may rest in one process's batch (engine.md 4)

    return model.shard(apply)


def pieces(places: Sequence[int], size: int | None) -> Iterator[Sequence[int]]:
    """So many places at a time (None: all)."""
    for start in range(0, len(places), size or len(places)):
        yield places[start : start + (size or len(places))]
