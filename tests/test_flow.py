"""Draws and losses of flow models, for images of any sizes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srum_plugins.contracts import Prediction, ShowsVelocity
from srum_plugins.errors import ContractError
from srum_plugins.flow import FlowPrediction, noised, uniform_draws

SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4)


def latents_of(sizes: list[tuple[int, int]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


@given(SIZES, st.integers(0, 2**31))
def test_the_true_velocity_has_no_loss_and_leads_back_to_the_data(sizes: list[tuple[int, int]], seed: int) -> None:
    latents = latents_of(sizes, seed)
    draws = uniform_draws(latents, torch.Generator().manual_seed(seed))
    true = FlowPrediction([noise - clean for noise, clean in zip(draws.noise, latents, strict=True)], draws.noise)
    assert torch.equal(true.token_losses(latents), torch.zeros(sum(math.prod(size) for size in sizes)))
    for seen, time, velocity, clean in zip(noised(latents, draws), draws.timestep, true.velocity, latents, strict=True):
        torch.testing.assert_close(seen - time * velocity, clean, atol=1e-5, rtol=0)


@given(SIZES, st.integers(0, 2**31), st.floats(-3, 3))
def test_a_velocity_off_by_a_number_has_its_square_as_loss_and_distance(
    sizes: list[tuple[int, int]], seed: int, off: float
) -> None:
    latents = latents_of(sizes, seed)
    draws = uniform_draws(latents, torch.Generator().manual_seed(seed))
    true = [noise - clean for noise, clean in zip(draws.noise, latents, strict=True)]
    wrong = FlowPrediction([one + off for one in true], draws.noise)
    for given_ in (wrong.token_losses(latents), wrong.token_distance(FlowPrediction(true, draws.noise))):
        torch.testing.assert_close(given_, torch.full_like(given_, off**2), atol=1e-4, rtol=1e-4)


def test_tokens_are_row_major_and_one_image_after_the_other() -> None:
    first, second = torch.arange(6.0).reshape(1, 2, 3), 10 + torch.arange(2.0).reshape(1, 2, 1)
    shown = FlowPrediction([first, second], [torch.zeros_like(first), torch.zeros_like(second)])
    zeros = [torch.zeros_like(first), torch.zeros_like(second)]
    assert shown.token_losses(zeros).sqrt().tolist() == [0, 1, 2, 3, 4, 5, 10, 11]
    assert isinstance(shown, ShowsVelocity)
    assert shown.velocities().shape == (8, 1)


def test_the_losses_keep_the_gradient_and_the_velocities_do_not() -> None:
    velocity = torch.ones(2, 1, 1, requires_grad=True)
    shown = FlowPrediction([velocity], [torch.zeros(2, 1, 1)])
    shown.token_losses([torch.zeros(2, 1, 1)]).sum().backward()
    assert velocity.grad is not None
    assert not shown.velocities().requires_grad


def test_draws_come_from_their_generator_and_drop_as_many_as_asked() -> None:
    latents = latents_of([(2, 2)] * 2000, 0)
    one, again = (uniform_draws(latents, torch.Generator().manual_seed(5), 0.25) for _ in range(2))
    assert torch.equal(one.timestep, again.timestep) and torch.equal(one.drop, again.drop)
    assert all(torch.equal(a, b) for a, b in zip(one.noise, again.noise, strict=True))
    assert 0.2 < float(one.drop.float().mean()) < 0.3
    assert 0.0 <= float(one.timestep.min()) < 0.01 and 0.99 < float(one.timestep.max()) < 1.0
    assert not uniform_draws(latents, torch.Generator().manual_seed(5)).drop.any()


def test_a_prediction_of_another_kind_has_no_distance() -> None:
    class Other:
        def token_losses(self, latents: object) -> Tensor:
            return torch.zeros(1)

        def token_distance(self, other: Prediction) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(ContractError, match="no distance to a Other"):
        FlowPrediction([], []).token_distance(Other())
