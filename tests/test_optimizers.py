"""Optimizers: bfloat16 weights move as they should, and state goes to disk and back to the bit."""

from __future__ import annotations

import pytest
import torch

from srum_plugins.config import TrainSection
from srum_plugins.training.optimizers import build, restore_state, set_rate, state_tensors


def step(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], seed: int) -> None:
    """One step with gradients near 1; the seed is that of the gradients and of the rounding."""
    torch.manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter) + 0.1 * torch.randn_like(parameter)
    optimizer.step()


def weights(dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    """One whose moments torchao keeps in 8 bits, and one that is too small for that."""
    shapes = {"large": (64, 64), "small": (10,)}
    return {name: torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for name, shape in shapes.items()}


def resumes_to_the_bit(settings: TrainSection, dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    """Three steps and two more, the two also from a copy of the state; returns the parameters."""
    parameters = weights(dtype)
    optimizer = build(settings, parameters)
    for seed in range(3):
        step(optimizer, parameters, seed)
    tensors = {name: value.clone() for name, value in state_tensors(optimizer, parameters).items()}
    others = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    other = build(settings, others)
    restore_state(other, others, tensors)
    for seed in (3, 4):
        for one, its in ((optimizer, parameters), (other, others)):
            set_rate(one, settings.lr * seed)
            step(one, its, seed)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, others[name])
    assert state_tensors(optimizer, parameters).keys() == tensors.keys()
    return parameters


def test_adamw_resumes_to_the_bit() -> None:
    moved = resumes_to_the_bit(TrainSection(lr=1e-3), torch.float32)
    for parameter in moved.values():
        assert parameter.mean().item() == pytest.approx(1.0 - 1e-3 * (1 + 1 + 1 + 3 + 4), abs=1e-4)


def test_a_parameter_without_a_gradient_has_no_state() -> None:
    parameters = weights(torch.float32)
    optimizer = build(TrainSection(), parameters)
    parameters["small"].grad = torch.ones(10)
    optimizer.step()
    tensors = state_tensors(optimizer, parameters)
    assert sorted(tensors) == ["exp_avg/small", "exp_avg_sq/small", "step/small"]
    restore_state(optimizer, parameters, tensors)


@pytest.mark.slow  # torchao compiles its step: a C++ compiler, and up to a minute
def test_eight_bits_move_bfloat16_weights_and_resume_to_the_bit() -> None:
    pytest.importorskip("torchao")
    settings = TrainSection(optimizer="adamw8bit", lr=1e-5)
    moved = resumes_to_the_bit(settings, torch.bfloat16)["large"].float()
    # Single weights jump by 1/256 or stay, some jump twice; the mean moves by what was meant.
    assert set(((1.0 - moved) * 256).unique().tolist()) <= {0.0, 1.0, 2.0}
    assert moved.mean().item() == pytest.approx(1.0 - 1e-5 * (1 + 1 + 1 + 3 + 4), abs=5e-5)
    plain = weights(torch.bfloat16)
    stuck = build(TrainSection(lr=1e-5), plain)
    for seed in range(5):
        step(stuck, plain, seed)
    assert bool((plain["large"] == 1.0).all())  # why the gate refuses it
