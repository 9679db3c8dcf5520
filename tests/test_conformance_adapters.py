"""Our own adapters keep the contract that strangers' are held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toy_backend
from blip3o_folder import write_blip3o
from release_folder import write_release

from srum_plugins.testing.adapters import AdapterConformance


class TestToy(AdapterConformance):
    name = "toy"
    plugin = toy_backend
    sizes = ((8, 12), (16, 8))
    parts = 4


class TestShapes(AdapterConformance):
    name = "shapes"
    sampling = {"points": 3}
    parts = 4


class TestBagel(AdapterConformance):
    name = "bagel"
    sampling = {"points": 3}
    thinking = {"think": True, "think_tokens": 4}
    sizes = ((32, 64),)

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        write_release(folder)
        return {"checkpoint": str(folder), "dtype": "float32", "size": [64, 64], "answer_tokens": 8}


class TestBlip3o(AdapterConformance):
    name = "blip3o"
    sampling = {"prior_steps": 2, "steps": 2}
    parts = 4

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        write_blip3o(folder)
        return {"checkpoint": str(folder), "dtype": "float32", "answer_tokens": 8}
