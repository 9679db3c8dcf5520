"""What users can set of the monitors: how often they read, on how much, and from where on a figure is bad."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from srum_plugins.records import Level


@dataclass(frozen=True)
class Levels:
    """From where on a figure is worth a ``warning``, and from where on it ends training (``stop``); higher is worse.
    Null: never."""

    warning: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        for name in ("warning", "stop"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be zero or more and finite, or null, got {value}")
        if self.warning is not None and self.stop is not None and self.stop < self.warning:
            raise ValueError(f"stop must not lie below warning, got {self.stop} and {self.warning}")

    def of(self, value: float) -> Level:
        """The level that this value has reached."""
        if self.stop is not None and value >= self.stop:
            return "stop"
        return "warning" if self.warning is not None and value >= self.warning else "ok"


@dataclass(frozen=True)
class RewardHackingOptions:
    """``reference`` and ``reward`` name metrics of a training step (``-NAME``: its fall is a rise); null: those that
    come with the objective. Their means over the first ``window`` steps and the last are compared. ``rise`` is the
    relative rise of the reference: 1 is twice as much."""

    every: int = 5
    window: int = 10
    reference: str | None = None
    reward: str | None = None
    rise: Levels = Levels(0.5, 2.0)

    def __post_init__(self) -> None:
        _at_least_one(self, "every", "window")


@dataclass(frozen=True)
class HeldOutJudgeOptions:
    """``judge`` scores what the run's judge does not: a word, or a mapping with its options. ``images`` are drawn at
    each reading, for as many prompts and always from the same seeds. ``gap`` is how much more the run's judge gained on
    them than this one, in alpha."""

    judge: dict[str, Any]
    every: int = 10
    images: int = 32
    gap: Levels = Levels(0.05, 0.15)

    def __post_init__(self) -> None:
        _at_least_one(self, "every", "images")


@dataclass(frozen=True)
class UnderstandingOptions:
    """``path`` is a file or folder of questions (docs/monitors.md), null: the checks of the prompts, asked about the
    run's candidates; ``images`` the folder of the file's images, null: that of the file. Up to ``questions`` are asked,
    by the probabilities of their ``choice``s, or for an open ``answer`` whose first word counts.

    ``changed`` is the share of questions that are answered otherwise than before, ``shift`` the mean change of the
    log-probability of the answer before, in nats, ``drop`` the fall of the accuracy."""

    path: str | None = None
    images: str | None = None
    questions: int = 64
    ask: Literal["choice", "answer"] = "choice"
    every: int = 50
    changed: Levels = Levels(0.05, 0.3)
    shift: Levels = Levels(0.1, 1.0)
    drop: Levels = Levels(0.02, 0.1)

    def __post_init__(self) -> None:
        _at_least_one(self, "every", "questions")
        if self.path is None and self.images is not None:
            raise ValueError("images belong to a path of questions, which is not given")


@dataclass(frozen=True)
class LatentsOptions:
    """``examples`` of training are predicted at each reading, always under the same noise; ``images`` are drawn, always
    from the same seeds, and encoded (0: none, which costs next to nothing).

    ``norm`` is the relative change of the tokens' mean norm, ``distance`` how far the distribution of a channel has
    moved, in its standard deviations, ``outside`` the share of values outside the base's 99 % range, of which the base
    has 0.01."""

    every: int = 20
    examples: int = 16
    images: int = 0
    norm: Levels = Levels(0.25, 1.0)
    distance: Levels = Levels(0.25, 1.0)
    outside: Levels = Levels(0.05, 0.25)

    def __post_init__(self) -> None:
        _at_least_one(self, "every", "examples")
        if self.images < 0:
            raise ValueError(f"images must be zero or more, got {self.images}")


@dataclass(frozen=True)
class GroundingOptions:
    """``native`` candidates are grounded by the model itself too, to compare (0: none).

    ``empty`` is the share of candidates without a region, ``filtered`` the share of proposals that were dropped or kept
    as background, ``disagreement`` 1 - the mean IoU with the native boxes."""

    native: int = 0
    empty: Levels = Levels(0.3, 0.9)
    filtered: Levels = Levels(0.7, 0.99)
    disagreement: Levels = Levels(0.7, None)

    def __post_init__(self) -> None:
        if self.native < 0:
            raise ValueError(f"native must be zero or more, got {self.native}")


def _at_least_one(options: object, *names: str) -> None:
    for name in names:
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
