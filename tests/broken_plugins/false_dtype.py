"""Says that it trains in another precision."""

from dataclasses import replace

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="false-dtype", factory=ToyAdapter, trained_dtype=lambda options, training: "bfloat16")]
