"""The weights of Qwen2.5-VL, taken strictly from shards that hold the other parts of BLIP3o too."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from srum_plugins.errors import CheckpointError
from srum_plugins.weights import load_weights, opened, refuse_misfits, shapes, weight_files

OTHERS = ("model.dit.", "model.latent_queries", "model.gen_vision_tower.", "model.vae.")
"""How the names begin of what belongs to other parts of BLIP3o, or to none (blip3o.md 1.4)."""
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def qwen_name(stored: str) -> str | None:
    """The name in transformers' model of a weight of a checkpoint; None if it belongs to another part of BLIP3o. A name
    that is not known is given back as it is (blip3o.md 1.4, 6)."""
    if stored.startswith(OTHERS):
        return None
    if stored.startswith("visual."):
        return f"model.{stored}"
    if stored.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
        return f"model.language_model.{stored.removeprefix('model.')}"
    return stored


def stored_name(name: str) -> str:
    """The name in a checkpoint of a weight of transformers' model: the inverse of :func:`qwen_name`."""
    for prefix in ("model.visual.", "model.language_model."):
        if name.startswith(prefix):
            return ("visual." if "visual" in prefix else "model.") + name.removeprefix(prefix)
    return name


def empty_qwen(config: Qwen2_5_VLConfig) -> Any:
    """transformers' ``Qwen2_5_VLForConditionalGeneration`` whose weights have no memory. The tables of its rotary
    embeddings, which no checkpoint holds, are real and in float32."""
    config = deepcopy(config)  # it holds the choice of attention, which another model of it must not change
    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    language, vision = model.model.language_model, model.model.visual
    language.rotary_emb = type(language.rotary_emb)(config.text_config)
    vision.rotary_pos_emb = type(vision.rotary_pos_emb)(config.vision_config)
    return model


def load_model(folder: Path, config: Qwen2_5_VLConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The frozen ``Qwen2_5_VLForConditionalGeneration`` of a folder, in evaluation mode on the device, with weights of
    ``dtype``. Nothing is loaded unless everything fits (blip3o.md 1.4).

    Raises:
        CheckpointError: a file is missing or damaged, or its weights do not fit the config: the first ten that do not,
            and their number.
    """
    files = weight_files(folder, "model")
    model = empty_qwen(config)
    found = {name: shape for name, shape in shapes(files).items() if qwen_name(name) is not None}
    expected = {stored_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:  # what is stored of the head counts for nothing, if it is the same
        del expected[HEAD]
        if found.pop(HEAD, None) is not None and EMBEDDINGS in found:
            _refuse_another_head(files)
    refuse_misfits(found, expected, folder)
    if config.tie_word_embeddings:
        load_weights(model.model, files, device, dtype, _inner_name)
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    else:
        load_weights(model, files, device, dtype, qwen_name)
    return model.to(device).eval().requires_grad_(False)


def _inner_name(stored: str) -> str | None:
    """:func:`qwen_name` within the model that lies under the text head, which has no weights of its own."""
    name = qwen_name(stored)
    return None if name is None or name == HEAD else name.removeprefix("model.")


def _refuse_another_head(files: Sequence[Path]) -> None:
    """A head that is stored although the config ties it must hold what the embeddings hold."""
    found: dict[str, Tensor] = {}
    for file in files:
        with opened(file) as handle:
            found |= {name: handle.get_tensor(name) for name in handle.keys() if name in (HEAD, EMBEDDINGS)}  # noqa: SIM118
    if not torch.equal(found[HEAD], found[EMBEDDINGS]):
        raise CheckpointError(
            f"{files[0].parent}: {HEAD} differs from {EMBEDDINGS}, although config.json says tie_word_embeddings: "
            "set it to false if the head is to be used"
        )
