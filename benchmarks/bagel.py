"""Speed and memory of BAGEL with random weights: python benchmarks/bagel.py --size small --device cpu

Generates, answers and trains (`srum` objective, scope generation, layers computed twice), and writes a JSON file with
the device's name: seconds, images/s, tokens/s (latent tokens times model steps, written words, latent tokens), peak
memory, and utilisation. That is the operations, recomputed layers included, by the time and by what a large matrix
product of the same dtype reaches on the same device. Operations are those that torch's FlopCounterMode counts, and the
transformer's attention, which it knows for some kernels only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from measure import LONGEST_ANSWER, Bench, arguments, blank, dtype_on, show_memory
from srum_bagel.adapter import BagelAdapter
from srum_bagel.autoencoder import build_autoencoder
from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig
from srum_bagel.memory import Words, weightless
from srum_bagel.model import Bagel
from srum_bagel.options import Sampling, Training
from srum_bagel.release import kl_autoencoder
from srum_bagel.released import preparation

from srum_plugins.attention.contract import Attention, Heads

SEVEN = BagelConfig(
    llm=LanguageConfig(152064, 3584, 18944, 28, 28, 4),
    vit=VisionConfig(1152, 4304, 26, 16, patch_size=14, image_size=980),
    vae=kl_autoencoder([128, 256, 512, 512], 2, 16),
    tokens=SpecialTokens(bos=151644, eos=151645, boi=151652, eoi=151653),
)
"""The released model's dimensions (bagel.md 1.2)."""
SMALL = BagelConfig(
    llm=LanguageConfig(1024, 512, 1536, 4, 8, 2),
    vit=VisionConfig(256, 512, 2, 4, patch_size=14, image_size=224),
    vae=AutoencoderConfig(downsample=1, z_channels=3),
    tokens=SpecialTokens(bos=0, eos=1, boi=2, eoi=3),
    latent_patch_size=8,
    max_latent_size=32,
    vit_max_num_patch_per_side=16,
)
"""Two experts of 12 million parameters each, on pixels."""
SIZES: dict[str, tuple[BagelConfig, int]] = {"small": (SMALL, 128), "7b": (SEVEN, 1024)}
"""Dimensions, and the side of the square images in pixels."""


def build(
    config: BagelConfig, side: int, device: torch.device, dtype: torch.dtype, attention: Attention | None = None
) -> BagelAdapter:
    """An adapter with random weights, made on the device in its dtype."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        model = Bagel(config, attention).eval()
    torch.set_default_dtype(torch.float32)
    for table in (model.latent_pos_embed, model.vit_pos_embed):  # made in float32, and held as a checkpoint holds them
        table.to(dtype)
    with device:
        autoencoder = build_autoencoder(config.vae)
    return BagelAdapter(model, autoencoder, Words(LONGEST_ANSWER), (side, side), preparation(config))


def main() -> None:
    parser = arguments(__doc__, "bagel", SIZES)
    parser.add_argument("--points", type=int, default=11, help="timesteps of a sampling; one less are model steps")
    options = parser.parse_args()
    device, (config, side) = torch.device(options.device), SIZES[options.size]
    dtype, sampling = dtype_on(device), Sampling(points=options.points)
    if options.memory:
        show_memory(
            lambda: weightless(config, dtype, (side, side), LONGEST_ANSWER, preparation(config)),
            options.device,
            options.images,
            sampling,
            Training(),
        )
        return
    heads = Heads(
        config.llm.num_attention_heads,
        config.llm.num_key_value_heads,
        config.llm.head_dim,
        str(dtype).removeprefix("torch."),
    )
    bench = Bench.on(options.device, options.attention, [heads])
    adapter, images = build(config, side, device, dtype, bench.attention), blank(side, options.images)
    found = bench.figures(
        adapter, sampling, Training(), images, list(adapter.encode(images)), lambda text: len(text.split())
    )
    drawn = options.images * (side // config.latent_stride) ** 2
    found["generate"]["tokens_per_second"] = drawn * (options.points - 1) / found["generate"]["seconds"]
    about = {
        "size": options.size,
        "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
        "side": side,
        "images": options.images,
        "points": options.points,
    }
    bench.write(about | found, options.output or Path(f"runs/bagel-{options.size}.json"))


if __name__ == "__main__":
    main()
