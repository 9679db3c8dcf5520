"""The global random state, as torch.manual_seed leaves it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.randomness import seed_torch


@pytest.mark.parametrize("accelerated", [False, True])
@given(seed=st.integers(0, 2**63 - 1))
def test_the_state_is_that_of_torch(accelerated: bool, seed: int) -> None:
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: accelerated)
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.rand(5)
        seed_torch(seed)
        assert torch.equal(torch.rand(3), expected)
