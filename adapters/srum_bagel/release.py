"""The folder of a released BAGEL: read, checked, loaded, and written as it was found.

Configs are checked, and dimensions that no file states are taken from the tensors' shapes. Names and shapes: facts of
the released checkpoint, which the original code reads with ``strict=True`` too.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srum_bagel.autoencoder import KLAutoencoder
from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig
from srum_bagel.model import Bagel
from srum_plugins.attention.contract import Attention
from srum_plugins.checkpoint_config import read_json
from srum_plugins.errors import CheckpointError
from srum_plugins.weights import Choice, Shapes, load_weights, save_weights, shapes, weight_files

LANGUAGE, VISION, AUTOENCODER = "llm_config.json", "vit_config.json", "ae.safetensors"
TOWER = ("vit_model.", "connector.", "vit_pos_embed.")
"""How the names of the understanding tower's weights begin."""
UNUSED_LAYERS = 1
"""Layers of the tower's config that BAGEL leaves out: it reads the features before the last."""
SCALE, SHIFT = 0.3611, 0.1159
"""Of the FLUX autoencoder's latents."""
KEPT = (".json", ".txt", ".jinja", ".md")
"""Endings of the other files of a checkpoint, which a saved one keeps."""
GROUPS = 32
"""Of the autoencoder's group norms."""

_SAME = {
    LANGUAGE: {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "rope_scaling": None,
    },
    VISION: {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
}
"""What a config must say where it says anything of it."""


@dataclass(frozen=True)
class Release:
    """A checkpoint folder of which only configs and headers were read."""

    folder: Path
    config: BagelConfig
    weights: tuple[Path, ...]


def is_release(folder: Path) -> bool:
    """Whether a folder has the released layout."""
    return (folder / LANGUAGE).is_file()


def read_release(folder: Path, tokens: SpecialTokens, choice: Choice = "auto") -> Release:
    """Read the configs, and the headers of the weights. ``tokens`` come from the folder's tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, a value is one that BAGEL does not have, or sizes disagree.
    """
    weights = weight_files(folder, choice)
    stored = shapes(weights)
    language = language_config(folder)
    autoencoder = _autoencoder(shapes([folder / AUTOENCODER]), folder / AUTOENCODER)
    source = weights[0] if len(weights) == 1 else folder
    vision = _vision(_read(folder / VISION), folder / VISION)
    highest = max(vars(tokens).values())
    if highest >= language.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer's special token {highest} is beyond {LANGUAGE}'s vocab_size {language.vocab_size}"
        )
    width = _shape(stored, "vae2llm.weight", source)[1]
    config = BagelConfig(
        llm=language,
        vit=vision,
        vae=autoencoder,
        tokens=tokens,
        latent_patch_size=_root(width / autoencoder.z_channels, "vae2llm.weight", source),
        max_latent_size=_root(_shape(stored, "latent_pos_embed.pos_embed", source)[0], "latent_pos_embed", source),
        # A checkpoint without the tower lacks this table too; loading then says so in full.
        vit_max_num_patch_per_side=_root(
            stored.get("vit_pos_embed.pos_embed", (70 * 70,))[0], "vit_pos_embed.pos_embed", source
        ),
        timestep_shift=1.0,
    )
    return Release(folder, config, weights)


def diffusers_name(name: str, levels: int) -> str:
    """The name in diffusers' ``AutoencoderKL`` of a weight of the released autoencoder with so many levels."""
    name = re.sub(r"\.up\.(\d+)\.", lambda found: f".up_blocks.{levels - 1 - int(found[1])}.", name)
    for old, new in _NAMES:
        name = re.sub(old, new, name)
    return name


_NAMES = (
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def _read(file: Path) -> dict[str, Any]:
    data = read_json(file, "it is no released BAGEL")
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds no mapping")
    wrong = [
        f"{key} is {data[key]!r}, not {value!r}"
        for key, value in _SAME[file.name].items()
        if key in data and data[key] != value
    ]
    if wrong:
        raise CheckpointError(f"{file} is not of a BAGEL: {'; '.join(wrong)}")
    return data


def _numbers(data: Mapping[str, Any], file: Path, **kinds: type) -> dict[str, Any]:
    """The named values, each of its type."""
    wrong = []
    for name, kind in kinds.items():
        value = data.get(name, "nothing")
        numeric = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
        if not numeric or value <= 0:
            wrong.append(f"{name} must be a positive {'number' if kind is float else 'integer'}, got {value!r}")
    if wrong:
        raise CheckpointError(f"{file}: {'; '.join(wrong)}")
    return {name: kind(data[name]) for name, kind in kinds.items()}


def language_config(folder: Path) -> LanguageConfig:
    """The dimensions of the language model of a checkpoint folder.

    Raises:
        CheckpointError: the file is missing or damaged, or a value is one that BAGEL does not have.
    """
    file = folder / LANGUAGE
    data = _read(file)
    rope = data.get("rope_parameters") or {}
    merged = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "rope_theta": rope.get("rope_theta", 1e6), **data}
    config = LanguageConfig(
        **_numbers(
            merged,
            file,
            vocab_size=int,
            hidden_size=int,
            intermediate_size=int,
            num_hidden_layers=int,
            num_attention_heads=int,
            num_key_value_heads=int,
            max_position_embeddings=int,
            rms_norm_eps=float,
            rope_theta=float,
        )
    )
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    if config.hidden_size % heads or heads % keys:
        raise CheckpointError(
            f"{file}: {heads} attention heads must divide the width {config.hidden_size}, and {keys} key heads them"
        )
    return config


def _vision(data: dict[str, Any], file: Path) -> VisionConfig:
    merged = {"layer_norm_eps": 1e-6, **data}
    sizes = _numbers(
        merged,
        file,
        hidden_size=int,
        intermediate_size=int,
        num_hidden_layers=int,
        num_attention_heads=int,
        patch_size=int,
        image_size=int,
        layer_norm_eps=float,
    )
    sizes["num_hidden_layers"] -= UNUSED_LAYERS
    return VisionConfig(**sizes)


def _autoencoder(stored: Shapes, file: Path) -> AutoencoderConfig:
    """The dimensions of the released autoencoder's design."""
    channels: list[int] = []
    while (name := f"encoder.down.{len(channels)}.block.0.conv1.weight") in stored:
        channels.append(stored[name][0])
    blocks = sum(re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name) is not None for name in stored)
    if not channels:
        raise CheckpointError(f"{file} holds no autoencoder of BAGEL: encoder.down.0.block.0.conv1.weight is missing")
    return kl_autoencoder(channels, blocks, _shape(stored, "decoder.conv_in.weight", file)[1])


def kl_autoencoder(channels: list[int], blocks: int, z_channels: int) -> AutoencoderConfig:
    """The release's kind of autoencoder: channels by level, blocks by level, channels of a latent (bagel.md 4.3)."""
    return AutoencoderConfig(
        kind="kl",
        downsample=2 ** (len(channels) - 1),
        z_channels=z_channels,
        scale=SCALE,
        shift=SHIFT,
        arguments={
            "down_block_types": ["DownEncoderBlock2D"] * len(channels),
            "up_block_types": ["UpDecoderBlock2D"] * len(channels),
            "block_out_channels": channels,
            "layers_per_block": blocks,
            "norm_num_groups": GROUPS,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    )


def _shape(stored: Shapes, name: str, source: Path) -> tuple[int, ...]:
    if name not in stored or len(stored[name]) < 2:
        raise CheckpointError(f"{source} is no BAGEL: {name} is missing, or no matrix")
    return stored[name]


def _root(square: float, name: str, source: Path) -> int:
    root = math.isqrt(int(square))
    if root * root != square:
        raise CheckpointError(f"{source}: {name} is of {square} places, which is no square")
    return root


# --- the model -----------------------------------------------------------------------------------------------


def load_release(
    release: Release, device: torch.device, dtype: torch.dtype, attention: Attention | None = None
) -> tuple[Bagel, KLAutoencoder]:
    """The model with weights of ``dtype``, and its autoencoder in float32, in evaluation mode on the device. Weights
    go there one by one: the host never holds more than one of them beyond what it has mapped.

    Raises:
        CheckpointError: the weights do not fit the configs.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = Bagel(release.config, attention)
    load_weights(model, release.weights, device, dtype, tower=TOWER)
    autoencoder = KLAutoencoder(release.config.vae)
    levels = len(release.config.vae.arguments["block_out_channels"])
    load_weights(
        autoencoder.model, [release.folder / AUTOENCODER], device, rename=lambda name: diffusers_name(name, levels)
    )
    return model.to(device).eval(), autoencoder.to(device).eval()


def save_release(model: Bagel, release: Release, folder: Path) -> None:
    """Write a folder of the same layout, which the original code reads too: the model's weights under the name that
    they were read from, in their dtype, and everything else as it was. Each file is written aside and renamed.

    Raises:
        CheckpointError: a file cannot be written; what was there before is untouched.
    """
    name = "ema" if release.weights[0].name.startswith("ema") else "model"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(release.folder.iterdir()):
            if file.is_file() and (file.name == AUTOENCODER or file.suffix in KEPT) and "index" not in file.name:
                aside = folder / f"{file.name}.tmp"
                shutil.copyfile(file, aside)
                aside.replace(folder / file.name)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from error
    save_weights(model.state_dict(), folder / f"{name}.safetensors")
