"""Rounds its own weights to save less."""

from dataclasses import replace
from pathlib import Path

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class RoundingSave(ToyAdapter):
    def save(self, folder: Path) -> None:
        self.model.bfloat16().float()
        super().save(folder)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="rounding-save", factory=RoundingSave)]
