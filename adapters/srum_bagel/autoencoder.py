"""Latent spaces: pixels as they are, or a KL autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srum_bagel.config import AutoencoderConfig
from srum_plugins.errors import CheckpointError

PIXELS_PER_CALL = 2**20
"""Pixels that the autoencoder handles together: one image of 1024 x 1024, for which it needs gigabytes, or many small
ones."""


class PixelAutoencoder(nn.Module):
    """The identity: latents are pixels in [-1, 1]."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] as they are."""
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as they are."""
        return latents


class KLAutoencoder(nn.Module):
    """diffusers ``AutoencoderKL`` with BAGEL's scale and shift applied. Encoding takes the posterior's mode, so that an
    image has one latent (the release samples it anew at each use)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.scale, self.shift, self.downsample = config.scale, config.shift, config.downsample
        self.model = AutoencoderKL(latent_channels=config.z_channels, **config.arguments)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to latents (B, z, H / downsample, W / downsample)."""
        modes = [self.model.encode(part).latent_dist.mode() for part in _parts(pixels, 1)]
        return self.scale * (torch.cat(modes) - self.shift)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`encode`, up to what the autoencoder loses."""
        return torch.cat(
            [self.model.decode(part / self.scale + self.shift).sample for part in _parts(latents, self.downsample)]
        )


def _parts(images: Tensor, downsample: int) -> tuple[Tensor, ...]:
    """Images (B, C, H, W) of so many pixels a side of what they show, as many at a time as are handled together."""
    count = PIXELS_PER_CALL // (images.shape[2] * images.shape[3] * downsample**2)
    parts: tuple[Tensor, ...] = images.split(max(1, count))  # type: ignore[no-untyped-call]  # torch does not annotate it
    return parts


def build_autoencoder(config: AutoencoderConfig) -> PixelAutoencoder | KLAutoencoder:
    """The autoencoder that the config names."""
    if config.kind == "pixels":
        return PixelAutoencoder()
    if config.kind == "kl":
        return KLAutoencoder(config)
    raise CheckpointError(f"unknown autoencoder kind {config.kind!r}; known: 'kl', 'pixels'")


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Latents (B, C, H, W) to tokens (B, h * w, patch * patch * C), row-major, channel fastest."""
    batch, channels, height, width = latents.shape
    grid = latents.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, (height // patch) * (width // patch), patch * patch * channels)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Tokens (B, h * w, patch * patch * C) of an (h, w) = (height, width) token grid back to latents."""
    batch, _, dim = tokens.shape
    grid = tokens.reshape(batch, height, width, patch, patch, dim // patch**2)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, dim // patch**2, height * patch, width * patch)


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) to float pixels (B, 3, H, W) in [-1, 1]."""
    return (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5


def to_uint8(pixels: Tensor) -> Tensor:
    """Float pixels (B, 3, H, W) to uint8 images (B, H, W, 3): x * 0.5 + 0.5, clamped, times 255, truncated."""
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1)
