"""Loads trained weights into the half that judges read."""

from dataclasses import replace
from pathlib import Path

import torch
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class TouchedByLoading(ToyAdapter):
    def load_trained(self, folder: Path) -> None:
        super().load_trained(folder)
        with torch.no_grad():
            self.model.probe.copy_(self.model.palette)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="touched-by-loading", factory=TouchedByLoading)]
