"""Checks of the factory: what it makes is the same model each time."""

from __future__ import annotations

from srum_plugins.contracts import Capability
from srum_plugins.stages.monitoring import set_aside
from srum_plugins.testing.adapter_generation import unlike
from srum_plugins.testing.adapter_suite import AdapterSubject, AdapterSuite, near
from srum_plugins.testing.adapter_training import SAME, lesson
from srum_plugins.testing.adapter_understanding import LOGS

AGAIN = 20251014
"""The seed of the global random numbers with which a model is made again: none that others set."""


class FactoryChecks(AdapterSuite):
    """``Provider.factory``."""

    def test_its_factory_makes_the_same_model_again(self, adapter: AdapterSubject) -> None:
        """Whatever the global random numbers are: each stage of a run loads the model anew, in a process of its own."""
        with set_aside(AGAIN):
            again = adapter.fresh()
        wrong = ""
        for one, other in zip(adapter.drawn_by(adapter.model), adapter.drawn_by(again), strict=True):
            if how := unlike(one, other):
                wrong = f"draws other images: {how}"
        if adapter.can(Capability.ANSWER) and adapter.model.answer(adapter.asked()) != again.answer(adapter.asked()):
            wrong = wrong or "answers otherwise"
        rows = zip(adapter.understood_by(adapter.model), adapter.understood_by(again), strict=True)
        if any(abs(a - b) > LOGS for one, other in rows for a, b in zip(one, other, strict=True)):
            wrong = wrong or "gives choices other log-probabilities"
        if adapter.can(Capability.TRAIN):
            given = lesson(adapter)
            if not near(given.losses(adapter.model), given.losses(again), SAME):
                wrong = wrong or "predicts otherwise"
        adapter.require(
            not wrong,
            "factory",
            f"makes a second model of the same options that {wrong}",
            "load all weights from files, and draw those that are new in a fixed order from a seed of their own: with "
            "torch.random.fork_rng(): torch.manual_seed(0)",
        )
