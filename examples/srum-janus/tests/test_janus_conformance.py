"""Janus keeps the contract that every adapter is held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from srum_janus import plugin as janus_plugin
from srum_janus.tiny import write_tiny

from srum_plugins.testing.adapters import AdapterConformance


class TestJanus(AdapterConformance):
    """With adapters, so that the language model is moved where it draws and not where it understands."""

    name = "janus"
    plugin = janus_plugin
    flow = False
    training: ClassVar[Mapping[str, Any]] = {"lora_rank": 2}

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        write_tiny(folder)
        return {"checkpoint": str(folder), "dtype": "float32"}
