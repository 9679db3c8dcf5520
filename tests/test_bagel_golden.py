"""Agreement with numbers measured on the original BAGEL code (float32, small random weights)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from srum_bagel.autoencoder import patchify
from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig
from srum_bagel.model import Bagel
from srum_bagel.options import Sampling
from srum_bagel.packing import Piece, PieceKind
from srum_bagel.sampler import sample, shifted
from srum_bagel.understanding import greedy

from srum_plugins.attention.dense import Dense
from srum_plugins.attention.flex import Flex
from srum_plugins.attention.sdpa import SDPA

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")

GOLDEN = Path(__file__).parent / "golden" / "bagel-tiny"
CASES = json.loads((GOLDEN / "cases.json").read_text())
CLOSE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="module", params=[Dense, SDPA, Flex])
def model(request: pytest.FixtureRequest) -> Bagel:
    """With every kernel that runs on a CPU, flex in its forward pass."""
    raw = json.loads((GOLDEN / "config.json").read_text())
    config = BagelConfig(
        llm=LanguageConfig(**raw["llm"]),
        vit=VisionConfig(**raw["vit"]),
        vae=AutoencoderConfig(downsample=raw["vae"]["downsample"], z_channels=raw["vae"]["z_channels"]),
        tokens=SpecialTokens(**raw["tokens"]),
        latent_patch_size=raw["latent_patch_size"],
        max_latent_size=raw["max_latent_size"],
        vit_max_num_patch_per_side=raw["vit_max_num_patch_per_side"],
        timestep_shift=raw["timestep_shift"],
    )
    bagel = Bagel(config, request.param()).eval()
    bagel.load_state_dict(load_file(GOLDEN / "ema.safetensors"), strict=True)
    return bagel.requires_grad_(False)


def test_position_tables_are_recomputed_exactly(model: Bagel) -> None:
    stored = load_file(GOLDEN / "ema.safetensors")
    fresh = Bagel(model.config)
    for name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"):
        torch.testing.assert_close(fresh.state_dict()[name], stored[name], atol=1e-6, rtol=0)


def test_training_velocity_and_losses(model: Bagel, tensors: dict[str, torch.Tensor]) -> None:
    case, patch = CASES["train"], model.config.latent_patch_size
    grids = case["grids"]
    tokens, reference, ids, weights = [], [], [], []
    for index, (height, width) in enumerate(grids):
        for source, target in (("latent", tokens), ("latent_ref", reference)):
            latent = tensors[f"train.{source}"][index : index + 1, :, : height * patch, : width * patch]
            target.append(patchify(latent, patch)[0])
        ids.append(model.latent_ids(height, width))
        pixels = tensors[f"train.reward_map.{index}"][None, None]
        weights.append(torch.nn.functional.interpolate(pixels, size=(height, width), mode="bilinear").flatten())
    clean, noise = torch.cat(tokens), tensors["train.noise"]
    timestep = shifted(torch.sigmoid(tensors["train.raw_timestep"]), model.config.timestep_shift)
    noisy = (1 - timestep)[:, None] * clean + timestep[:, None] * noise
    packed = model.pack(
        [
            [model.text(text), Piece(PieceKind.LATENT, count=height * width, noised=True)]
            for text, (height, width) in zip(case["texts"], grids, strict=True)
        ]
    )
    velocity = model.velocity(packed, noisy, timestep, torch.cat(ids))
    torch.testing.assert_close(velocity, tensors["train.velocity"], **CLOSE)
    plain = ((velocity - (noise - torch.cat(reference))) ** 2).mean()
    weighted = (torch.cat(weights)[:, None] * (velocity - (noise - clean)) ** 2).mean()
    torch.testing.assert_close(plain[None], tensors["train.loss_plain"], **CLOSE)
    torch.testing.assert_close((weighted + 0.5 * plain)[None], tensors["train.loss_reward"], **CLOSE)


@pytest.mark.parametrize("name", sorted(CASES["sampler"]))
def test_sampler(model: Bagel, tensors: dict[str, torch.Tensor], name: str) -> None:
    case = CASES["sampler"][name]
    stride = model.config.latent_stride
    height, width = case["size"]
    grid = (height // stride, width // stride)
    noise = tensors[f"sampler.{name}.init_noise"]
    pieces = [model.text(ids) for ids in (case["system"], case["prompt"], case["think"]) if ids]
    # Guidance drops the prompt and what follows from it: the system piece alone, or nothing.
    context = model.prefill([pieces], None)
    unconditional = model.prefill([pieces[:1] if case["system"] else []], None)
    # Image guidance drops images and the plan; without a plan that context is the full one.
    text_only = model.prefill([pieces[:-1]], None) if case["think"] else None
    sampling = Sampling(
        points=case["num_timesteps"],
        guidance=case["cfg_text_scale"],
        image_guidance=case["cfg_img_scale"],
        interval=tuple(case["cfg_interval"]),
        shift=case["timestep_shift"],
        renorm=case["cfg_renorm_type"],
        renorm_min=case["cfg_renorm_min"],
    )
    tokens = sample(model, context, unconditional, noise[None], grid, sampling, text_only)[0]
    torch.testing.assert_close(tokens, tensors[f"sampler.{name}.latent_tokens"], **CLOSE)


@pytest.mark.parametrize("name", sorted(CASES["und"]))
def test_understanding(model: Bagel, tensors: dict[str, torch.Tensor], name: str) -> None:
    case = CASES["und"][name]
    pixels = tensors[f"und.{name}.pixels"][None]
    vision = model.vision_tokens(pixels)
    pieces = [Piece(PieceKind.VISION, count=vision.shape[1]), model.text(case["question"])]
    context = model.prefill([pieces], vision.flatten(0, 1))
    logits, _ = model.next_logits(torch.tensor([model.config.tokens.bos]), context)
    torch.testing.assert_close(logits, tensors[f"und.{name}.first_logits"], **CLOSE)
    ids = [model.config.tokens.bos, *greedy(model, context, case["max_length"] - 1)[0]]
    assert ids == tensors[f"und.{name}.greedy"].tolist()
