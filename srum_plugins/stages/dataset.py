"""The data of the stage ``train``: candidates as latents, reward maps as token weights, batches by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from srum_plugins.contracts import Example, ModelAdapter, TrainBatch
from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.stages import generate
from srum_plugins.stages.session import Session

ENCODE_BATCH = 32  # images


@dataclass(frozen=True)
class Dataset:
    """The training examples, encoded once or as they were kept. ``latents`` (C, H, W) by candidate, on the CPU; by
    example the (h, w) of its token grid, and the token weights (h * w,) of each role."""

    examples: list[Example]
    latents: Mapping[str, Tensor]
    grids: list[tuple[int, int]]
    weights: list[list[Tensor]]
    size: int
    seed: int
    device: torch.device

    @classmethod
    def build(cls, session: Session, model: ModelAdapter, examples: list[Example]) -> Dataset:
        """Read and encode the images that take part, and bring the reward maps to the token grid."""
        objective = session.choice(Kind.OBJECTIVE).name
        roles = {(len(example.candidates), len(example.maps)) for example in examples}
        if len(roles) > 1 or any(candidates != maps for candidates, maps in roles):
            raise ContractError(f"objective {objective!r}: every example needs the same roles, each with its map")
        files = generate.saved(session)
        records = {candidate.id: candidate for candidate in files.read()}
        wanted = list(dict.fromkeys(name for example in examples for name in example.candidates))
        if unknown := [name for name in wanted if name not in records]:
            raise ContractError(f"objective {objective!r} asks for candidates that do not exist: {unknown[0]!r}")
        sizes = {name: (records[name].width, records[name].height) for name in wanted}
        grids = {size: model.token_grid(*size) for size in set(sizes.values())}
        for example in examples:
            if len({sizes[name] for name in example.candidates}) > 1:
                raise ContractError(
                    f"objective {objective!r}: the candidates {' and '.join(example.candidates)} train together and "
                    f"must have one size, got {sorted({sizes[name] for name in example.candidates})}"
                )
        on_grid = [grids[sizes[example.candidates[0]]] for example in examples]
        latents: dict[str, Tensor] = {}
        device = torch.device(session.config.run.device)
        if session.config.train.latents == "kept":
            latents = {name: files.tensor(kept) for name in wanted if (kept := records[name].latents)}
        torch.manual_seed(stable_seed(session.config.run.seed, "encode"))  # for encoders that sample: a resumed run too
        for names in _chunks({name: size for name, size in sizes.items() if name not in latents}):
            encoded = model.encode([files.image(records[name].image, sizes[name]) for name in names])
            device = encoded.device
            latents.update(zip(names, encoded.detach().cpu(), strict=True))
        return cls(
            examples=examples,
            latents=latents,
            grids=on_grid,
            weights=[
                [reward_map.tokens(*grid).flatten() for reward_map in example.maps]
                for example, grid in zip(examples, on_grid, strict=True)
            ],
            size=session.config.train.batch,
            seed=session.config.run.seed,
            device=device,
        )

    def indices(self, step: int) -> list[int]:
        """The examples of a step: a window on an endless sequence of epochs, each a permutation of all examples."""
        count = len(self.examples)
        places = range(step * self.size, (step + 1) * self.size)
        orders = {epoch: self._order(epoch) for epoch in {place // count for place in places}}
        return [orders[place // count][place % count] for place in places]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "epoch", epoch))
        order: list[int] = torch.randperm(len(self.examples), generator=generator).tolist()
        return order

    def batch(self, indices: list[int]) -> TrainBatch:
        """These examples on the device."""
        examples = [self.examples[index] for index in indices]
        roles = range(len(examples[0].candidates))
        return TrainBatch(
            prompts=tuple(example.prompt for example in examples),
            latents=tuple(
                [self.latents[example.candidates[role]].to(self.device) for example in examples] for role in roles
            ),
            weights=tuple(
                torch.cat([self.weights[index][role] for index in indices]).to(self.device) for role in roles
            ),
            grids=tuple(self.grids[index] for index in indices),
        )


def _chunks(sizes: Mapping[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Candidates of one size, so many at a time as are encoded together."""
    for size in dict.fromkeys(sizes.values()):
        names = [name for name, own in sizes.items() if own == size]
        for start in range(0, len(names), ENCODE_BATCH):
            yield names[start : start + ENCODE_BATCH]
