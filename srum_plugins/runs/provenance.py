"""What a stage was made with: versions, and the code itself."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "pillow")
"""Packages whose version may change the last bits of results."""


def made_with(folders: Iterable[Path]) -> dict[str, str]:
    """Versions of Python and of what computes, and a digest of the code in these folders: those of the core and of the
    plugins that a run uses. For people; what decides about reuse is the fingerprint."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "code": code_digest(folders)}


def code_digest(folders: Iterable[Path]) -> str:
    """sha256 of all Python files in these folders, by their names within them."""
    digest = hashlib.sha256()
    for folder in sorted(set(folders)):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
