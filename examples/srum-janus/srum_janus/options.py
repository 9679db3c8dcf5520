"""Settings of Janus. Cheap to import: the plugin host reads it before anything heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from srum_plugins.hub import folder_identity


@dataclass(frozen=True)
class AdapterOptions:
    """Which released checkpoint, and how it is held.

    ``checkpoint`` is a folder in the layout of transformers, or a hub id with ``revision``, the commit that it is
    pinned to. ``dtype`` is that of the language model and the vision tower; what draws beside them is held in float32.
    ``answer_tokens`` bounds open answers.
    """

    checkpoint: str
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    answer_tokens: int = 256

    def __post_init__(self) -> None:
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens must be at least 1, got {self.answer_tokens}")

    @property
    def identity(self) -> str:
        """What tells this checkpoint from others, without reading weights."""
        return folder_identity(self.checkpoint, self.revision)


@dataclass(frozen=True)
class Sampling:
    """How image tokens are drawn: from logits u + ``guidance`` (c - u), c with the prompt and u without, divided by
    ``temperature`` (0: the likeliest token), among the likeliest that together have the probability ``top_p``. A
    guidance of 1 is none. The defaults are those of the release."""

    guidance: float = 5.0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be finite, got {self.guidance}")
        if not (self.temperature >= 0.0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 or more, and finite, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


@dataclass(frozen=True)
class Training:
    """What training moves. Understanding never moves: it reads the language model without adapters.

    ``scope`` is the ``head`` alone, which needs no gradient through the language model, or all of ``generation``: head,
    embeddings and aligner of image tokens. With ``lora_rank`` above 0 low-rank adapters, scaled by ``lora_alpha`` /
    ``lora_rank``, lie beside the language model's layers too; they work only while it draws.
    """

    scope: Literal["generation", "head"] = "generation"
    lora_rank: int = 0
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 (none) or more, got {self.lora_rank}")
        if not (self.lora_alpha > 0 and math.isfinite(self.lora_alpha)):
            raise ValueError(f"lora_alpha must be positive, got {self.lora_alpha}")
