"""The weights that training found, beside those that it moves: for predictions of the base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BaseWeights:
    """A copy of parameters, by name."""

    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter]) -> BaseWeights:
        """A copy as they are now; of parameters that are shared out, of the own part."""
        return cls({name: _own(parameter).detach().clone() for name, parameter in parameters.items()})

    def call(self, model: nn.Module, *inputs: Any) -> Any:
        """``model(*inputs)`` with these weights, which are names of its own, without gradient."""
        with torch.no_grad():
            return torch.func.functional_call(model, dict(self.values), inputs)

    @contextmanager
    def in_place(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Parameters that are shared out with these values, and then as they were: their modules gather them whenever
        they work, so that no other copy of a name would be seen."""
        with torch.no_grad():
            kept = {name: _own(parameter).clone() for name, parameter in parameters.items()}
            self._give(parameters, self.values)
            try:
                yield
            finally:
                self._give(parameters, kept)
                # Backward gathers the first of them in another stream, which does not wait for this one.
                if (device := next(iter(parameters.values())).device).type != "cpu":
                    torch.accelerator.current_stream(device).synchronize()

    @staticmethod
    def _give(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        for name, parameter in parameters.items():
            _own(parameter).copy_(values[name])


def _own(parameter: Tensor) -> Tensor:
    """The part that this process holds: all, where nothing is shared out."""
    local: Any = getattr(parameter, "to_local", None)
    found: Tensor = parameter if local is None else local()
    return found
