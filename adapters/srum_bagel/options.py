"""Generation settings of BAGEL. Cheap to import: the plugin host reads it before anything heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal


@dataclass(frozen=True)
class Sampling:
    """Settings of one sampling. ``points`` timesteps make ``points - 1`` model steps.

    ``guidance`` 1 or less switches guidance off. It acts while ``interval[0] < t <= interval[1]`` of the shifted time.
    ``image_guidance`` above 1 guides once more, away from what the text alone would give; needs ``guidance`` above 1.
    ``renorm`` rescales the guided velocity to at most the norm of the conditional one: over the whole image
    (``global``), per token (``channel``), per token before image guidance acts (``text_channel``), or not at all
    (``none``); ``renorm_min`` bounds the factor from below.
    """

    points: int = 50
    guidance: float = 4.0
    image_guidance: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    shift: float = 3.0
    renorm: Literal["global", "channel", "text_channel", "none"] = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")
        if self.shift <= 0:
            raise ValueError(f"shift must be above 0, got {self.shift}")
        if not self.interval[0] <= self.interval[1]:
            raise ValueError(f"interval must be (low, high), got {self.interval}")
        if not 0.0 <= self.renorm_min <= 1.0:
            raise ValueError(f"renorm_min must lie in [0, 1], got {self.renorm_min}")


THINK_PROMPT = (
    "Before you draw, think about the picture that is asked for and plan it inside <think> </think>: what is in it, "
    "how many of each, what they look like and where they are. The picture is then made from your plan."
)
"""Our own words. The original's are to be given as ``think_prompt`` by who wants to repeat its published figures."""


@dataclass(frozen=True)
class Thinking(Sampling):
    """Settings of a model that can write a plan before it draws.

    With ``think`` it reads ``think_prompt`` and the prompt, answers greedily in at most ``think_tokens`` tokens, and
    draws from all three; guidance leaves out the prompt and the plan, and keeps ``think_prompt``.
    """

    think: bool = False
    think_prompt: str = THINK_PROMPT
    think_tokens: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.think_tokens < 1:
            raise ValueError(f"think_tokens must be at least 1, got {self.think_tokens}")


Scope = Literal["generation", "all"]

LORA_TARGETS: dict[Scope, str] = {
    "generation": r".*\.(q|k|v|o)_proj_moe_gen|.*\.mlp_moe_gen\.(gate|up|down)_proj",
    "all": r"language_model\.model\.layers\..*_proj(_moe_gen)?",
}
"""The layers of a scope: projections and feed-forward of the generation expert, or of both."""

PRESETS: dict[str, dict[str, Any]] = {
    "text-to-image": {},
    "edit": {"image_guidance": 2.0, "interval": (0.0, 1.0), "renorm": "text_channel"},
    "interleave": {"guidance": 3.0, "image_guidance": 1.5},
}
"""The original's settings by use, as far as they differ from the defaults (bagel.md 5.2)."""


@dataclass(frozen=True)
class Training:
    """What training moves, and what it holds.

    ``scope`` is the generation half (``generation``), or also the understanding expert that reads the prompt
    (``all``). With ``lora_rank`` above 0 the weights stay, and low-rank adapters of that rank beside the layers of the
    scope, scaled by ``lora_alpha`` / ``lora_rank``, are trained in float32. With ``checkpointing`` each layer's input
    alone is held for the backward pass, and the rest of it computed a second time.
    """

    scope: Scope = "generation"
    lora_rank: int = 0
    lora_alpha: float = 16.0
    checkpointing: bool = True

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 (none) or more, got {self.lora_rank}")
        if self.lora_rank and find_spec("peft") is None:
            raise ValueError("lora_rank needs peft, not installed: pip install 'srum-plugins[bagel]'")
        if not (self.lora_alpha > 0 and math.isfinite(self.lora_alpha)):
            raise ValueError(f"lora_alpha must be positive, got {self.lora_alpha}")


@dataclass(frozen=True)
class AdapterOptions:
    """Which released checkpoint, and how it is held.

    ``checkpoint`` is a folder, or a hub id with ``revision``, the commit that it is pinned to. ``weights`` chooses
    where a folder holds both ``ema`` and ``model`` weights. ``size`` (width, height) in pixels is that of images where
    a request names none. ``answer_tokens`` bounds open answers.
    """

    checkpoint: str
    revision: str | None = None
    weights: Literal["auto", "ema", "model"] = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    size: tuple[int, int] = (1024, 1024)
    answer_tokens: int = 512

    def __post_init__(self) -> None:
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens must be at least 1, got {self.answer_tokens}")
