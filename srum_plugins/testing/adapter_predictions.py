"""Checks of predictions: their losses and distances, and for flow models the velocity's sign, scale and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from srum_plugins.contracts import Capability, Draws, Prediction, ShowsVelocity
from srum_plugins.records import Prompt
from srum_plugins.testing.adapter_suite import AdapterSubject, AdapterSuite, near
from srum_plugins.testing.painted import painted
from srum_plugins.training.dataset import part

NEAR = 1e-4
"""By how much a loss may differ, relative to 1 and to itself, when sums are rounded in another order."""
ROUNDED = 0.02
"""By how much distances may differ, as a share of the largest, that are found by a gradient and by a difference."""
EARLY = (0.2, 0.4, 0.6)
"""Timesteps at which the image is still seen."""
MANY = 64
"""Draws in which some prompt is dropped, if any is."""
SHARE = 1e-4
"""What a prediction may still show of what it must not see, as a share of what it shows of what it must."""
TARGET = "the loss of a token is mean_c (v - (noise - x0))^2 over its channels, where x_t = (1 - t) x0 + t noise"
TIME = "noise latents as x_t = (1 - t) x0 + t noise: timestep 1 is pure noise"


def perfect(prediction: Prediction, latents: Sequence[Tensor]) -> list[Tensor]:
    """The clean latents that a flow prediction was right about, noise - v, by its losses alone.

    The loss of a token is mean_c (v - (noise - x0))^2, a parabola whose slope is 2 / n (v - noise + x0), of the n
    numbers of a token: a step of n / 2 against the slope leads to its lowest point from anywhere.

    Raises:
        RuntimeError: the losses have no gradient by the latents.
    """
    start = [one.detach().clone().requires_grad_() for one in latents]
    with torch.enable_grad():
        losses = prediction.token_losses(start)
        slopes = torch.autograd.grad(losses.sum(), start)
    half = sum(one.numel() for one in start) / len(losses) / 2
    return [(one - half * slope).detach() for one, slope in zip(start, slopes, strict=True)]


class PredictionChecks(AdapterSuite):
    """``predict``, ``token_losses``, ``token_distance`` and ``velocities``."""

    def test_losses_are_one_float32_for_each_token(self, adapter: AdapterSubject) -> None:
        """(T,), finite and not negative; images of several sizes may share a batch."""
        adapter.needs(Capability.TRAIN)
        _check_losses(adapter, adapter.latents, [adapter.size] * len(adapter.latents))
        if adapter.sizes and not adapter.cannot_encode:
            sizes = [adapter.size, *adapter.sizes]
            _check_losses(adapter, adapter.encoded([painted(size, 3) for size in sizes]), sizes)

    def test_a_prediction_does_not_depend_on_its_batch(self, adapter: AdapterSubject) -> None:
        """Whether its condition is dropped or not."""
        adapter.needs(Capability.TRAIN)
        latents, prompts = adapter.latents, _prompts(adapter)
        draws = adapter.draws(latents)
        draws = dataclasses.replace(draws, drop=torch.arange(2, device=draws.drop.device) == 1)
        with torch.no_grad():
            together = adapter.model.predict(prompts, latents, draws).token_losses(latents)
            alone = torch.cat(
                [
                    adapter.model.predict([prompts[i]], [latents[i]], part(draws, [i])).token_losses([latents[i]])
                    for i in range(2)
                ]
            )
        adapter.require(
            together.shape == alone.shape and near(together, alone, NEAR),
            "predict",
            "the losses of an image are others if it is alone in its batch",
            "let no image see another, and give losses one image after the other",
        )

    def test_the_prompt_is_heard(self, adapter: AdapterSubject) -> None:
        """Another prompt gives another prediction."""
        adapter.needs(Capability.TRAIN)
        latents = adapter.latents[:1]
        draws = adapter.draws(latents)
        with torch.no_grad():
            one, other = (adapter.model.predict([prompt], latents, draws) for prompt in _prompts(adapter))
            heard = float((one.token_losses(latents) - other.token_losses(latents)).abs().max())
        adapter.require(
            heard > 0,
            "predict",
            "two prompts give the same prediction",
            "condition on prompt.text. If the weights are random: layers that begin at zero hide it, so give the suite "
            "weights of which none is zero",
        )

    def test_prompts_are_dropped_where_the_draws_say_so(self, adapter: AdapterSubject) -> None:
        """``Draws.drop``, if the adapter draws any. What a dropped prompt leaves may still have its length."""
        adapter.needs(Capability.TRAIN)
        latents = adapter.latents[:1]
        if not bool(adapter.model.draw(latents * MANY, torch.Generator().manual_seed(0)).drop.any()):
            pytest.skip(f"the adapter drops no prompt in {MANY} draws")
        draws = adapter.draws(latents)
        dropped = dataclasses.replace(draws, drop=torch.ones_like(draws.drop))
        with torch.no_grad():
            one, other = (adapter.model.predict(_prompts(adapter)[:1], latents, each) for each in (draws, dropped))
            same = torch.equal(one.token_losses(latents), other.token_losses(latents))
        adapter.require(
            not same,
            "predict",
            "draws.drop, which the adapter draws, changes no prediction",
            "put what stands for no prompt in the prompt's place, as where images are drawn; or draw no drops",
        )

    def test_what_it_is_given_is_left_as_it_is(self, adapter: AdapterSubject) -> None:
        """Latents and draws are used again, for the base and by other terms of the loss."""
        adapter.needs(Capability.TRAIN)
        latents = [one.clone() for one in adapter.latents]
        draws = adapter.draws(latents, time=0.5)

        def given() -> list[Tensor]:
            return [*latents, *draws.noise, draws.timestep, draws.drop]

        before = [one.clone() for one in given()]
        prediction = adapter.model.predict(_prompts(adapter), latents, draws)
        for method, work in (
            ("predict", lambda: None),
            ("token_losses", lambda: prediction.token_losses(latents)),
            ("token_distance", lambda: prediction.token_distance(prediction)),
        ):
            work()
            adapter.require(
                all(torch.equal(one, other) for one, other in zip(before, given(), strict=True)),
                method,
                "changes the latents or the draws that it is given",
                "use no operation in place",
            )

    def test_latents_that_are_kept_can_be_trained_on(self, adapter: AdapterSubject) -> None:
        """``Generated.latents`` have the token grid of their image, and the losses that encoded ones have."""
        adapter.needs(Capability.TRAIN, Capability.GENERATE)
        kept = [(one.latents, one.image.size) for one in adapter.drawn if one.latents is not None]
        if not kept:
            pytest.skip("the adapter keeps no latents with its images")
        _check_losses(adapter, [one.to(adapter.device) for one, _ in kept], [size for _, size in kept])

    def test_the_distance_is_zero_to_itself_and_positive_to_others(self, adapter: AdapterSubject) -> None:
        """``token_distance``. That of squared errors is the same both ways; a divergence need not be."""
        adapter.needs(Capability.TRAIN)
        latents = adapter.latents
        draws = adapter.draws(latents)
        with torch.no_grad():
            first, second = _prompts(adapter)
            one = adapter.model.predict([first, second], latents, draws)
            other = adapter.model.predict([second, first], latents, draws)
            there, back, itself = one.token_distance(other), other.token_distance(one), one.token_distance(one)
            tokens = len(one.token_losses(latents))
        for distance in (there, itself):
            adapter.require(
                distance.shape == (tokens,) and distance.dtype == torch.float32,
                "token_distance",
                f"gives {distance.dtype} of shape {tuple(distance.shape)} for {tokens} tokens",
                "give one float32 a token",
            )
        adapter.require(
            float(itself.abs().max()) == 0,
            "token_distance",
            "a prediction has a distance to itself",
            "compare like with like",
        )
        adapter.require(
            float(there.min()) >= -NEAR and float(there.max()) > 0,
            "token_distance",
            "two predictions have no distance, or one below 0",
            "give a distance: for flow models mean_c (v - v')^2, for likelihoods a divergence",
        )
        adapter.require(
            not (self.flow or adapter.registered.provider.squared) or _alike(there, back),
            "token_distance",
            "two predictions are at other distances there and back, and the provider says that these are squared",
            "give mean_c (v - v')^2; where losses are no squared errors, say so by the provider's squared=False",
        )


class FlowChecks(AdapterSuite):
    """The velocity of flow models: x_t = (1 - t) x0 + t noise, and v = noise - x0."""

    def test_a_perfect_prediction_has_no_loss(self, adapter: AdapterSubject) -> None:
        """The scale of the loss: it falls to zero at noise - v, and rises from there as mean_c of a square."""
        prediction, _ = self._predicted(adapter, time=0.5)
        right = self._perfect(adapter, prediction)
        losses = prediction.token_losses(right)
        size = float(prediction.token_losses(adapter.latents).mean())
        adapter.require(
            float(losses.max()) <= NEAR * max(size, 1.0),
            "token_losses",
            f"where its slope says that the prediction is right the loss is {float(losses.max()):.3g}, and not 0",
            TARGET,
        )
        moved = prediction.token_losses([one + 0.5 for one in right])
        adapter.require(
            near(moved, torch.full_like(moved, 0.25), NEAR),
            "token_losses",
            f"latents that are 0.5 off in each channel cost {float(moved.mean()):.4g} a token, and not 0.25",
            TARGET,
        )

    def test_the_velocity_points_from_the_image_to_the_noise(self, adapter: AdapterSubject) -> None:
        """Its sign: what the prediction shows as v is noise - x0 where the loss is zero."""
        prediction, draws = self._predicted(adapter, time=0.5)
        if not isinstance(prediction, ShowsVelocity):
            pytest.skip("the prediction shows no velocities, so that their sign cannot be told from outside")
        shown = prediction.velocities()
        tokens = len(prediction.token_losses(adapter.latents))
        adapter.require(
            shown.dtype == torch.float32 and shown.ndim == 2 and len(shown) == tokens and not shown.requires_grad,
            "velocities",
            f"gives {shown.dtype} of shape {tuple(shown.shape)} for {tokens} tokens, or keeps a gradient",
            "give float32 (T, C) without gradient",
        )
        right = self._perfect(adapter, prediction)
        meant = [noise - clean for noise, clean in zip(draws.noise, right, strict=True)]
        # Tokens are patches of latents in an order that only the adapter knows: the same numbers, in any order.
        wanted = torch.cat([one.flatten() for one in meant]).sort().values
        found = shown.flatten().sort().values
        if found.shape == wanted.shape and near(found, wanted, NEAR):
            return
        turned = found.shape == wanted.shape and near(found, (-wanted).sort().values, NEAR)
        adapter.breach(
            "token_losses",
            "the loss is zero where x0 - noise is the velocity: its sign is wrong"
            if turned
            else "the loss is zero at latents that the shown velocities do not lead to",
            f"{TARGET}; v = noise - x0 points from the image to the noise",
        )

    def test_a_trained_model_is_right_about_its_own_images(self, adapter: AdapterSubject) -> None:
        """Its losses on what it draws are lower than those of the opposite velocity: the sign of what it predicts,
        which random weights cannot tell."""
        self._applies(adapter)
        adapter.needs(Capability.GENERATE)
        if not self.trained:
            pytest.skip("the suite does not say that the weights are trained (trained = True)")
        kept = [one.latents for one in adapter.drawn if one.latents is not None]
        latents = [one.to(adapter.device) for one in kept] or adapter.encoded([one.image for one in adapter.drawn])
        own, opposite = 0.0, 0.0
        for seed, time in enumerate(EARLY):
            draws = adapter.draws(latents, seed, time)
            # From latents 2 noise - x0 the loss of v is (v + noise - x0)^2: what -v costs from x0.
            turned = [2 * noise - clean for noise, clean in zip(draws.noise, latents, strict=True)]
            with torch.no_grad():
                prediction = adapter.model.predict(adapter.prompts, latents, draws)
                own += float(prediction.token_losses(latents).mean()) / len(EARLY)
                opposite += float(prediction.token_losses(turned).mean()) / len(EARLY)
        adapter.require(
            own < opposite,
            "predict",
            f"on images that the model drew the loss is {own:.3g}, and that of the opposite velocity {opposite:.3g}: "
            "the sign is wrong, or the weights are not trained",
            "predict v = noise - x0, which points from the image to the noise: generate, which goes from timestep 1 to "
            "0, adds it times a negative difference. While weights are random, leave out trained = True",
        )

    def test_the_distance_is_that_of_the_velocities(self, adapter: AdapterSubject) -> None:
        """mean_c (v - v')^2: what a prediction costs against latents that another is right about."""
        one, draws = self._predicted(adapter, time=0.5)
        with torch.no_grad():
            other = adapter.model.predict(_prompts(adapter)[::-1], adapter.latents[::-1], draws)
            distance = one.token_distance(other)
        cost = one.token_losses(self._perfect(adapter, other))
        adapter.require(
            _alike(distance, cost, ROUNDED),
            "token_distance",
            f"two velocities are {float(distance.mean()):.3g} apart, and by their losses {float(cost.mean()):.3g}",
            "give mean_c (v - v')^2 of each token, scaled and ordered as token_losses are",
        )
        if not isinstance(one, ShowsVelocity) or not isinstance(other, ShowsVelocity):
            return
        shown = (one.velocities() - other.velocities()).square().mean(dim=1)
        adapter.require(
            _alike(distance, shown, ROUNDED),
            "velocities",
            "rows are not those of the tokens of token_distance",
            "give a row a token, in the order of token_losses",
        )

    def test_at_timestep_one_the_image_is_gone_and_at_zero_the_noise(self, adapter: AdapterSubject) -> None:
        """The direction of time."""
        self._applies(adapter)
        for time, away in ((1.0, "latents"), (0.0, "noise")):
            seen = {what: self._seen(adapter, time, what) for what in ("latents", "noise")}
            kept = "noise" if away == "latents" else "latents"
            adapter.require(
                seen[away] <= SHARE * seen[kept],
                "predict",
                f"at timestep {time:g} the prediction depends on the {away}",
                TIME,
            )
            adapter.require(
                seen[kept] > 0,
                "predict",
                f"at timestep {time:g} the prediction does not depend on the {kept}",
                f"{TIME}. If the weights are random: layers that begin at zero hide it, so give the suite weights of "
                "which none is zero",
            )

    def test_the_noise_belongs_to_the_target(self, adapter: AdapterSubject) -> None:
        """At timestep 0 the velocity is the same for any noise, and what it is right about moves with the noise."""
        self._applies(adapter)
        latents = adapter.latents
        found = []
        for seed in (0, 1):
            draws = adapter.draws(latents, seed, time=0.0)
            with torch.no_grad():
                prediction = adapter.model.predict(_prompts(adapter), latents, draws)
            found.append((draws.noise, self._perfect(adapter, prediction)))
        (noise, right), (other_noise, other_right) = found
        for a, b, x, y in zip(noise, other_noise, right, other_right, strict=True):
            adapter.require(
                near(a - b, x - y, NEAR),
                "token_losses",
                "at timestep 0, where no noise is seen, other noise must move the latents of zero loss by as much as "
                "it differs, and does not: the noise of the target is not that of draws.noise, or timestep 0 is not "
                "the clean image",
                f"{TARGET}; timestep 1 is pure noise",
            )

    def _applies(self, adapter: AdapterSubject) -> None:
        adapter.needs(Capability.TRAIN)
        if not self.flow:
            pytest.skip("the suite says that this is no flow model (flow = False)")

    def _predicted(self, adapter: AdapterSubject, time: float) -> tuple[Prediction, Draws]:
        self._applies(adapter)
        draws = adapter.draws(adapter.latents, time=time)
        with torch.no_grad():
            return adapter.model.predict(_prompts(adapter), adapter.latents, draws), draws

    def _perfect(self, adapter: AdapterSubject, prediction: Prediction) -> list[Tensor]:
        try:
            return perfect(prediction, adapter.latents)
        except RuntimeError as error:
            adapter.breach(
                "token_losses",
                f"has no gradient by the latents that it is given: {error}",
                "compute it with torch, from the latents as they are. Models that are no flow say flow = False",
            )

    def _seen(self, adapter: AdapterSubject, time: float, what: str) -> float:
        """How far a prediction at a timestep moves with its latents, or with its noise."""
        latents, prompts = adapter.latents, _prompts(adapter)
        draws = adapter.draws(latents, time=time)
        others = latents[::-1] if what == "latents" else latents
        other_draws = dataclasses.replace(draws, noise=adapter.draws(latents, 1).noise) if what == "noise" else draws
        with torch.no_grad():
            one = adapter.model.predict(prompts, latents, draws)
            other = adapter.model.predict(prompts, others, other_draws)
            return float(one.token_distance(other).mean())


def _alike(one: Tensor, other: Tensor, share: float = NEAR) -> bool:
    """Whether numbers of tokens are the same, up to a share of the largest: they may all be small."""
    return bool((one - other).abs().max() <= share * torch.maximum(one.abs().max(), other.abs().max()))


def _check_losses(adapter: AdapterSubject, latents: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> None:
    grids = [adapter.model.token_grid(*size) for size in sizes]
    tokens = sum(height * width for height, width in grids)
    prompts = [adapter.prompts[i % len(adapter.prompts)] for i in range(len(latents))]
    with torch.no_grad():
        losses = adapter.model.predict(prompts, latents, adapter.draws(latents)).token_losses(latents)
    adapter.require(
        losses.shape == (tokens,) and losses.dtype == torch.float32,
        "token_losses",
        f"gives {losses.dtype} of shape {tuple(losses.shape)} for images whose token_grid is {grids}: {tokens} tokens",
        "give one float32 a token of all images, flat, one image after the other",
    )
    adapter.require(
        bool(torch.isfinite(losses).all()) and float(losses.min()) >= 0,
        "token_losses",
        f"gives losses between {float(losses.min()):.3g} and {float(losses.max()):.3g}",
        "losses are finite and not negative",
    )


def _prompts(adapter: AdapterSubject) -> list[Prompt]:
    return list(adapter.prompts[:2])
