"""Fails while it makes its model."""

from dataclasses import replace

from toy_backend import AdapterOptions, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


def make(options: AdapterOptions, device: str) -> ToyAdapter:
    raise OSError("no such folder: checkpoints/toy")


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="failing-factory", factory=make)]
