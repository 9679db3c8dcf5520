"""The monitors that come with the core, as an ordinary plugin."""

from __future__ import annotations

from typing import Any

from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.monitors import understanding
from srum_plugins.monitors.options import (
    GroundingOptions,
    HeldOutJudgeOptions,
    LatentsOptions,
    RewardHackingOptions,
    UnderstandingOptions,
)
from srum_plugins.providers import Kind, Provider


@hookimpl
def srum_monitors() -> list[Provider]:
    """What may go wrong in a training, one monitor each."""
    return [
        Provider(
            "reward-hacking",
            "the rise of the reference loss against that of the reward, from the metrics of training",
            _reward_hacking,
            RewardHackingOptions,
        ),
        Provider(
            "held-out-judge",
            "another judge against the run's judge, on images drawn afresh",
            _held_out_judge,
            HeldOutJudgeOptions,
            needs=lambda options: frozenset({Capability.GENERATE}),
            parts={"judge": Kind.JUDGE},
        ),
        Provider(
            "understanding",
            "a fixed question set, asked before, during and after training",
            _understanding,
            UnderstandingOptions,
            needs=lambda options: frozenset({Capability.CHOICE if options.ask == "choice" else Capability.ANSWER}),
            check=understanding.check,
            identity=understanding.identity,
        ),
        Provider(
            "latents",
            "predicted velocities and sampled latents against those before training",
            _latents,
            LatentsOptions,
            needs=lambda options: frozenset({Capability.GENERATE}) if options.images else frozenset(),
        ),
        Provider(
            "grounding",
            "how many regions there are, how many were filtered, and whether the model sees the same",
            _grounding,
            GroundingOptions,
            needs=lambda options: frozenset({Capability.LOCATE}) if options.native else frozenset(),
        ),
    ]


def _reward_hacking(options: RewardHackingOptions) -> Any:
    from srum_plugins.monitors.reward_hacking import RewardHacking

    return RewardHacking(options)


def _held_out_judge(options: HeldOutJudgeOptions) -> Any:
    from srum_plugins.monitors.held_out import HeldOutJudge

    return HeldOutJudge(options)


def _understanding(options: UnderstandingOptions) -> Any:
    return understanding.Understanding(options)


def _latents(options: LatentsOptions) -> Any:
    from srum_plugins.monitors.latents import Latents

    return Latents(options)


def _grounding(options: GroundingOptions) -> Any:
    from srum_plugins.monitors.grounding import GroundingMonitor

    return GroundingMonitor(options)
