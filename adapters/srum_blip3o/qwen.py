"""Qwen2.5-VL as BLIP3o has it: its weights, its words and its eyes, read from one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids

from srum_blip3o.attention import use_kernel
from srum_blip3o.condition import condition
from srum_blip3o.images import PIXELS, Preparation, read_preparation
from srum_blip3o.loading import load_model
from srum_blip3o.qwen_config import CONFIG, language_config
from srum_blip3o.tokenizer import Tokenizer
from srum_plugins.attention.contract import Attention
from srum_plugins.errors import CheckpointError


@dataclass(frozen=True)
class Qwen:
    """The frozen half of BLIP3o. ``model`` is transformers' ``Qwen2_5_VLForConditionalGeneration``."""

    model: Any
    tokenizer: Tokenizer
    preparation: Preparation

    @property
    def language(self) -> Any:
        """The decoder, asked directly: the model around it remembers positions of what it generated last
        (blip3o.md 7.1.8)."""
        return self.model.model.language_model

    @property
    def width(self) -> int:
        """H, the width of the language model."""
        width: int = self.model.config.text_config.hidden_size
        return width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.language.embed_tokens.weight.device
        return device

    def condition(self, texts: Sequence[str], queries: Tensor, checkpointing: bool = False) -> Tensor:
        """Conditions (B, Q, H) of captions, read by queries (1, Q, H) in the chat that asks for an image. See
        :func:`srum_blip3o.condition.condition`."""
        return condition(self.language, [self.tokenizer.drawing(text) for text in texts], queries, checkpointing)

    def bare_condition(self, texts: Sequence[str], queries: Tensor) -> Tensor:
        """The same of texts without a chat: that of one space is what the pixel decoder is guided away from
        (blip3o.md 4.3)."""
        return condition(self.language, [self.tokenizer.bare(text) for text in texts], queries)

    @torch.no_grad()
    def see(self, pixels: Tensor, grids: Tensor) -> list[Tensor]:
        """Image tokens (N, H) of each prepared image: see :class:`srum_blip3o.images.Prepared`. Both are taken from the
        host."""
        visual = self.model.model.visual
        weight, merge = visual.patch_embed.proj.weight, visual.spatial_merge_size
        # The tower lays out its windows by the grids' values, which would be read back from the device image by image.
        places = get_vision_position_ids(grids, merge).to(weight.device)
        seen = visual(pixels.to(weight.device, weight.dtype), grid_thw=grids, position_ids=places).pooler_output
        counts = (grids.prod(dim=1) // merge**2).tolist()
        return list(seen.split(counts))


def load_qwen(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    pixels: tuple[int, int] = PIXELS,
    kernel: Attention | None = None,
    tokenizer_folder: Path | None = None,
) -> Qwen:
    """The Qwen2.5-VL of a checkpoint folder, frozen. ``pixels`` are the fewest and the most of an image as it is seen;
    ``kernel`` computes all attention, transformers' own choice if there is none. ``tokenizer_folder`` is where
    Qwen2.5-VL's own tokenizer is, for a checkpoint without one.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the others.
    """
    config: Any = language_config(folder)
    tokenizer = Tokenizer(tokenizer_folder or folder, config.text_config.vocab_size if tokenizer_folder else None)
    special = tokenizer.special
    if max(vars(special).values()) >= config.text_config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer's token {max(vars(special).values())} is beyond {CONFIG}'s vocab_size "
            f"{config.text_config.vocab_size}"
        )
    if special.image != config.image_token_id:
        raise CheckpointError(
            f"{folder}: {CONFIG} has image_token_id {config.image_token_id}, and the tokenizer {special.image}"
        )
    preparation = read_preparation(folder, config, pixels)
    model = load_model(folder, config, device, dtype)
    if kernel is not None:
        use_kernel(model, kernel)
    return Qwen(model, tokenizer, preparation)
