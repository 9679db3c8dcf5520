"""The aggregators and objectives that come with the core, as an ordinary plugin."""

from __future__ import annotations

from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_plugins.rewards import aggregators, objectives


@hookimpl
def srum_reward_aggregators() -> list[Provider]:
    """The paper's aggregator, the release's, and the controls."""
    return [
        Provider(
            "srum", "the paper's reward: alpha times signed local scores", aggregators.Srum, aggregators.SrumOptions
        ),
        Provider(
            "srum-release",
            "the published code's reward, bit for bit: scores floored at 0.5, bilinear token weights",
            aggregators.SrumRelease,
            aggregators.ReleaseOptions,
        ),
        Provider("uniform", "control: weight 1 everywhere", aggregators.Uniform, aggregators.CandidateOptions),
        Provider(
            "shuffled",
            "control: the rewards of srum, moved to other candidates",
            aggregators.Shuffled,
            aggregators.SrumOptions,
        ),
        Provider("global-only", "control: alpha everywhere", aggregators.GlobalOnly, aggregators.CandidateOptions),
        Provider("local-only", "control: local scores without alpha", aggregators.LocalOnly, aggregators.SrumOptions),
    ]


@hookimpl
def srum_objectives() -> list[Provider]:
    """SRUM's weighted objective, and pairs."""
    return [
        Provider(
            "srum",
            "SRUM's loss: reward-weighted, with a reference term",
            objectives.Weighted,
            objectives.WeightedOptions,
            needs_squared=lambda options: options.needs_squared,
        ),
        Provider(
            "paired",
            "better against worse candidates of a prompt (after Diffusion-DPO; an extension, not in the paper)",
            objectives.Paired,
            objectives.PairedOptions,
            needs_squared=lambda options: options.needs_squared,
        ),
    ]
