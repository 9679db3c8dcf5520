"""Speed and memory of BLIP3o: python benchmarks/blip3o.py --size small --device cpu

With random weights, or with those of a checkpoint folder (--checkpoint). Generates, answers and trains (`srum`
objective, scope prior, on features), and writes a JSON file with the device's name: seconds, images/s, tokens/s
(written words, feature tokens), peak memory, and utilisation as benchmarks/bagel.py has it. Operations of the pixel
decoder's attention count where torch knows its kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measure import LONGEST_ANSWER, Bench, arguments, blank, dtype_on, show_memory
from srum_blip3o.adapter import Blip3oAdapter
from srum_blip3o.conditions import Conditions
from srum_blip3o.decoder import DecoderConfig
from srum_blip3o.eva import EvaConfig
from srum_blip3o.memory import weightless
from srum_blip3o.networks import Dimensions, new_networks, unsaved
from srum_blip3o.options import AdapterOptions, Sampling, Training
from srum_blip3o.prior import PriorConfig
from srum_blip3o.released import build as build_released
from srum_blip3o.released import heads as released_heads
from srum_blip3o.released import without_weights
from transformers import Qwen2_5_VLConfig

from srum_plugins.attention.contract import Attention

UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 1792,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 3328,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def language(
    vocabulary: int, width: int, inner: int, layers: int, heads: int, keys: int, tied: bool, vision: dict[str, Any]
) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL; of ``vision`` what is not said is the release's."""
    eighth = width // heads // 8
    return Qwen2_5_VLConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=128000,
        bos_token_id=0,
        eos_token_id=1,
        rope_theta=1e6,
        rope_scaling={"type": "mrope", "mrope_section": [eighth, eighth + eighth // 2, eighth + eighth // 2]},
        tie_word_embeddings=tied,
        vision_config={"hidden_size": 1280, **vision, "out_hidden_size": width},
    )


SMALL_VISION: dict[str, Any] = {
    "hidden_size": 256,
    "depth": 2,
    "num_heads": 4,
    "intermediate_size": 512,
    "fullatt_block_indexes": [1],
}
SMALL = Dimensions(
    language(1024, 512, 1536, 4, 8, 2, False, SMALL_VISION),
    PriorConfig(512, channels=256, layers=4, heads=4),
    DecoderConfig(
        {
            **UNET,
            "sample_size": 16,
            "block_out_channels": (64, 128, 128),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (1, 2, 2),
            "cross_attention_dim": 256,
            "projection_class_embeddings_input_dim": 256 + 6 * 256,
        },
        {**VAE, "block_out_channels": (32, 64, 64, 64), "sample_size": 128},
        SCHEDULER,
    ),
    EvaConfig(image=112, width=256, depth=2, heads=4, mlp=512),
)
"""On images of 128 x 128 pixels."""
SIZES = {
    "small": SMALL,
    "4b": Dimensions(
        language(151668, 2048, 11008, 36, 16, 2, True, {}),
        PriorConfig(2048),
        DecoderConfig(UNET, VAE, SCHEDULER),
        EvaConfig(),
    ),
    "8b": Dimensions(
        language(151668, 3584, 18944, 28, 28, 4, False, {}),
        PriorConfig(3584),
        DecoderConfig(UNET, VAE, SCHEDULER),
        EvaConfig(),
    ),
}
"""The two large ones are the released dimensions (blip3o.md 1.2, 1.4, 2.2, 4.3)."""


def build(dimensions: Dimensions, device: torch.device, dtype: torch.dtype, attention: Attention) -> Blip3oAdapter:
    """An adapter with random weights, made on the device in their dtype."""
    torch.manual_seed(0)
    networks = new_networks(dimensions, device, dtype, attention)
    conditions = Conditions(networks.qwen.condition, "", None)
    return Blip3oAdapter(
        networks.qwen, networks.prior, networks.decoder, conditions, networks.tower, unsaved, LONGEST_ANSWER
    )


def main() -> None:
    parser = arguments(__doc__, "blip3o", SIZES)
    parser.add_argument("--checkpoint", help="a folder, in place of random weights of a size")
    parser.add_argument("--prior-steps", type=int, default=30, help="of the features of an image")
    parser.add_argument("--steps", type=int, default=50, help="of the pixels of an image")
    options = parser.parse_args()
    device, dimensions = torch.device(options.device), SIZES[options.size]
    dtype, sampling = dtype_on(device), Sampling(prior_steps=options.prior_steps, steps=options.steps)
    kind = str(dtype).removeprefix("torch.")
    released = AdapterOptions(options.checkpoint, dtype=kind) if options.checkpoint else None
    if options.memory:
        show_memory(
            lambda: without_weights(released) if released else weightless(dimensions, dtype, LONGEST_ANSWER),
            options.device,
            options.images,
            sampling,
            Training(),
        )
        return
    bench = Bench.on(
        options.device, options.attention, released_heads(released) if released else dimensions.heads(kind)
    )
    if released:
        adapter = build_released(released, options.device, bench.attention)
    else:
        adapter = build(dimensions, device, dtype, bench.attention)
    side, config = adapter.size[0], adapter.prior.config
    features = torch.randn(options.images, config.channels, config.grid, config.grid, device=device)
    tokenizer = adapter.qwen.tokenizer
    found = bench.figures(
        adapter,
        sampling,
        Training(),
        blank(side, options.images),
        list(features),
        lambda text: len(tokenizer.encode(text)),
    )
    networks = (adapter.qwen.model, adapter.prior, adapter.decoder)
    about = {
        "size": options.checkpoint or options.size,
        "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        "side": side,
        "images": options.images,
        "prior_steps": options.prior_steps,
        "steps": options.steps,
    }
    name = "checkpoint" if released else options.size
    bench.write(about | found, options.output or Path(f"runs/blip3o-{name}.json"))


if __name__ == "__main__":
    main()
