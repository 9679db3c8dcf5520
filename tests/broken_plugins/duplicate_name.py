"""Names its adapter as another distribution does."""

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [TOY]
