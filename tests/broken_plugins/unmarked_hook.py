"""Forgets the decorator."""

from broken_plugins import TOY
from srum_plugins.providers import Provider


def srum_model_adapters() -> list[Provider]:
    return [TOY]
