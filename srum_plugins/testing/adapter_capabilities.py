"""Checks of what an adapter declares: it has all of that, and refuses all else; and of what its factory makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from srum_plugins.contracts import Capability, Draws
from srum_plugins.errors import CapabilityError
from srum_plugins.memory.estimate import estimate
from srum_plugins.memory.workload import UNDERSTANDING, Asking, Drawing, Workload
from srum_plugins.stages.monitoring import set_aside
from srum_plugins.testing.adapter_generation import unlike
from srum_plugins.testing.adapter_suite import CHOICES, AdapterSubject, AdapterSuite, near
from srum_plugins.testing.adapter_training import SAME, lesson
from srum_plugins.testing.adapter_understanding import LOGS
from srum_plugins.testing.checked_model import METHODS

AGAIN = 20251014
"""The seed of the global random numbers with which a model is made again: none that others set."""


class CapabilityChecks(AdapterSuite):
    """The provider's ``capabilities``, ``factory`` and ``weightless``."""

    def test_it_has_the_methods_of_what_it_declares(self, adapter: AdapterSubject) -> None:
        """Each is overridden."""
        for capability in sorted(adapter.registered.provider.capabilities):
            for method in METHODS[capability]:
                adapter.model.has(method)

    def test_it_refuses_what_it_does_not_declare(self, adapter: AdapterSubject, tmp_path: Path) -> None:
        """By a :class:`srum_plugins.errors.CapabilityError`."""
        declared = {method for one in adapter.registered.provider.capabilities for method in METHODS[one]}
        calls = self._calls(adapter, tmp_path)
        for capability in Capability:
            for method in METHODS[capability]:
                if method in declared:
                    continue
                try:
                    calls[method]()
                except CapabilityError:
                    continue
                except Exception as error:
                    said = f"raises {type(error).__name__}: {error}"
                else:
                    said = "works"
                adapter.breach(
                    method,
                    f"{said}, and the provider does not declare {capability.value!r}",
                    f"declare Capability.{capability.name}, or leave {method} to ModelAdapter, which raises a "
                    "CapabilityError",
                )

    def _calls(self, adapter: AdapterSubject, folder: Path) -> dict[str, Callable[[], object]]:
        """A plain call of each method."""
        model, images, latents = adapter.model.made, adapter.images[:1], [torch.zeros(4, 2, 2)]
        draws = Draws(torch.zeros(1), latents, torch.zeros(1, dtype=torch.bool))
        question, prompts = adapter.asked(CHOICES)[0], list(adapter.prompts[:1])
        return {
            "generate": lambda: model.generate(adapter.requests()[:1], adapter.sampling),
            "answer": lambda: model.answer([replace(question, choices=())]),
            "choice_logprobs": lambda: model.choice_logprobs([question]),
            "locate": lambda: model.locate(images, [prompts[0].phrases]),
            "locate_all": lambda: model.locate_all(images, [prompts[0].phrases]),
            "token_grid": lambda: model.token_grid(*adapter.size),
            "encode": lambda: model.encode(images),
            "draw": lambda: model.draw(latents, torch.Generator()),
            "predict": lambda: model.predict(prompts, latents, draws),
            "start_training": lambda: model.start_training(adapter.training, base=False),
            "save": lambda: model.save(folder),
            "load_trained": lambda: model.load_trained(folder),
            "understanding_digest": model.understanding_digest,
            "shard": lambda: model.shard(lambda module: None),
        }

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

    def test_its_memory_can_be_estimated(self, adapter: AdapterSubject) -> None:
        """``srum doctor --memory`` lets the model without weights work: here it draws and is asked."""
        make = adapter.registered.provider.weightless
        if make is None:
            pytest.skip("the provider gives no weightless model, so that its memory cannot be estimated")
        asked = UNDERSTANDING & adapter.registered.provider.capabilities
        found = adapter.call(
            "weightless",
            estimate,
            lambda: make(adapter.options),
            Workload(
                device="cpu",
                words=4,
                questions=1,
                drawing={"generate": Drawing(1, adapter.wanted_size, adapter.sampling)}
                if adapter.can(Capability.GENERATE)
                else {},
                asking={"judge": Asking(1, adapter.wanted_size, asked)} if asked else {},
            ),
        )
        adapter.require(
            sum(found.held.values()) > 0,
            "weightless",
            "holds no bytes: no network is an attribute of the model",
            "make each network an attribute of the adapter, on torch's meta device",
        )
