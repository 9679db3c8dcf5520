"""The examples of a training: which ones a step sees, as latents and token weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from srum_plugins.contracts import Draws, Example, ModelAdapter, TrainBatch
from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.stages import generate
from srum_plugins.stages.session import Session
from srum_plugins.training.latents import Latents

GIB = 2**30


@dataclass(frozen=True)
class Dataset:
    """The training examples. ``latents`` (C, H, W) by candidate, on the CPU; ``grids`` the (h, w) of each example's
    token grid; ``size`` the examples of a step, those of all processes together."""

    examples: list[Example]
    latents: Mapping[str, Tensor]
    grids: list[tuple[int, int]]
    size: int
    seed: int
    device: torch.device

    @classmethod
    def build(cls, session: Session, model: ModelAdapter, examples: list[Example]) -> Dataset:
        """Find and check what takes part; nothing is encoded yet.

        Raises:
            ContractError: the objective's examples do not fit one another or the candidates.
            DamagedError: a candidate's image, or what was kept of it, is not as it was written.
        """
        objective = session.choice(Kind.OBJECTIVE).name
        roles = {(len(example.candidates), len(example.maps)) for example in examples}
        if len(roles) > 1 or any(candidates != maps for candidates, maps in roles):
            raise ContractError(f"objective {objective!r}: every example needs the same roles, each with its map")
        files = generate.saved(session)
        records = {candidate.id: candidate for candidate in files.read()}
        wanted = tuple(dict.fromkeys(name for example in examples for name in example.candidates))
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
        settings, world = session.config.train, session.world

        def kept(name: str) -> str | None:
            return records[name].latents if settings.latents == "kept" else None

        # Before the first step, though each is read when a step asks for it: training takes hours.
        for name in wanted[world.rank :: world.size]:
            files.check(kept(name) or records[name].image)
        world.meet("candidates checked")

        def make(name: str) -> Tensor:
            if (latents := kept(name)) is not None:
                return files.tensor(latents)
            # For encoders that sample: the same latents in whatever order and by whatever process.
            seed_torch(stable_seed(session.config.run.seed, "encode", name))
            encoded = model.encode([files.image(records[name].image, sizes[name])])
            if not isinstance(encoded, Tensor) or encoded.ndim != 4:
                shown = tuple(encoded.shape) if isinstance(encoded, Tensor) else type(encoded).__name__
                raise ContractError(f"{type(model).__name__}.encode gave {shown}, expected a tensor (B, C, H, W)")
            return encoded[0]

        return cls(
            examples=examples,
            latents=Latents(wanted, make, settings.latents_gib * GIB),
            grids=[grids[sizes[example.candidates[0]]] for example in examples],
            size=settings.batch,
            seed=session.config.run.seed,
            device=torch.device(session.device),
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

    def draw(self, model: ModelAdapter, indices: Sequence[int], generator: torch.Generator) -> Draws:
        """The model's draws for a whole step: the same, whoever does which part of it."""
        shapes: dict[tuple[int, int], torch.Size] = {}
        for index in indices:
            if (grid := self.grids[index]) not in shapes:  # images of one grid have latents of one shape
                shapes[grid] = self.latents[self.examples[index].candidates[0]].shape
        # Only shape and device are looked at: these take no memory.
        places = [torch.empty((), device=self.device).expand(shapes[self.grids[index]]) for index in indices]
        return model.draw(places, generator)

    def batch(self, indices: Sequence[int], step: Sequence[int] | None = None) -> TrainBatch:
        """These examples on the device, as a part of a step's (by default all of it)."""
        examples = [self.examples[index] for index in indices]
        roles, grids = range(len(examples[0].candidates)), tuple(self.grids[index] for index in indices)
        batch = TrainBatch(
            prompts=tuple(example.prompt for example in examples),
            latents=tuple(
                [self.latents[example.candidates[role]].to(self.device) for example in examples] for role in roles
            ),
            weights=tuple(
                torch.cat(
                    [example.maps[role].tokens(*grid).flatten() for example, grid in zip(examples, grids, strict=True)]
                ).to(self.device)
                for role in roles
            ),
            grids=grids,
        )
        if step is None:
            return batch
        tokens = sum(height * width for height, width in (self.grids[index] for index in step))
        return replace(batch, step_tokens=tokens, step_examples=len(step))


def part(draws: Draws, places: Sequence[int]) -> Draws:
    """The draws of some examples of a step."""
    rows = torch.tensor(places, device=draws.timestep.device)
    noise = [draws.noise[place] for place in places]
    return replace(draws, timestep=draws.timestep[rows], noise=noise, drop=draws.drop[rows.to(draws.drop.device)])
