"""Draws the images of a batch from the seed of its first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider


class BatchDependent(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        return super().generate([replace(one, seed=requests[0].seed + n) for n, one in enumerate(requests)], sampling)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="batch-dependent", factory=BatchDependent)]
