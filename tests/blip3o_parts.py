"""Tiny random parts of a BLIP3o, in the layouts of the released ones: the EVA tower and the pixel decoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from srum_blip3o.decoder import PixelDecoder
from srum_blip3o.eva import EvaConfig, EvaTower

CHANNELS = 16
"""Channels of the tiny features."""

LATENT_SIDE = 8
"""Latents a side of the image that the tiny decoder paints by default; the image has 64 pixels a side."""

SAVED_PREFIX = "model.gen_vision_tower.vision_tower.model."

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def tiny_eva(channels: int = CHANNELS, depth: int = 2) -> EvaConfig:
    """A tower that reads 64 x 64 pixels as 16 x 16 patches, which pool to 8 x 8."""
    return EvaConfig(image=64, patch=4, width=channels, depth=depth, heads=2, mlp=24)


def random_eva(config: EvaConfig, seed: int = 0) -> EvaTower:
    """A tower in which nothing is left at zero or one, so that every weight shows in the features."""
    torch.manual_seed(seed)
    tower = EvaTower(config).eval().requires_grad_(False)
    for name, weight in tower.named_parameters():
        if weight.ndim == 1 or name in ("cls_token", "pos_embed"):
            weight.normal_(float(".norm" in name and name.endswith("weight")), 0.3)
    return tower


def write_eva(file: Path, config: EvaConfig | None = None, seed: int = 0, prefix: str = "") -> EvaTower:
    """Write the tower's weights under their names in the checkpoint, behind a prefix; returns the tower."""
    tower = random_eva(config or tiny_eva(), seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: weight.contiguous() for name, weight in tower.state_dict().items()}, file)
    return tower


def write_decoder(
    folder: Path, channels: int = CHANNELS, seed: int = 0, variant: str | None = "bf16", side: int = LATENT_SIDE
) -> PixelDecoder:
    """Write a ``diffusion-decoder`` folder for features of so many channels; returns the decoder that is in it, in
    float32. ``side`` is the one in latents of the images that it says it was trained on; it paints any size whose side
    in latents is even, 8 pixels to a latent."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(8, 16),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=channels,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=channels + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        sample_size=8 * side,
        scaling_factor=0.13025,
    )
    unet.save_pretrained(folder / "unet", variant=variant)
    vae.save_pretrained(folder / "vae", variant=variant)
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.save_pretrained(folder / "scheduler")
    return PixelDecoder(unet, vae, SCHEDULER).eval().requires_grad_(False)
