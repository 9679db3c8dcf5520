"""The dimensions of the Qwen2.5-VL in a BLIP3o folder, read by hand.

transformers' own loader takes the nested vision config for the whole one, because it does not know the model type, and
then builds a default model of 80 layers without a word (blip3o.md 7.1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLConfig

from srum_plugins.checkpoint_config import read_json
from srum_plugins.errors import CheckpointError

CONFIG = "config.json"
MODEL_TYPES = ("blip3o_qwen", "blip3o_qwen_inference")
"""As the training class and the inference class write it (blip3o.md 1.2)."""
POOLING = "early_pool2d_"
"""How a pooling is named; its stride follows (blip3o.md 2.2)."""
TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
FULL = "fullatt_block_indexes"
"""The layers of the vision tower that see a whole image and not one window."""
NESTED = "text_config"
"""Where later versions of the library write what is at the root of a BLIP3o's config."""

_TEXT = {
    "vocab_size": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "num_key_value_heads": int,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
    "rope_theta": float,
}
_VISION = {
    "depth": int,
    "hidden_size": int,
    "intermediate_size": int,
    "num_heads": int,
    "out_hidden_size": int,
    "patch_size": int,
    "spatial_merge_size": int,
    "temporal_patch_size": int,
    "window_size": int,
}
_TEXT_SAME = {"hidden_act": "silu", "use_sliding_window": False, "attention_dropout": 0.0}
_VISION_SAME = {"hidden_act": "silu", "in_chans": 3, "in_channels": 3}


@dataclass(frozen=True)
class Extras:
    """What BLIP3o adds to Qwen's config: how many query vectors read the prompt, the stride by which the 32 x 32 grid
    of the targets is pooled, and their channels."""

    n_query: int
    pool_stride: int
    gen_hidden_size: int


def language_config(folder: Path) -> Qwen2_5_VLConfig:
    """The config of the Qwen2.5-VL of a checkpoint folder (blip3o.md 1.2).

    Raises:
        CheckpointError: the file is missing or damaged, or a value is one that this model does not have.
    """
    file = folder / CONFIG
    data = _read(file)
    if NESTED in data:
        raise CheckpointError(
            f"{file} holds a {NESTED}, so a later library wrote it: take the release's, whose fields are at the root"
        )
    problems = _sizes(data, _TEXT, "") + _differences(data, _TEXT_SAME, "")
    if not isinstance(data.get("tie_word_embeddings", False), bool):
        problems.append(f"tie_word_embeddings must be true or false, got {data['tie_word_embeddings']!r}")
    vision = data.get("vision_config")
    if not isinstance(vision, dict) or "hidden_size" not in vision:
        raise CheckpointError(
            f"{file} holds no vision_config with a hidden_size: it is no BLIP3o of the Qwen2.5-VL kind"
        )
    # The library that wrote it left out what was its default, which is the same in the one that reads it.
    stated = {name: kind for name, kind in _VISION.items() if name in vision}
    problems += _sizes(vision, stated, "vision_config.") + _differences(vision, _VISION_SAME, "vision_config.")
    full = vision.get(FULL, [])
    if not (isinstance(full, list) and all(type(index) is int for index in full)):
        problems.append(f"vision_config.{FULL} must be a list of integers, got {full!r}")
    _refuse(file, problems)
    _refuse(file, _disagreements(data))
    # Only what is known: a field of another age of the library may mean something else to this one, or break it.
    kept = {name: data[name] for name in (*_TEXT, *TOKENS, "rope_scaling", "tie_word_embeddings") if name in data}
    tower = {name: vision[name] for name in (*stated, FULL, "tokens_per_second") if name in vision}
    config: Any = Qwen2_5_VLConfig(**kept, vision_config=tower)
    width, heads = config.vision_config.hidden_size, config.vision_config.num_heads
    problems = []
    if width % heads or width // heads % 4:
        problems.append(f"vision_config: {heads} heads must divide the width {width} into multiples of 4")
    depth, full = config.vision_config.depth, list(config.vision_config.fullatt_block_indexes)
    if not all(0 <= index < depth for index in full):
        problems.append(f"vision_config.{FULL} must be among its {depth} layers, got {full}")
    if config.vision_config.out_hidden_size != config.text_config.hidden_size:
        problems.append(
            f"vision_config.out_hidden_size is {config.vision_config.out_hidden_size}, and hidden_size "
            f"{config.text_config.hidden_size}: they must be equal"
        )
    _refuse(file, problems)
    return config


def read_extras(folder: Path) -> Extras:
    """BLIP3o's own values in a folder's config (blip3o.md 1.2).

    Raises:
        CheckpointError: the file is missing or damaged, or a value is missing or of another kind.
    """
    file = folder / CONFIG
    data = _read(file)
    problems = _sizes(data, {"n_query": int, "gen_hidden_size": int}, "")
    pooling = data.get("gen_pooling", "nothing")
    stride = pooling.removeprefix(POOLING) if isinstance(pooling, str) and pooling.startswith(POOLING) else ""
    if not (stride.isdecimal() and int(stride) > 0):
        problems.append(f"gen_pooling must be {POOLING} and a stride, got {pooling!r}")
    _refuse(file, problems)
    return Extras(data["n_query"], int(stride), data["gen_hidden_size"])


def _read(file: Path) -> dict[str, Any]:
    data = read_json(file, "it is no BLIP3o")
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds no mapping")
    if data.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{file} is of model_type {data.get('model_type')!r}, not {MODEL_TYPES[0]!r}: give a folder of "
            "BLIP3o 4B or 8B"
        )
    return data


def _sizes(data: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> list[str]:
    """What is no positive number of its kind."""
    wrong = []
    for name, kind in kinds.items():
        value = data.get(name, "nothing")
        numeric = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
        if not numeric or not value > 0:
            wrong.append(f"{where}{name} must be a positive {'number' if kind is float else 'integer'}, got {value!r}")
    return wrong


def _differences(data: Mapping[str, Any], same: Mapping[str, Any], where: str) -> list[str]:
    return [
        f"{where}{name} is {data[name]!r}, not {value!r}"
        for name, value in same.items()
        if name in data and data[name] != value
    ]


def _disagreements(data: Mapping[str, Any]) -> list[str]:
    """Sizes that do not fit one another."""
    heads, keys, width = (data[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if width % heads or heads % keys or width // heads % 2:
        return [f"{heads} attention heads must divide the width {width} into even parts, and {keys} key heads them"]
    rope = data.get("rope_scaling") or {}
    section = rope.get("mrope_section") if isinstance(rope, dict) else None
    half = width // heads // 2
    parts: list[Any] = section if isinstance(section, list) else []
    if len(parts) != 3 or not all(type(part) is int and part > 0 for part in parts) or sum(parts) != half:
        return [f"rope_scaling.mrope_section must be three parts of {half}, half a head, got {section!r}"]
    kinds = {rope[name] for name in ("type", "rope_type") if name in rope} - {"mrope", "default"}
    return [f"rope_scaling is of type {kinds.pop()!r}, not 'mrope'"] if kinds else []


def _refuse(file: Path, problems: list[str]) -> None:
    if problems:
        raise CheckpointError(f"{file} is not of a BLIP3o: {'; '.join(problems)}")
