"""Its factory takes no device."""

from dataclasses import replace

from toy_backend import AdapterOptions, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


def make(options: AdapterOptions) -> ToyAdapter:
    return ToyAdapter(options, "cpu")


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="no-device", factory=make)]
