"""Checks of what an adapter declares: it has all of that, and refuses all else."""

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
from srum_plugins.testing.adapter_suite import CHOICES, AdapterSubject, AdapterSuite
from srum_plugins.testing.checked_model import METHODS


class CapabilityChecks(AdapterSuite):
    """The provider's ``capabilities``, and ``weightless``."""

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
