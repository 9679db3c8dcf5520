"""Loads whatever fits."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class LooseLoading(ToyAdapter):
    def load_trained(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="loose-loading", factory=LooseLoading)]
