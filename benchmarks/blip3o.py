"""Speed and memory of a BLIP3o checkpoint: python benchmarks/blip3o.py --checkpoint /data/BLIP3o-Model-8B --device cuda

Generates, answers and trains (`srum` objective, scope prior, on the features that were drawn), and writes a JSON file
with the device's name: seconds, images/s, peak memory, and utilisation as benchmarks/bagel.py has it. Operations of the
pixel decoder's attention count where torch knows its kernel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from measure import kernel, matmul_rate, measured, name_of
from srum_blip3o.adapter import Blip3oAdapter
from srum_blip3o.options import AdapterOptions, Sampling, Training
from srum_blip3o.released import build, heads
from torch import Tensor

from srum_plugins.config import TrainSection
from srum_plugins.contracts import Decoding, GenerationRequest, Question, TrainBatch
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Weighted, WeightedOptions
from srum_plugins.stages import optimizers

TEXT = "a red circle left of a blue square"
ANSWER = Decoding(max_tokens=16)


def prepared(
    adapter: Blip3oAdapter, latents: list[Tensor], eight_bit: bool
) -> tuple[TrainBatch, torch.optim.Optimizer]:
    """A batch of what was drawn, and an optimizer of the prior."""
    settings = TrainSection(optimizer="adamw8bit" if eight_bit else "adamw", batch=len(latents), lr=1e-6)
    optimizer = optimizers.build(settings, adapter.start_training(Training(), base=False))
    grid = adapter.token_grid(*adapter.size)
    weights = torch.ones(len(latents) * grid[0] * grid[1], device=adapter.device)
    prompts = tuple(Prompt(str(number), TEXT) for number in range(len(latents)))
    return TrainBatch(prompts, (latents,), (weights,), (grid,) * len(latents)), optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2, help="images per call")
    parser.add_argument("--attention", default="auto", help="kernel, as in a config")
    parser.add_argument("--output", type=Path, help="JSON file (default: runs/blip3o.json)")
    options = parser.parse_args()
    device = torch.device(options.device)
    chosen = AdapterOptions(options.checkpoint, dtype="bfloat16" if device.type == "cuda" else "float32")
    dtype = getattr(torch, chosen.dtype)
    name, attention = kernel(options.attention, heads(chosen), device)
    adapter, reached = build(chosen, options.device, attention), matmul_rate(device, dtype)
    requests = [GenerationRequest(Prompt(str(seed), TEXT), seed) for seed in range(options.images)]
    drawn = adapter.generate(requests, Sampling())
    questions = [Question(one.image, "how many objects are there ?") for one in drawn]
    found = {
        "generate": measured(lambda: adapter.generate(requests, Sampling()), device, reached, attention=attention),
        "answer": measured(lambda: adapter.answer(questions, ANSWER), device, reached, attention=attention),
    }
    latents = [one.latents for one in drawn if one.latents is not None]
    batch, optimizer = prepared(adapter, latents, eight_bit=dtype == torch.bfloat16)
    objective = Weighted(WeightedOptions())

    def gradients() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective.loss(adapter, batch, adapter.draw(latents, torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def step() -> None:
        gradients()
        optimizer.step()

    found["train"] = measured(step, device, reached, counted=gradients, attention=attention)
    for figures in found.values():
        figures["images_per_second"] = options.images / figures["seconds"]
    report = {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": chosen.dtype,
        "attention": name,
        "parameters": sum(parameter.numel() for parameter in adapter.prior.parameters()),
        "side": adapter.size[0],
        "images": options.images,
        "matmul_teraflops": reached / 1e12,
        **found,
    }
    output = options.output or Path("runs/blip3o.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"{json.dumps(report, indent=1)}\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
