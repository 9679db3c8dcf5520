"""The dimensions of the shipped small BAGEL."""

from __future__ import annotations

from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig

from srum_shapes.vocabulary import BOI, BOS, EOI, EOS, WORDS
from srum_shapes.world import SIDE

PATCH = 4
"""Pixels along one side of a vision patch and of a latent token."""


def autoencoder_config(scale: float = 1.0, shift: float = 0.0) -> AutoencoderConfig:
    """A KL autoencoder of 32 x 32 pixels to 8 x 8 latents with 8 channels."""
    return AutoencoderConfig(
        kind="kl",
        downsample=PATCH,
        z_channels=8,
        scale=scale,
        shift=shift,
        arguments={
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [24, 48, 64],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
        },
    )


def bagel_config(scale: float = 1.0, shift: float = 0.0) -> BagelConfig:
    """2.4 million parameters, the autoencoder's 0.8 million not counted: five layers of width 128 with two experts
    each, and a small vision tower with an overlapping patch embedding."""
    return BagelConfig(
        llm=LanguageConfig(
            vocab_size=len(WORDS),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rope_theta=1e4,
        ),
        vit=VisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=PATCH,
            image_size=SIDE,
            patch_kernel=2 * PATCH,
        ),
        vae=autoencoder_config(scale, shift),
        tokens=SpecialTokens(bos=BOS, eos=EOS, boi=BOI, eoi=EOI),
        latent_patch_size=1,
        max_latent_size=SIDE // PATCH,
        vit_max_num_patch_per_side=SIDE // PATCH,
        timestep_shift=3.0,
    )
