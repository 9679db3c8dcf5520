"""Needs a package that is not installed, and says so."""

from dataclasses import replace

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="fancy", modules=("a_package_of_nobody",), extra="pip install 'fancy[all]'")]
