"""What users can set of the drawn world's model, its pretraining, prompt set and benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srum_bagel.options import Sampling

SHIPPED = Path(__file__).parent / "checkpoint"
"""The checkpoint that comes with the package."""

CATEGORIES = ("colour", "shape", "spatial", "numeracy", "complex")
"""The categories of prompts. Pretraining also sees ``single`` objects."""


@dataclass(frozen=True)
class AdapterOptions:
    """``checkpoint`` is a folder written by ``srum-shapes pretrain`` or by training; null is the shipped one."""

    checkpoint: str | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return SHIPPED if self.checkpoint is None else Path(self.checkpoint)


@dataclass(frozen=True)
class SamplingOptions(Sampling):
    """BAGEL's settings with the defaults of the small model."""

    points: int = 13
    guidance: float = 2.5
    interval: tuple[float, float] = (0.0, 1.0)
    shift: float = 2.0
    renorm: Literal["global", "channel", "none"] = "none"


@dataclass(frozen=True)
class Recipe:
    """Settings of a pretraining. Rates follow a linear warm-up and a linear decay to zero over the last part.

    The first ``turn`` steps see ``images`` pictures with an inventory and ``questions`` other questions each, beside
    ``captions`` captioned pictures: understanding comes fast. The steps after it see ``later_images`` pictures with
    ``later_questions`` questions, one in three about relations, and ``later_captions`` captioned pictures, of which a
    share ``layouts`` is captioned by its inventory. Other captions are corrupted in a share ``caption_noise``.
    """

    seed: int = 0
    autoencoder_steps: int = 700
    autoencoder_batch: int = 32
    autoencoder_lr: float = 2e-3
    latent_noise: float = 0.15
    steps: int = 3800
    turn: int = 1000
    images: int = 32
    questions: int = 4
    captions: int = 48
    later_images: int = 16
    later_questions: int = 6
    later_captions: int = 96
    layouts: float = 0.5
    caption_noise: float = 0.45
    caption_dropout: float = 0.1
    muon_lr: float = 0.005
    adam_lr: float = 1e-3
    warmup: int = 100
    decay_share: float = 0.6
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and name not in ("seed", "turn") and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0.0 < self.decay_share <= 1.0:
            raise ValueError(f"decay_share must lie in (0, 1], got {self.decay_share}")


@dataclass(frozen=True)
class PromptSetOptions:
    """``count`` different prompts of a split, spread over the categories as evenly as the number of captions allows."""

    count: int = 300
    seed: int = 0
    split: Literal["train", "validation"] = "train"
    categories: tuple[str, ...] = CATEGORIES

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


@dataclass(frozen=True)
class BenchmarkOptions:
    """``prompts_per_split`` prompts in-domain and out-of-domain each; ``questions`` in all on what the model
    understands, shared evenly by the kinds (0: none are asked)."""

    prompts_per_split: int = 480
    seed: int = 0
    questions: int = 400

    def __post_init__(self) -> None:
        if self.prompts_per_split < 1:
            raise ValueError(f"prompts_per_split must be at least 1, got {self.prompts_per_split}")
        if self.questions < 0:
            raise ValueError(f"questions must not be negative, got {self.questions}")
