"""Digests what it has read at the beginning."""

from dataclasses import replace

from toy_backend import AdapterOptions, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class ConstantDigest(ToyAdapter):
    def __init__(self, options: AdapterOptions, device: str) -> None:
        super().__init__(options, device)
        self.digest = super().understanding_digest()

    def understanding_digest(self) -> str:
        return self.digest


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="constant-digest", factory=ConstantDigest)]
