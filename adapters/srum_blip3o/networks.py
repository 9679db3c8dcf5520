"""All networks of a BLIP3o by their dimensions alone, without a checkpoint: with random weights, or without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from srum_blip3o.attention import attention_heads, use_kernel
from srum_blip3o.decoder import DecoderConfig, PixelDecoder, new_decoder
from srum_blip3o.eva import EvaConfig, EvaTower
from srum_blip3o.images import PIXELS, vision_preparation
from srum_blip3o.prior import Prior, PriorConfig
from srum_blip3o.qwen import Qwen
from srum_blip3o.tokenizer import SpecialTokens, Tokenizer
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.errors import ContractError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Dimensions:
    """What fixes all shapes; without a ``tower`` no image can be encoded."""

    qwen: Qwen2_5_VLConfig
    prior: PriorConfig
    decoder: DecoderConfig
    tower: EvaConfig | None = None

    def heads(self, dtype: str) -> tuple[Heads, ...]:
        """The heads of every attention that a kernel computes: of the language model, of its eyes, and of the prior."""
        prior = self.prior
        return (
            *attention_heads(self.qwen, dtype),
            Heads(prior.heads, prior.heads, prior.channels // prior.heads, dtype),
        )


@dataclass(frozen=True)
class Networks:
    """The frozen networks; ``tower`` makes the EVA tower, None if there is none."""

    qwen: Qwen
    prior: Prior
    decoder: PixelDecoder
    tower: Callable[[], EvaTower] | None


class Words(Tokenizer):
    """Every word is one token, whichever it is."""

    def __init__(self) -> None:
        self.special = SpecialTokens(*range(7))

    def encode(self, text: str) -> list[int]:
        """As many ids as words."""
        return [7] * len(text.split())

    def decode(self, ids: Iterable[int]) -> str:
        """As many words as ids."""
        return " ".join("word" for _ in ids)


def new_networks(dimensions: Dimensions, device: torch.device, dtype: torch.dtype, kernel: Attention) -> Networks:
    """Networks with random weights of ``dtype``, made on the device; on torch's ``meta`` device without memory."""
    tower = None if dimensions.tower is None else partial(EvaTower, dimensions.tower)
    config = deepcopy(dimensions.qwen)  # the choice of a kernel is written into it
    model: Any = _made(lambda: Qwen2_5_VLForConditionalGeneration(config), device, dtype)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    use_kernel(model, kernel)
    return Networks(
        Qwen(model, Words(), vision_preparation(dimensions.qwen, PIXELS)),
        _made(lambda: Prior(dimensions.prior, kernel), device, dtype),
        _made(lambda: new_decoder(dimensions.decoder), device, dtype),
        None if tower is None else partial(_made, tower, device, dtype),
    )


def unsaved(prior: Prior, folder: Path) -> None:
    """What an adapter without a checkpoint does to save its prior.

    Raises:
        ContractError: always.
    """
    raise ContractError(f"cannot save to {folder}: this BLIP3o has no checkpoint whose layout could be followed")


def _made(make: Callable[[], Network], device: torch.device, dtype: torch.dtype) -> Network:
    """A network, in evaluation mode and frozen. It is made in its dtype: in another it would need room for both."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return make().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
