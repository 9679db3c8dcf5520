"""What adapters of flow models train with, where images are predicted one by one: the noise, and the losses.

An image is seen as x_t = (1 - t) x0 + t noise, and its velocity points from data to noise: v = noise - x0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srum_plugins.contracts import Draws, Prediction
from srum_plugins.errors import ContractError

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class FlowPrediction:
    """A :class:`srum_plugins.contracts.Prediction`: the velocity (C, H, W) of each image, and the noise that it was
    predicted under. Every latent pixel is a token; images may differ in size."""

    velocity: Sequence[Tensor]
    noise: Sequence[Tensor]

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """mean_c (v - (noise - x0))^2 per token, (T,), float32."""
        return self._apart([noise - clean for noise, clean in zip(self.noise, latents, strict=True)])

    def token_distance(self, other: Prediction) -> Tensor:
        """mean_c (v - v')^2 per token, (T,), float32. Raises ContractError for a prediction of another kind."""
        if not isinstance(other, FlowPrediction):
            raise ContractError(f"a flow prediction has no distance to a {type(other).__name__}")
        return self._apart(other.velocity)

    def velocities(self) -> Tensor:
        """See :class:`srum_plugins.contracts.ShowsVelocity`."""
        import torch

        return torch.cat([one.detach().float().flatten(1).T for one in self.velocity])

    def _apart(self, others: Sequence[Tensor]) -> Tensor:
        import torch

        pairs = zip(self.velocity, others, strict=True)
        return torch.cat([(own.float() - other.float()).square().mean(dim=0).flatten() for own, other in pairs])


def noised(latents: Sequence[Tensor], draws: Draws) -> list[Tensor]:
    """x_t of the latents (C, H, W) of each image."""
    return [
        (1 - time) * clean + time * noise
        for clean, time, noise in zip(latents, draws.timestep, draws.noise, strict=True)
    ]


def uniform_draws(latents: Sequence[Tensor], generator: torch.Generator, dropout: float = 0.0) -> Draws:
    """Timesteps uniform in [0, 1), Gaussian noise, and conditions dropped with the probability ``dropout``, on the
    device of the latents (C, H, W) of each image."""
    import torch

    count, device = len(latents), latents[0].device
    return Draws(
        timestep=torch.rand(count, generator=generator).to(device),
        noise=[torch.randn(one.shape, generator=generator).to(device) for one in latents],
        drop=(torch.rand(count, generator=generator) < dropout).to(device),
    )
