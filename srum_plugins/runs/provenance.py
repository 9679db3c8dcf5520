"""What a stage was made with: versions, and the code itself."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "pillow")
"""Packages whose version may change the last bits of results."""


def made_with(places: Iterable[Path]) -> dict[str, str]:
    """Versions of Python and of what computes, and a digest of the code in these places. For people; what decides about
    reuse is the fingerprint."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "code": code_digest(places)}


def code_place(file: Path) -> Path:
    """Where the code of a plugin is: the package of this file, or the file alone, if it lies among other things."""
    return file.parent if (file.parent / "__init__.py").exists() else file


def code_digest(places: Iterable[Path]) -> str:
    """sha256 of these Python files, and of all in these folders, by their names within them."""
    digest = hashlib.sha256()
    for place in sorted(set(places)):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{file.relative_to(place.parent).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
