"""Latent spaces: pixels as they are, or a KL autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srum_bagel.config import AutoencoderConfig
from srum_plugins.errors import CheckpointError


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

        self.scale, self.shift = config.scale, config.shift
        self.model = AutoencoderKL(latent_channels=config.z_channels, **config.arguments)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to latents (B, z, H / downsample, W / downsample)."""
        mode: Tensor = self.model.encode(pixels).latent_dist.mode()
        return self.scale * (mode - self.shift)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`encode`, up to what the autoencoder loses."""
        pixels: Tensor = self.model.decode(latents / self.scale + self.shift).sample
        return pixels


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
