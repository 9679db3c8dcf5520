"""Settings of BLIP3o. Cheap to import: the plugin host reads it before anything heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from srum_plugins.hub import file_identity, folder_identity

Scope = Literal["prior", "prior+queries"]

LORA_TARGETS = r"dit\.layers\.\d+\.(attn[12]\.to_[qkv]|attn2\.to_out\.0|feed_forward\.linear_[123])"
"""Of the prior: the projections of both attentions, which share one for their output, and the feed-forward."""


@dataclass(frozen=True)
class AdapterOptions:
    """Which released checkpoint, and how it is held.

    ``checkpoint`` is a folder, or a hub id with ``revision``, the commit that it is pinned to. ``tower`` is a
    safetensors file of the EVA tower, for checkpoints that hold none; only ``train.latents=encoded`` asks for it.
    ``tokenizer`` is a folder with the tokenizer files of Qwen2.5-VL, for checkpoints without their own.
    ``answer_tokens`` bounds open answers.
    """

    checkpoint: str
    revision: str | None = None
    tower: str | None = None
    tokenizer: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    answer_tokens: int = 512

    def __post_init__(self) -> None:
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens must be at least 1, got {self.answer_tokens}")

    @property
    def identity(self) -> str:
        """What tells these files from others, without reading weights."""
        parts = [folder_identity(self.checkpoint, self.revision)]
        parts += [folder_identity(self.tokenizer, None)] if self.tokenizer else []
        parts += [file_identity(Path(self.tower).expanduser())] if self.tower else []
        return " ".join(parts)


@dataclass(frozen=True)
class Sampling:
    """Settings of one sampling: the prior draws features in ``prior_steps`` with ``prior_guidance``, the pixel decoder
    an image of them in ``steps`` with ``guidance``. A guidance of 1 is none (blip3o.md 4). ``think`` is what other
    models can: BLIP3o draws from the prompt alone."""

    prior_steps: int = 30
    prior_guidance: float = 3.0
    steps: int = 50
    guidance: float = 3.0
    think: bool = False

    def __post_init__(self) -> None:
        if self.think:
            raise ValueError("think must be false: BLIP3o draws from the prompt alone and writes no plan before")
        for name in ("prior_steps", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("prior_guidance", "guidance"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")


@dataclass(frozen=True)
class Training:
    """What training moves, and what it holds.

    ``scope`` is the prior, or also the queries that read the prompt (``prior+queries``); without them a prompt is read
    once for the whole training. With ``lora_rank`` above 0 the weights stay, and low-rank adapters of that rank beside
    the prior's layers, scaled by ``lora_alpha`` / ``lora_rank``, are trained in float32. With ``checkpointing`` each
    layer of the prior, and of the language model where gradients go through it, holds its input alone for the backward
    pass, and computes the rest a second time.
    """

    scope: Scope = "prior"
    lora_rank: int = 0
    lora_alpha: float = 16.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 (none) or more, got {self.lora_rank}")
        if self.lora_rank and self.scope != "prior":
            raise ValueError("lora_rank is for scope: prior; the queries are no layer")
        if self.lora_rank and find_spec("peft") is None:
            raise ValueError("lora_rank needs peft, not installed: pip install 'srum-plugins[blip3o]'")
        if not (self.lora_alpha > 0 and math.isfinite(self.lora_alpha)):
            raise ValueError(f"lora_alpha must be positive, got {self.lora_alpha}")
