"""Returns the parameters to train as a list."""

from dataclasses import replace
from typing import Any

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class ListedParameters(ToyAdapter):
    def start_training(self, training: Any, *, base: bool) -> Any:
        return list(super().start_training(training, base=base).values())


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="listed-parameters", factory=ListedParameters)]
