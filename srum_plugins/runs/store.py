"""Content-addressed stage directories: ``<run>/stages/<stage>/<fingerprint>/``.

The directory's name is the hash of everything that the stage's results depend on, so that a changed setting makes a
new directory and changing it back finds the old one. ``current`` beside them names the one used last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srum_plugins.errors import DamagedError, StageError, StorageError
from srum_plugins.runs.files import read_sealed, storing, write_bytes, write_if_different, write_sealed
from srum_plugins.runs.fingerprint import SHORT, changes, fingerprint
from srum_plugins.runs.sums import SUMS, digest, read_checked, read_sums, sums_text

QUARANTINE = "quarantine.jsonl"
LOOSE = ("pictures/*", "metrics.jsonl", "monitors.jsonl", QUARANTINE)  # what no part's sums list
_NAME = re.compile(rf"[0-9a-f]{{{SHORT}}}\n?")


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
        """Whether all of the stage's results are on disk. Raises DamagedError if done.json is there, but damaged."""
        return (self.path / "done.json").exists() and bool(self.facts())

    def staleness(self) -> str | None:
        """Why the results of an earlier configuration cannot be used, in words; None if there is nothing to explain."""
        current = self._current()
        if self.path.exists() or current is None or not (current / "manifest.json").exists():
            return None
        try:
            differences = changes(read_sealed(current / "manifest.json")["ingredients"], self.ingredients)
        except (DamagedError, StorageError):  # it only serves to explain
            differences = [f"what changed cannot be told, because {current / 'manifest.json'} is damaged"]
        return f"{self.name} is stale: {'; '.join(differences)}"

    def _current(self) -> Path | None:
        """The directory that was used last; None if there is none, or ``current`` does not hold the name of one."""
        try:
            name = (self.family / "current").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return self.family / name.rstrip("\n") if _NAME.fullmatch(name) else None

    def begin(self, made_with: Mapping[str, str] | None = None) -> list[str]:
        """Create the directory with its manifest, or go on with what is there. Only for who holds the run directory
        (:mod:`srum_plugins.runs.lock`). ``made_with`` is noted in the manifest; returns how it differs from what is
        noted there.

        Raises:
            DamagedError: its manifest is damaged.
            StageError: the directory is of another configuration.
            StorageError: the disk is full, or may not be written.
        """
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        differences = self.describe(made_with)
        self.use()
        self._clock = time.monotonic()
        return differences

    def describe(self, made_with: Mapping[str, str] | None = None) -> list[str]:
        """Write the manifest, or compare with it what is there. Returns and raises as :meth:`begin` does."""
        path = self.path / "manifest.json"
        if not path.exists():
            manifest = {"stage": self.name, "fingerprint": self.fingerprint, "ingredients": self.ingredients}
            write_sealed(path, {**manifest, "made_with": dict(made_with or {})})
            return []
        known = read_sealed(path)
        if known.get("fingerprint") != self.fingerprint:
            raise StageError(f"{path} is of another configuration whose hash begins alike: use another run.directory")
        before = known.get("made_with")
        return changes(before, made_with) if before and made_with else []

    def made_with(self) -> dict[str, str]:
        """What the manifest says that the stage was begun with; empty if it cannot be read."""
        try:
            return dict(read_sealed(self.path / "manifest.json").get("made_with", {}))
        except (DamagedError, StorageError):  # it only serves to explain
            return {}

    def use(self) -> None:
        """Note that the run's current configuration uses this directory."""
        write_if_different(self.family / "current", f"{self.path.name}\n".encode())

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the stage complete; ``facts`` are counts and figures for people and reports."""
        self.tick()
        write_bytes(self.path / SUMS, sums_text({name: digest(self.path / name) for name in self.loose()}).encode())
        write_sealed(self.path / "done.json", {"stage": self.name, **facts})

    def facts(self) -> dict[str, Any]:
        """What :meth:`finish` noted. Raises DamagedError if that is damaged."""
        return read_sealed(self.path / "done.json")

    def loose(self) -> list[str]:
        """The names of the pictures and logs on disk, which :meth:`finish` lists in the directory's sums."""
        return sorted(path.relative_to(self.path).as_posix() for each in LOOSE for path in self.path.glob(each))

    def pictures(self) -> dict[str, bytes]:
        """The pictures of a complete stage, PNG by file name. Raises DamagedError if one is damaged or missing."""
        sums = read_sums(self.path / SUMS)
        names = [name for name in sums if name.startswith("pictures/")]
        return {Path(name).name: read_checked(self.path, name, sums) for name in names}

    def seconds(self) -> float:
        """The time that this stage has taken, over all the processes that worked on it. Raises DamagedError if the
        file that tells it is damaged."""
        path = self.path / "seconds.json"
        return float(read_sealed(path)["seconds"]) if path.exists() else 0.0

    def tick(self, least: float = 0.0) -> None:
        """Add the time since the last tick, or since the stage was opened, to :meth:`seconds`, if it is at least
        ``least`` seconds: flushing a file takes time too."""
        now = time.monotonic()
        if now - self._clock < least:
            return
        write_sealed(self.path / "seconds.json", {"seconds": round(self.seconds() + now - self._clock, 3)})
        self._clock = now
