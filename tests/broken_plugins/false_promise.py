"""Declares that it answers, and does not."""

from dataclasses import replace

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Capability
from srum_plugins.providers import Provider


class FalsePromise(ToyAdapter):
    pass


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [
        replace(TOY, name="false-promise", factory=FalsePromise, capabilities=TOY.capabilities | {Capability.ANSWER})
    ]
