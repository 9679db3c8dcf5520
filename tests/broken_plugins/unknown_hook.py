"""Implements a hook that does not exist."""

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapter() -> list[Provider]:
    return [TOY]
