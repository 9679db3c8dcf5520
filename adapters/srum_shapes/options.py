"""What users can set of the drawn world's model, its pretraining, prompt set and benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from srum_bagel.options import Sampling, Training

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
    renorm: Literal["global", "channel", "text_channel", "none"] = "none"


@dataclass(frozen=True)
class TrainingOptions(Training):
    """BAGEL's settings; a small model holds its activations."""

    checkpointing: bool = False


@dataclass(frozen=True)
class Phase:
    """What each step of a pretraining sees up to step ``until``.

    ``images`` pictures are asked about: for their ``inventory`` if wished, ``relations`` times about a relation where
    they have one, and about anything else up to ``questions``; ``lessons`` more scenes are what judges' and grounders'
    instructions are about. Without any images, the understanding half rests: it neither changes nor costs a backward
    pass. Of ``captions`` captioned pictures a share ``layouts`` is captioned by its
    inventory, always right; of the others a share ``noise`` is corrupted. ``aside`` captions are computed beside the
    questions, by the thread that would have less to do.
    """

    until: int
    captions: int
    images: int = 0
    questions: int = 0
    inventory: bool = True
    relations: int = 0
    lessons: int = 0
    layouts: float = 0.0
    noise: float = 0.0
    aside: int = 0

    def __post_init__(self) -> None:
        if min(self.until, self.captions - self.aside) < 1:
            raise ValueError(f"a phase needs steps, and captions that are not aside: {self}")
        if min(self.images, self.questions) < 0 or (self.images == 0) != (self.questions == 0):
            raise ValueError(f"a phase asks questions about images, or neither: {self}")
        if self.lessons < 0 or (self.lessons and not self.images):
            raise ValueError(f"a phase gives lessons beside questions about images: {self}")
        if not 0 <= self.relations <= self.questions or self.aside < 0:
            raise ValueError(f"a phase's relations or captions aside make no sense: {self}")
        if not (0.0 <= self.layouts <= 1.0 and 0.0 <= self.noise <= 1.0):
            raise ValueError(f"a phase's layouts and noise are shares in [0, 1]: {self}")


def shipped_phases() -> list[Phase]:
    """How the shipped checkpoint was trained: to see first, then mostly to draw, and at last from noisy captions."""
    return [
        Phase(until=1000, images=32, questions=4, captions=48, noise=0.45),
        Phase(
            until=2000,
            images=16,
            questions=6,
            captions=96,
            inventory=False,
            relations=2,
            layouts=0.5,
            noise=0.45,
            aside=32,
        ),
        Phase(until=3000, images=24, questions=4, captions=96, relations=2, layouts=0.4, noise=0.45, aside=28),
        Phase(until=4800, images=16, questions=4, captions=112, relations=2, layouts=0.05, aside=40),
        Phase(until=5650, images=16, questions=4, captions=112, relations=2, layouts=0.05, noise=0.45, aside=40),
        Phase(until=12500, captions=128, layouts=0.05),
        Phase(until=15000, captions=128, layouts=0.05, noise=0.35),
        Phase(until=17200, images=8, questions=4, captions=56, relations=2, lessons=8, layouts=0.05, noise=0.35),
    ]


@dataclass(frozen=True)
class Recipe:
    """Settings of a pretraining: the autoencoder, then the phases, then the decoder alone, which learns to draw crisply
    from latents with noise of any strength up to ``decoder_noise``, as generated ones have. Rates follow a linear
    warm-up and a linear decay to zero over the last part. ``compiled`` computes a step in about half the time where
    there is a C++ compiler: layers are compiled, and their matrix products are in bfloat16. ``threads`` are those of
    every operation; questions and captions are computed side by side with so many each."""

    seed: int = 0
    autoencoder_steps: int = 700
    autoencoder_batch: int = 32
    autoencoder_lr: float = 2e-3
    latent_noise: float = 0.15
    decoder_steps: int = 300
    decoder_noise: float = 0.5
    phases: list[Phase] = field(default_factory=shipped_phases)
    caption_dropout: float = 0.1
    muon_lr: float = 0.005
    adam_lr: float = 1e-3
    warmup: int = 100
    decay_share: float = 0.6
    checkpoint_every: int = 500
    compiled: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("seed", "compiled") else 1
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0.0 <= self.caption_dropout <= 1.0:
            raise ValueError(f"caption_dropout must lie in [0, 1], got {self.caption_dropout}")
        if not 0.0 < self.decay_share <= 1.0:
            raise ValueError(f"decay_share must lie in (0, 1], got {self.decay_share}")
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(set(ends)):
            raise ValueError(f"phases must end later and later, got {ends}")

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to; the last one goes on."""
        return next((phase for phase in self.phases if step < phase.until), self.phases[-1])


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
