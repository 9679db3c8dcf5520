"""A released Janus folder in the layout of transformers: refused before loading if its parts do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import JanusConfig, JanusForConditionalGeneration
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from srum_janus.adapter import DRAWING, JanusAdapter
from srum_janus.chat import Chat
from srum_janus.image_tokens import ImageTokens
from srum_janus.options import AdapterOptions
from srum_janus.place import config_data
from srum_plugins.checkpoint_config import read_json
from srum_plugins.errors import CheckpointError
from srum_plugins.hub import local_folder
from srum_plugins.weights import refuse_misfits, shapes, weight_files

TIED = "lm_head.weight"
FLOAT32 = (*DRAWING, "model.vqmodel.")
"""What is held in float32 whatever the rest is: it is small, and training moves a part of it."""


def build(options: AdapterOptions, device: str) -> JanusAdapter:
    """Load the checkpoint. What its small files and headers tell is checked before any weight is read.

    Raises:
        CheckpointError: the folder holds no Janus, or a damaged one.
        ConfigError: ``checkpoint`` is no place.
    """
    folder = local_folder(options.checkpoint, options.revision)
    config = read_config(folder)
    chat = Chat(folder, config.text_config.vocab_size)
    processor = read_processor(folder, config.vision_config.image_size)
    refuse_other_weights(folder, config)
    model = JanusForConditionalGeneration.from_pretrained(
        folder, config=config, dtype="auto", local_files_only=True, use_safetensors=True
    )
    for name, parameter in model.named_parameters():  # not Module.to, which would round the tables of the positions too
        parameter.data = parameter.data.to(torch.float32 if name.startswith(FLOAT32) else getattr(torch, options.dtype))
    return JanusAdapter(ImageTokens(model.to(device).eval()), chat, processor, options.answer_tokens)


def read_config(folder: Path) -> Any:
    """transformers' config of a folder.

    Raises:
        CheckpointError: the file is missing or damaged, or is of no Janus that this adapter can use.
    """
    file, data = folder / "config.json", config_data(folder)
    try:
        config: Any = JanusConfig.from_dict(data)
    except Exception as error:  # transformers checks fields with errors of several kinds
        raise CheckpointError(f"{file} is no config of a Janus: {error}") from error
    vision, vq, width = config.vision_config, config.vq_config, config.text_config.hidden_size
    sizes = {
        "vision_config.projection_dim": (vision.projection_dim, width),
        "vq_config.projection_dim": (vq.projection_dim, width),
        "vq_config.image_token_embed_dim": (vq.image_token_embed_dim, width),
        "vision_config.num_image_tokens": (vision.num_image_tokens, vq.num_patches**2),
    }
    if wrong := [f"{name} is {told}, expected {needed}" for name, (told, needed) in sizes.items() if told != needed]:
        raise CheckpointError(f"{file}: the parts do not fit one another: {'; '.join(wrong)}")
    return config


def read_processor(folder: Path, side: int) -> Any:
    """How images are prepared for the vision tower, which sees ``side`` pixels a side.

    Raises:
        CheckpointError: the file is missing or damaged, or prepares images of another size.
    """
    file = folder / "preprocessor_config.json"
    read_json(file, "how images are prepared is not known")
    try:
        processor: Any = JanusImageProcessorPil.from_pretrained(folder, local_files_only=True)
        told = (processor.size["height"], processor.size["width"])
    except Exception as error:  # as above
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if told != (side, side):
        raise CheckpointError(f"{file} prepares images of {told[0]} x {told[1]}, and the vision tower sees {side}")
    return processor


def refuse_other_weights(folder: Path, config: Any) -> None:
    """Compare the headers of the weights with the config; nothing else of them is read.

    Raises:
        CheckpointError: there are none, or they are pickled or damaged, or do not fit.
    """
    with torch.device("meta"):
        empty = JanusForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    found = shapes(weight_files(folder, "model"))
    if config.tie_word_embeddings and TIED not in found:
        del expected[TIED]
    refuse_misfits(found, expected, folder)
