"""Objectives: what training minimises, made of an adapter's per-token losses and the reward maps' token weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from srum_plugins.contracts import Draws, Example, Judged, ModelAdapter, Objective, Reward, TrainBatch
from srum_plugins.errors import ConfigError, ContractError, RewardError

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    from torch import Tensor

Rewarded = tuple[Judged, Reward]


@dataclass(frozen=True)
class WeightedOptions:
    """Options of the ``srum`` objective.

    ``lambda_c`` weighs the reference loss, ``anchor`` the prediction's distance to the frozen base model. ``reference``
    is the target of the reference loss: the sample itself, the best judged candidate of its prompt, or none.
    ``negative_weights`` says what happens to tokens with w < 0: ``refuse`` lets them be where the objective stays
    bounded and stops before training where it does not, ``saturate`` bounds their loss by ``tau``, ``zero`` drops them.
    """

    lambda_c: float = 0.5
    reference: Literal["self", "best", "none"] = "self"
    anchor: float = 0.0
    negative_weights: Literal["refuse", "saturate", "zero"] = "refuse"
    tau: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "lambda_c", "anchor")
        _check(self, "tau", positive=True)

    @property
    def needs_squared(self) -> str:
        """See :attr:`srum_plugins.providers.Provider.needs_squared`. Against another target or the base a squared error
        outgrows whatever pushes away; a cross-entropy need not."""
        if self.negative_weights == "refuse" and (self.reference == "best" or self.anchor > 0):
            return (
                "only for these do reference: best and an anchor make up for negative weights. Set negative_weights to "
                "saturate or zero, or reference to self or none with anchor 0"
            )
        return ""


class Weighted(Objective):
    """SRUM's objective, L = mean(w * loss_sample) + lambda_c * mean(loss_ref) + anchor * mean(distance to base).

    w are the token weights alpha * R. As in the paper and the release, both losses are of one prediction, made from
    the noised sample; the reference changes the target only. Means are over all tokens of the batch.

    With ``reference: self`` a token's terms are (w + lambda_c) * loss, bounded below only if w + lambda_c >= 0.
    With ``best`` and with an anchor they are, of flow models, squared errors whose sum has w + lambda_c + anchor as the
    coefficient of the squared velocity, which must then be positive. With ``none``, lambda_c counts as 0. ``saturate``
    takes tau * (1 - exp(-loss / tau)) in place of the loss where w < 0: the same slope at 0, at most tau, so that
    pushing away dies out once a sample has become unlikely.

    An example's roles are (sample, reference) with ``reference: best`` and (sample,) otherwise.
    """

    def __init__(self, options: WeightedOptions) -> None:
        self._options = options
        self.uses_base = options.anchor > 0

    def examples(self, items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Example]:
        """One example per candidate with a reward, in the order of the items.

        Raises:
            RewardError: a map would leave the objective unbounded below, or no candidate has a reward.
        """
        groups = _by_prompt(items, rewards)
        rewarded = _rewarded(items, rewards)
        if not rewarded:
            raise RewardError("no candidate has a reward: nothing to train on")
        self._refuse_unbounded([reward for _, reward in rewarded])
        examples = []
        for item, reward in rewarded:
            roles = [(item, reward)]
            if self._options.reference == "best":
                roles.append(_best(groups[item.prompt.id]))
            examples.append(_example(roles))
        return examples

    def loss(self, model: ModelAdapter, batch: TrainBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class. Metrics: ``loss``, ``sample_loss`` and ``reference_loss`` (unweighted means), ``weight`` (mean
        weight) and, with an anchor, ``anchor`` (mean distance to the base)."""
        o = self._options
        latents, weights = batch.latents[0], batch.weights[0]
        prediction = model.predict(batch.prompts, latents, draws)
        own = prediction.token_losses(latents)
        if own.shape != weights.shape:  # which broadcasting could hide
            raise ContractError(
                f"{type(model).__name__}: token losses of shape {tuple(own.shape)} for a batch whose token "
                f"weights have {tuple(weights.shape)}"
            )
        mean = batch.mean_of_tokens
        loss = mean(self._weigh(weights, own))
        metrics = {"sample_loss": mean(own), "weight": mean(weights)}
        if o.reference != "none":
            target = own if o.reference == "self" else prediction.token_losses(batch.latents[1])
            metrics["reference_loss"] = mean(target)
            loss = loss + o.lambda_c * metrics["reference_loss"]
        if o.anchor > 0:
            base = model.predict(batch.prompts, latents, draws, base=True)
            metrics["anchor"] = mean(prediction.token_distance(base))
            loss = loss + o.anchor * metrics["anchor"]
        return loss, {"loss": loss.detach(), **{name: value.detach() for name, value in metrics.items()}}

    def _weigh(self, weights: Tensor, losses: Tensor) -> Tensor:
        """The weighted loss of each token, with the rule for negative weights."""
        o = self._options
        if o.negative_weights == "zero":
            return weights.clamp(min=0) * losses
        if o.negative_weights == "saturate":
            bounded = -o.tau * (-losses / o.tau).expm1()
            return weights * bounded.where(weights < 0, losses)
        return weights * losses

    def _refuse_unbounded(self, rewards: Sequence[Reward]) -> None:
        o = self._options
        if o.negative_weights != "refuse":
            return
        held = (o.lambda_c if o.reference != "none" else 0.0) + o.anchor
        touching = o.reference == "self" and o.anchor == 0  # the terms share one loss, and may cancel exactly
        lows = [(reward.map.extremes()[0], reward.candidate_id) for reward in rewards]
        bad = [(low, name) for low, name in lows if low < 0 and not (low + held > 0 or (touching and low + held == 0))]
        if bad:
            low, name = min(bad)
            raise RewardError(
                f"{len(bad)} of {len(rewards)} reward maps would leave the objective unbounded below; the lowest "
                f"weight is {low:.4g}, of candidate {name}, and lambda_c + anchor make up for {held:.4g} only "
                f"(reference: {o.reference}). Set the objective's negative_weights to saturate or zero, "
                "or raise lambda_c, or use an aggregator without negative weights"
            )


@dataclass(frozen=True)
class PairedOptions:
    """Options of the ``paired`` objective.

    ``pairs`` are the best and worst candidate of a prompt (``extremes``) or every two candidates of a prompt (``all``);
    pairs whose scores differ by less than ``min_gap`` are left out, ties always. ``preference`` is the form of the
    first term (see :class:`Paired`); ``beta`` is the sharpness of the logistic one. ``anchor`` weighs the prediction's
    distance to the frozen base model.
    """

    pairs: Literal["extremes", "all"] = "extremes"
    preference: Literal["logistic", "linear"] = "logistic"
    beta: float = 100.0
    anchor: float = 0.2
    min_gap: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "anchor", "min_gap")
        _check(self, "beta", positive=True)
        if self.preference == "linear" and self.anchor <= LINEAR_ANCHOR:
            raise ConfigError(
                f"preference: linear needs an anchor above {LINEAR_ANCHOR:g}, got {self.anchor:g}: with less the "
                "objective is unbounded below, as the push away from losers outgrows what holds the model to its base"
            )

    @property
    def needs_squared(self) -> str:
        """See :attr:`srum_plugins.providers.Provider.needs_squared`."""
        if self.preference == "linear":
            return "only for these does an anchor hold what pushes away from losers. Set preference to logistic"
        return ""


LINEAR_ANCHOR = 2.0
"""At this anchor or below, ``paired`` with ``preference: linear`` is unbounded: the loser's loss has the weight -1 for
each pair, the distance to the base anchor / 2 for each of its two images."""


class Paired(Objective):
    """A better against a worse candidate of a prompt, after Diffusion-DPO (Wallace et al., arXiv 2311.12908). An
    extension of this project, not part of SRUM: the preference comes from the reward's score, the maps are not used.

        g = (l_loser - l_base_loser) - (l_winner - l_base_winner)
        L = P + anchor * d,   P = mean(-log sigmoid(beta * g)) (logistic) or -mean(g) (linear)

    l are an image's mean token losses, winner and loser under one timestep and one noise, which cancels what both have
    in common; d is the mean token distance to the base, of each image and then over both. An example's roles are
    (winner, loser).

    g of one noise draw says little about the model's preference: most of it is noise. The logistic form turns up pairs
    whose draw came out low and turns down the others; the linear form, that of a policy gradient with the sign of the
    score's difference as advantage, weighs all alike and leaves holding back to the anchor alone.
    """

    def __init__(self, options: PairedOptions) -> None:
        self._options = options

    def examples(self, items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Example]:
        """The pairs of each prompt whose candidates differ, in the order of the prompts; of one prompt in falling
        order of the winner's score, then of the loser's.

        Raises:
            RewardError: there is no pair at all, or the two images of a pair differ in size.
        """
        examples = []
        for group in _by_prompt(items, rewards).values():
            ranked = sorted(group, key=lambda pair: -pair[1].score)  # a stable sort: ties stay in order
            pairs = combinations(ranked, 2) if self._options.pairs == "all" else [(ranked[0], ranked[-1])]
            for winner, loser in pairs:
                gap = winner[1].score - loser[1].score
                if gap > 0 and gap >= self._options.min_gap:
                    examples.append(_example([winner, loser]))
        if not examples:
            raise RewardError(
                f"no prompt has two candidates whose scores differ (by min_gap = {self._options.min_gap:g} or more): "
                "the paired objective needs several candidates per prompt and an aggregator that ranks them"
            )
        return examples

    def loss(self, model: ModelAdapter, batch: TrainBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class. Metrics: ``loss``, ``preference`` (its first term), ``margin`` (mean of g, times beta if
        logistic), ``accuracy`` (share of pairs with g > 0), ``anchor`` (mean distance to the base), ``winner_loss`` and
        ``loser_loss``."""
        import torch

        o, mean = self._options, batch.mean_of_examples
        prompts = (*batch.prompts, *batch.prompts)
        latents = (*batch.latents[0], *batch.latents[1])
        both = Draws(draws.timestep.repeat(2), (*draws.noise, *draws.noise), draws.drop.repeat(2))
        prediction = model.predict(prompts, latents, both)
        base = model.predict(prompts, latents, both, base=True)

        def by_image(tokens: Tensor) -> tuple[Tensor, Tensor]:
            """The means over tokens (B,) of winners and of losers."""
            winners, losers = (torch.stack([one.mean() for one in batch.by_image(half)]) for half in tokens.chunk(2))
            return winners, losers

        winner, loser = by_image(prediction.token_losses(latents))
        base_winner, base_loser = (losses.detach() for losses in by_image(base.token_losses(latents)))
        margin = (loser - base_loser) - (winner - base_winner)
        if o.preference == "logistic":
            margin = o.beta * margin
            preference = -mean(torch.nn.functional.logsigmoid(margin))
        else:
            preference = -mean(margin)
        # By image, as the losses are: with images of several sizes a mean over tokens would not hold the small ones.
        near_winner, near_loser = by_image(prediction.token_distance(base))
        anchor = (mean(near_winner) + mean(near_loser)) / 2
        loss = preference + o.anchor * anchor
        metrics = {
            "loss": loss,
            "preference": preference,
            "margin": mean(margin),
            "accuracy": mean((margin > 0).float()),
            "anchor": anchor,
            "winner_loss": mean(winner),
            "loser_loss": mean(loser),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}


def _rewarded(items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Rewarded]:
    """The items that have a reward, with it."""
    pairs = [(item, reward) for item, reward in zip(items, rewards, strict=True) if reward is not None]
    for item, reward in pairs:
        if reward.candidate_id != item.candidate.id:
            raise ContractError(f"candidate {item.candidate.id} came with the reward of {reward.candidate_id}")
    return pairs


def _by_prompt(items: Sequence[Judged], rewards: Sequence[Reward | None]) -> dict[str, list[Rewarded]]:
    """The items with a reward by prompt, both in the order of the items."""
    groups: dict[str, list[Rewarded]] = {}
    for pair in _rewarded(items, rewards):
        groups.setdefault(pair[0].prompt.id, []).append(pair)
    return groups


def _best(group: Sequence[Rewarded]) -> Rewarded:
    """The candidate with the highest score; of several the first."""
    return max(group, key=lambda pair: pair[1].score)


def _example(roles: Sequence[Rewarded]) -> Example:
    sizes = {(reward.map.width, reward.map.height) for _, reward in roles}
    if len(sizes) > 1:
        names = " and ".join(item.candidate.id for item, _ in roles)
        raise RewardError(f"candidates {names} train together and must have one size, got {sorted(sizes)}")
    return Example(
        roles[0][0].prompt, tuple(item.candidate.id for item, _ in roles), tuple(reward.map for _, reward in roles)
    )


def _check(options: object, *names: str, positive: bool = False) -> None:
    """Refuse numbers that are not finite or below zero (with ``positive``: not above it)."""
    for name in names:
        value = getattr(options, name)
        if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
            raise ConfigError(f"{name} must be {'positive' if positive else 'zero or more'}, got {value}")
