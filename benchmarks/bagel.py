"""Speed and memory of BAGEL with random weights: python benchmarks/bagel.py --size small --device cpu

Generates, answers and trains (`srum` objective, scope generation, layers computed twice), and writes a JSON file with
the device's name: seconds, images/s, tokens/s (latent tokens times model steps, written words, latent tokens), peak
memory, and utilisation. That is the operations, recomputed layers included, by the time and by what a large matrix
product of the same dtype reaches on the same device. Operations are those that torch's FlopCounterMode counts, and the
transformer's attention, which it knows for some kernels only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from measure import kernel, matmul_rate, measured, name_of
from PIL import Image
from srum_bagel.adapter import BagelAdapter
from srum_bagel.autoencoder import build_autoencoder
from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig
from srum_bagel.memory import Words, weightless
from srum_bagel.model import Bagel
from srum_bagel.options import Sampling, Training
from srum_bagel.release import kl_autoencoder
from srum_bagel.released import preparation

from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.config import TrainSection
from srum_plugins.contracts import Capability, GenerationRequest, Question, TrainBatch
from srum_plugins.doctor_command import show
from srum_plugins.memory.estimate import estimate
from srum_plugins.memory.workload import Asking, Drawing, Learning, Workload
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Weighted, WeightedOptions
from srum_plugins.stages import optimizers

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
WORDS = 32
"""Tokens of every prompt and question."""
TEXT = " ".join(["word"] * WORDS)
LONGEST_ANSWER = 16
"""Tokens."""


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


def training(
    adapter: BagelAdapter, images: list[Image.Image], eight_bit: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """One optimizer step on these images, and its forward and backward alone, as functions."""
    parameters = adapter.start_training(Training(), base=False)
    optimizer = optimizers.build(settings(len(images), eight_bit), parameters)
    objective = Weighted(WeightedOptions())
    latents = adapter.encode(images)
    grid = adapter.token_grid(*images[0].size)
    weights = torch.ones(len(images) * grid[0] * grid[1], device=latents.device)
    prompts = tuple(Prompt(str(number), TEXT) for number in range(len(images)))
    batch = TrainBatch(prompts, (list(latents),), (weights,), (grid,) * len(images))

    def gradients() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective.loss(adapter, batch, adapter.draw(list(latents), torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def step() -> None:
        gradients()
        optimizer.step()

    return step, gradients


def workload(device: str, images: int, points: int, eight_bit: bool) -> Workload:
    """What this program asks of the model, for the estimate."""
    return Workload(
        device=device,
        words=WORDS,
        questions=1,
        drawing={"generate": Drawing(images, None, Sampling(points=points))},
        asking={"judge": Asking(images, None, frozenset({Capability.ANSWER}))},
        learning=Learning(settings(images, eight_bit), Training(), Weighted(WeightedOptions()), None),
    )


def settings(images: int, eight_bit: bool) -> TrainSection:
    return TrainSection(optimizer="adamw8bit" if eight_bit else "adamw", batch=images, lr=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2, help="images per call")
    parser.add_argument("--points", type=int, default=11, help="timesteps of a sampling; one less are model steps")
    parser.add_argument("--attention", default="auto", help="kernel, as in a config")
    parser.add_argument("--memory", action="store_true", help="only estimate memory, as srum doctor --memory does")
    parser.add_argument("--output", type=Path, help="JSON file (default: runs/bagel-SIZE.json)")
    options = parser.parse_args()
    device, (config, side) = torch.device(options.device), SIZES[options.size]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if options.memory:
        asked = workload(device.type, options.images, options.points, eight_bit=dtype == torch.bfloat16)
        found = estimate(lambda: weightless(config, dtype, (side, side), LONGEST_ANSWER, preparation(config)), asked)
        show(found, asked, options.device, as_json=False)
        return
    heads = Heads(
        config.llm.num_attention_heads,
        config.llm.num_key_value_heads,
        config.llm.head_dim,
        str(dtype).removeprefix("torch."),
    )
    chosen, attention = kernel(options.attention, [heads], device)
    adapter = build(config, side, device, dtype, attention)
    reached = matmul_rate(device, dtype)
    blank = [Image.new("RGB", (side, side), (count, 128, 64)) for count in range(options.images)]
    tokens = (side // config.latent_stride) ** 2
    requests = [GenerationRequest(Prompt(str(seed), TEXT), seed) for seed in range(options.images)]
    sampling = Sampling(points=options.points)
    questions = [Question(image, TEXT) for image in blank]
    found: dict[str, dict[str, float]] = {
        "generate": measured(lambda: adapter.generate(requests, sampling), device, reached, attention=attention),
        "answer": measured(lambda: adapter.answer(questions), device, reached, attention=attention),
    }
    step, gradients = training(adapter, blank, eight_bit=dtype == torch.bfloat16)
    found["train"] = measured(step, device, reached, counted=gradients, attention=attention)
    written = sum(len(answer.text.split()) for answer in adapter.answer(questions))
    drawn = options.images * tokens
    for name, count in (("generate", drawn * (options.points - 1)), ("answer", written), ("train", drawn)):
        figures = found[name]
        figures["images_per_second"] = options.images / figures["seconds"]
        figures["tokens_per_second"] = count / figures["seconds"]
    report = {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": heads.dtype,
        "attention": chosen,
        "size": options.size,
        "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
        "side": side,
        "images": options.images,
        "points": options.points,
        "matmul_teraflops": reached / 1e12,
        **found,
    }
    output = options.output or Path(f"runs/bagel-{options.size}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"{json.dumps(report, indent=1)}\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
