"""The pixel decoder: a UNet that paints from EVA features, and the autoencoder of its latents (blip3o.md 4.3)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

from srum_plugins.checkpoint_config import read_json
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.weights import absent, load_weights, named_files

GUIDANCE = 3.0
STEPS = 50

PIXELS_PER_CALL = 2**20
"""Pixels that the autoencoder decodes together: one image of 1024 x 1024, for which it needs gigabytes, or many small
ones."""

WEIGHTS = ("diffusion_pytorch_model.bf16", "diffusion_pytorch_model")
"""How the weights of a part are named, the first that is there being taken: the variant is what BLIP3o reads."""

SIZES = 6
"""Numbers that the UNet is told of the image's size and cut."""


@dataclass(frozen=True)
class DecoderConfig:
    """What the diffusers classes of the three parts are made with."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]


@dataclass(frozen=True)
class Schedule:
    """What one drawing needs of the scheduler: the time told to the UNet at each of N steps, N + 1 noise levels of
    which the last is 0, and the deviation of the noise to begin with."""

    times: tuple[float, ...]
    sigmas: tuple[float, ...]
    start: float


def make_schedule(config: Mapping[str, Any], steps: int) -> Schedule:
    """The schedule of ``EulerDiscreteScheduler(**config)`` for so many steps. A scheduler remembers its last call, so
    that each call has one of its own (blip3o.md 7.2).

    Raises:
        ContractError: there are fewer steps than 1 or more than the scheduler was trained with.
    """
    scheduler: Any = EulerDiscreteScheduler(**config)
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise ContractError(f"the pixel decoder draws in 1 to {most} steps, got {steps}")
    scheduler.set_timesteps(steps)
    return Schedule(
        tuple(scheduler.timesteps.tolist()), tuple(scheduler.sigmas.tolist()), float(scheduler.init_noise_sigma)
    )


class PixelDecoder(nn.Module):
    """A diffusers UNet, autoencoder and scheduler, composed by hand. ``scheduler`` is the config of an
    ``EulerDiscreteScheduler``."""

    def __init__(self, unet: nn.Module, vae: nn.Module, scheduler: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet: Any = unet
        self.vae: Any = vae
        self.scheduler = dict(scheduler)

    @property
    def width(self) -> int:
        """Channels of the features that it paints from."""
        width: int = self.unet.config.cross_attention_dim
        return width

    @property
    def downsample(self) -> int:
        """Pixels a side that one latent shows."""
        levels: int = len(self.vae.config.block_out_channels)
        return 1 << (levels - 1)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(channels, h, w) of the noise for an image of the size that the UNet was trained on."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def decode(
        self,
        features: Tensor,
        negative: Tensor | None,
        noise: Tensor,
        guidance: float = GUIDANCE,
        steps: int = STEPS,
    ) -> Tensor:
        """uint8 images (B, H, W, 3): :meth:`paint` with the values of the colours rounded."""
        pixels = self.paint(features, negative, noise, guidance, steps)
        return (255 * pixels).round().to(torch.uint8).permute(0, 2, 3, 1)

    @torch.no_grad()
    def paint(
        self,
        features: Tensor,
        negative: Tensor | None,
        noise: Tensor,
        guidance: float = GUIDANCE,
        steps: int = STEPS,
    ) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1], float32, of features (B, N, C) (blip3o.md 4.3).

        ``negative`` (1 or B, N, C) are the features to be guided away from; without guidance (1.0) they are not used
        and may be None. ``noise`` (B, 4, h, w) is standard normal; H and W are its sides times :attr:`downsample`.
        An image does not depend on those that are painted with it.

        Raises:
            ContractError: a shape or a setting does not fit, or a pixel is not finite.
        """
        guided = guidance != 1.0
        self._check(features, negative if guided else None, noise, guidance)
        schedule = make_schedule(self.scheduler, steps)
        device, dtype = self.unet.conv_in.weight.device, self.unet.conv_in.weight.dtype
        if guided:
            if negative is None:
                raise ContractError(f"guidance {guidance} needs negative features to be guided away from")
            features = torch.cat([features, negative.to(features).expand_as(features)])
        branches = features.to(device, dtype)
        height, width = (side * self.downsample for side in noise.shape[2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=device)
        told = {"text_embeds": branches.mean(dim=1), "time_ids": sizes.expand(len(branches), SIZES)}

        latents = noise.to(device, torch.float32) * schedule.start
        for time, sigma, following in zip(schedule.times, schedule.sigmas, schedule.sigmas[1:], strict=False):
            scaled = (latents / (sigma**2 + 1) ** 0.5).to(dtype)
            scaled = torch.cat([scaled, scaled]) if guided else scaled
            predicted = self.unet(
                scaled,
                torch.tensor(time, device=device),
                encoder_hidden_states=branches,
                added_cond_kwargs=told,
                return_dict=False,
            )[0].float()
            if guided:
                conditional, unconditional = predicted.chunk(2)
                predicted = unconditional + guidance * (conditional - unconditional)
            latents = latents + (following - sigma) * predicted
        return self._pixels(latents)

    def _pixels(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) in float32 to pixels (B, 3, H, W) in [0, 1], as many at a time as memory is for."""
        dtype = self.vae.decoder.conv_in.weight.dtype
        count = max(1, PIXELS_PER_CALL // (latents.shape[2] * latents.shape[3] * self.downsample**2))
        parts = [
            self.vae.decode((latents[first : first + count] / self.vae.config.scaling_factor).to(dtype)).sample.float()
            for first in range(0, len(latents), count)
        ]
        pixels = torch.cat(parts)
        if not pixels.isfinite().all():
            raise ContractError(
                f"the pixel decoder painted values that are not finite, in {dtype}: check the features and the "
                "weights, and use bfloat16 or float32"
            )
        return (pixels / 2 + 0.5).clamp(0, 1)

    def _check(self, features: Tensor, negative: Tensor | None, noise: Tensor, guidance: float) -> None:
        if features.ndim != 3 or not len(features) or features.shape[2] != self.width:
            raise ContractError(
                f"the pixel decoder paints from features (B, N, {self.width}), got {tuple(features.shape)}"
            )
        if negative is not None and negative.shape not in (features.shape, (1, *features.shape[1:])):
            raise ContractError(
                f"negative features must have shape {tuple(features.shape)}, or 1 in its first place, got "
                f"{tuple(negative.shape)}"
            )
        channels = self.unet.config.in_channels
        if noise.ndim != 4 or noise.shape[:2] != (len(features), channels):
            raise ContractError(
                f"the noise must have shape ({len(features)}, {channels}, h, w), got {tuple(noise.shape)}"
            )
        if not math.isfinite(guidance):
            raise ContractError(f"guidance must be a finite number, got {guidance}")


def new_decoder(config: DecoderConfig) -> PixelDecoder:
    """A frozen decoder with random weights, or with none on torch's ``meta`` device."""
    decoder = PixelDecoder(UNet2DConditionModel(**config.unet), AutoencoderKL(**config.vae), config.scheduler)
    return decoder.eval().requires_grad_(False)


def read_decoder(folder: Path, width: int) -> DecoderConfig:
    """The config of a ``diffusion-decoder`` folder with the subfolders ``unet``, ``vae`` and ``scheduler``
    (blip3o.md 1.1), for features of ``width`` channels. No weights are read.

    Raises:
        CheckpointError: a file is missing or damaged, or a config asks for what this decoder does not do.
    """
    config = DecoderConfig(
        read_config(folder / "unet" / "config.json", UNet2DConditionModel),
        read_config(folder / "vae" / "config.json", AutoencoderKL),
        read_config(folder / "scheduler" / "scheduler_config.json", EulerDiscreteScheduler),
    )
    unet = _built(folder / "unet", UNet2DConditionModel, config.unet)
    vae = _built(folder / "vae", AutoencoderKL, config.vae)
    scheduler = _built(folder / "scheduler", EulerDiscreteScheduler, config.scheduler)
    problems = config_problems(width, unet.config, vae.config, scheduler.config)
    if problems:
        raise CheckpointError(f"{folder} is no pixel decoder for features of {width} channels: {'; '.join(problems)}")
    return config


def load_decoder(folder: Path, width: int, device: torch.device, dtype: torch.dtype) -> PixelDecoder:
    """The frozen decoder of such a folder. Of a part's weights the bf16 variant is read if there is one. In float16 the
    autoencoder stays in float32, since it overflows there (blip3o.md 4.3).

    Raises:
        CheckpointError: as :func:`read_decoder`, or weights are missing, damaged or pickled, or do not fit their
            config.
    """
    config = read_decoder(folder, width)
    with torch.device("meta"):
        decoder = new_decoder(config)
    unet_files, vae_files = weight_files(folder / "unet"), weight_files(folder / "vae")
    load_weights(decoder.unet, unet_files, device, dtype)
    load_weights(
        decoder.vae, vae_files, device, torch.float32 if dtype == torch.float16 else dtype, rename=current_name
    )
    return decoder


def read_config(file: Path, kind: Any) -> dict[str, Any]:
    """What a part's JSON file sets of the diffusers class ``kind``; what it says beyond that is for other versions of
    diffusers and left out.

    Raises:
        CheckpointError: the file is missing or damaged, or made for another class.
    """
    data = read_json(file, "it is no part of a diffusers pipeline")
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object")
    name = data.get("_class_name", kind.__name__)
    if name != kind.__name__:
        raise CheckpointError(f"{file} is of a {name}; the pixel decoder needs a {kind.__name__}")
    known = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in data.items() if key in known}


def _built(folder: Path, kind: Any, config: Mapping[str, Any]) -> Any:
    """The part without memory for its weights."""
    try:
        with torch.device("meta") if issubclass(kind, nn.Module) else nullcontext():
            return kind(**config)
    except Exception as error:  # diffusers raises whatever a bad value leads to
        raise CheckpointError(
            f"diffusers cannot make a {kind.__name__} of the config in {folder}: {error!r}"
        ) from error


def config_problems(width: int, unet: Any, vae: Any, scheduler: Any) -> list[str]:
    """What in the configs this decoder does not do (blip3o.md 4.3), in words."""
    wanted = [
        ("unet", unet, "cross_attention_dim", width),
        ("unet", unet, "addition_embed_type", "text_time"),
        ("unet", unet, "in_channels", vae.latent_channels),
        ("unet", unet, "out_channels", vae.latent_channels),
        ("unet", unet, "class_embed_type", None),
        ("unet", unet, "encoder_hid_dim_type", None),
        ("unet", unet, "time_cond_proj_dim", None),
        ("vae", vae, "out_channels", 3),
        ("vae", vae, "shift_factor", None),
        ("vae", vae, "latents_mean", None),
        ("vae", vae, "latents_std", None),
        ("scheduler", scheduler, "prediction_type", "epsilon"),
    ]
    if unet.addition_embed_type == "text_time":
        told = width + SIZES * unet.addition_time_embed_dim
        wanted.append(("unet", unet, "projection_class_embeddings_input_dim", told))
    problems = [
        f"{key} in {part} is {config[key]!r}, must be {value!r}"
        for part, config, key, value in wanted
        if config[key] != value
    ]
    if unet.sample_size is None:
        problems.append("sample_size in unet is not set")
    if not vae.scaling_factor > 0:
        problems.append(f"scaling_factor in vae is {vae.scaling_factor!r}, must be positive")
    return problems


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a part: one, or the shards that an index names.

    Raises:
        CheckpointError: there is none, or a shard is missing, or all that is there is pickled.
    """
    for name in WEIGHTS:
        stem, _, variant = name.partition(".")
        if files := named_files(folder, name, ".".join(filter(None, [stem, "safetensors.index", variant, "json"]))):
            return files
    raise absent(folder, WEIGHTS)


def current_name(name: str) -> str:
    """diffusers' present name of an autoencoder's weight: files of old versions name the attention's otherwise."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"mid_block.attentions.0.{old}.", f"mid_block.attentions.0.{new}.")
    return name
