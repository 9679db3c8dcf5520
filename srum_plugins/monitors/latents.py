"""The monitor ``latents``: do predicted velocities and sampled latents stay where those of the base are?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srum_plugins.contracts import ModelAdapter, Monitor, ShowsVelocity, Watched
from srum_plugins.monitors.options import LatentsOptions
from srum_plugins.records import Failure, Reading
from srum_plugins.runs.fingerprint import stable_seed

OUTSIDE = 0.005
"""Of the base's values of a channel, this share lies below the 99 % range, and this share above."""


@dataclass(frozen=True)
class Moved:
    """How far values have moved from those of the base: the relative change of the mean norm of a token; the distance
    of a channel's distributions, in standard deviations of the base's (None: no channel of the base varies); the share
    of values outside the base's 99 % range."""

    norm: float
    distance: float | None
    outside: float


class Latents(Monitor):
    """Compares with the weights before training, on the same examples, noise and seeds."""

    def __init__(self, options: LatentsOptions) -> None:
        self._options = options
        self.every = options.every

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """The base's values; no reading."""
        self._run = run
        self._prompts, self._latents = run.latents(self._options.examples)
        self._base = self._values(model)
        return []

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        """See :meth:`after`."""
        return self.after(model)

    def after(self, model: ModelAdapter) -> list[Reading]:
        """``velocity_norm``, ``velocity_distance``, ``velocity_outside``; with ``images`` those of ``sampled`` too."""
        readings = []
        for what, now in self._values(model).items():
            base = self._base[what]
            if isinstance(base, Failure):
                readings.append(Reading(f"{what}_distance", None, failure=base))
            elif isinstance(now, Tensor):
                readings += self._readings(what, moved(base, now))
        return readings

    def _readings(self, what: str, found: Moved) -> list[Reading]:
        o = self._options
        distance = Reading(f"{what}_distance", None, failure=Failure("no spread", "no channel of the base varies"))
        if found.distance is not None:
            distance = Reading(f"{what}_distance", found.distance, o.distance.of(found.distance))
        return [
            Reading(f"{what}_norm", found.norm, o.norm.of(abs(found.norm))),
            distance,
            Reading(f"{what}_outside", found.outside, o.outside.of(found.outside)),
        ]

    def _values(self, model: ModelAdapter) -> dict[str, Tensor | Failure]:
        """(N, C) values by what they are, on the CPU."""
        found: dict[str, Tensor | Failure] = {"velocity": self._velocities(model)}
        if count := self._options.images:
            prompts = [self._run.prompts[index % len(self._run.prompts)] for index in range(count)]
            seeds = [stable_seed(self._run.seed, prompt.id, index) for index, prompt in enumerate(prompts)]
            drawn = self._run.generate(model, prompts, seeds)
            latents = [model.encode([one.image])[0] if one.latents is None else one.latents for one in drawn]
            found["sampled"] = torch.cat([one.float().flatten(1).T.cpu() for one in latents])
        return found

    def _velocities(self, model: ModelAdapter) -> Tensor | Failure:
        """Predicted example by example: all at once could take more memory than a step of training."""
        generator = torch.Generator().manual_seed(self._run.seed % 2**63)
        parts = []
        for prompt, latents in zip(self._prompts, self._latents, strict=True):
            prediction = model.predict([prompt], [latents], model.draw([latents], generator))
            if not isinstance(prediction, ShowsVelocity):
                return Failure("no velocity", f"a {type(prediction).__name__} of the adapter does not show its numbers")
            parts.append(prediction.velocities().cpu())
        return torch.cat(parts)


def moved(base: Tensor, now: Tensor) -> Moved:
    """What has changed from ``base`` to ``now``, both (N, C).

    The distance of a channel is the Wasserstein-1 distance of its N values, the mean distance of the two sorted lists;
    the mean is over the channels that vary in the base.
    """
    base, now = base.double(), now.double()
    norm = float(now.norm(dim=1).mean() / base.norm(dim=1).mean() - 1)
    ranked, spread = base.sort(dim=0).values, base.std(dim=0, correction=0)
    apart = (now.sort(dim=0).values - ranked).abs().mean(dim=0)
    varies = spread > 0
    distance = float((apart[varies] / spread[varies]).mean()) if bool(varies.any()) else None
    last = len(base) - 1
    low, high = ranked[int(OUTSIDE * last)], ranked[last - int(OUTSIDE * last)]
    return Moved(norm, distance, float(((now < low) | (now > high)).double().mean()))
