"""A tiny checkpoint folder in the exact layout of the released BLIP3o: language model, tokenizer, prior, EVA tower and
pixel decoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from blip3o_parts import CHANNELS, SAVED_PREFIX, random_eva, write_decoder
from blip3o_qwen import QUERIES, WrittenQwen, add_weights, write_qwen
from srum_blip3o.eva import EvaConfig, EvaTower
from srum_blip3o.prior import Prior, PriorConfig
from srum_blip3o.prior_weights import released_name

TOWER = EvaConfig(image=64, patch=4, width=CHANNELS, depth=1, heads=16, mlp=24)


@dataclass(frozen=True)
class Written:
    """What is in the folder, in float32."""

    qwen: WrittenQwen
    prior: Prior
    tower: EvaTower


def write_blip3o(folder: Path, seed: int = 0, tower: bool = True, side: int = 4) -> Written:
    """Write the folder; ``tower`` says whether the checkpoint holds the EVA tower, as only some do. Images have 8 *
    ``side`` pixels a side."""
    qwen = write_qwen(folder, seed)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "gen_hidden_size": CHANNELS}))
    torch.manual_seed(seed)
    prior = Prior(PriorConfig(qwen.hidden, CHANNELS, layers=2, heads=2, queries=QUERIES)).eval()
    with torch.no_grad():
        for parameter in prior.parameters():  # a fresh Lumina does not listen to its condition
            parameter.copy_((parameter + 0.2 * torch.randn_like(parameter)).bfloat16())
    weights = {released_name(name): tensor.bfloat16() for name, tensor in prior.state_dict().items()}
    add_weights(folder, weights, "model-00003-of-00004.safetensors")
    eva = random_eva(TOWER, seed)
    if tower:
        named = {SAVED_PREFIX + name: tensor.bfloat16() for name, tensor in eva.state_dict().items()}
        add_weights(folder, named, "model-00004-of-00004.safetensors")
    write_decoder(folder / "diffusion-decoder", CHANNELS, seed, side=side)
    return Written(qwen, prior, eva)
