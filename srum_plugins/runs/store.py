"""Content-addressed stage directories: ``<run>/stages/<stage>/<fingerprint>/``.

The directory's name is the hash of everything that the stage's results depend on, so that a changed setting makes a
new directory and changing it back finds the old one. ``current`` beside them names the one used last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srum_plugins.runs.files import clean, read_json, write_if_different, write_json
from srum_plugins.runs.fingerprint import SHORT, changes, fingerprint


class StageDirectory:
    """Where one stage of one configuration lives.

    ``ingredients`` is what its results depend on: settings, providers with options and versions, the run's seed, and
    under ``inputs`` the fingerprints of the stages before it.
    """

    def __init__(self, root: Path, name: str, ingredients: Mapping[str, Any]) -> None:
        self.name = name
        self.ingredients = dict(ingredients)
        self.fingerprint = fingerprint({"stage": name, **ingredients})
        self.family = root / "stages" / name
        self.path = self.family / self.fingerprint[:SHORT]
        self._clock = 0.0

    @property
    def complete(self) -> bool:
        """Whether all of the stage's results are on disk."""
        return (self.path / "done.json").exists()

    def staleness(self) -> str | None:
        """Why the results of an earlier configuration cannot be used, in words; None if there is nothing to explain."""
        current = self.family / "current"
        if self.path.exists() or not current.exists():
            return None
        manifest = self.family / current.read_text(encoding="utf-8").strip() / "manifest.json"
        if not manifest.exists():
            return None
        differences = changes(read_json(manifest)["ingredients"], self.ingredients)
        return f"{self.name} is stale: {'; '.join(differences)}"

    def begin(self) -> None:
        """Create the directory with its manifest, or go on with what is there without half-written leftovers. Only for
        who holds the run directory (:mod:`srum_plugins.runs.lock`)."""
        self.path.mkdir(parents=True, exist_ok=True)
        clean(self.path)
        manifest = {"stage": self.name, "fingerprint": self.fingerprint, "ingredients": self.ingredients}
        if not (self.path / "manifest.json").exists():
            write_json(self.path / "manifest.json", manifest)
        self.use()
        self._clock = time.monotonic()

    def use(self) -> None:
        """Note that the run's current configuration uses this directory."""
        write_if_different(self.family / "current", f"{self.path.name}\n".encode())

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the stage complete; ``facts`` are counts and figures for people and reports."""
        self.tick()
        write_json(self.path / "done.json", {"stage": self.name, **facts})

    def facts(self) -> dict[str, Any]:
        """What :meth:`finish` noted."""
        return dict(read_json(self.path / "done.json"))

    def seconds(self) -> float:
        """The time that this stage has taken, over all the processes that worked on it."""
        path = self.path / "seconds.json"
        return float(read_json(path)) if path.exists() else 0.0

    def tick(self) -> None:
        """Add the time since the last tick, or since the stage was opened, to :meth:`seconds`."""
        now = time.monotonic()
        write_json(self.path / "seconds.json", round(self.seconds() + now - self._clock, 3))
        self._clock = now
