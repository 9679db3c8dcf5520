"""Packages of ``srum new`` as tests need them: written, and found by importlib.metadata without being installed."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from fakes import Site

from srum_plugins.providers import Kind
from srum_plugins.scaffold.package import Naming, write

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT, *(ROOT / folder for folder in ("adapters", "grounders", "judges"))]


def new_package(out: Path, kind: str, name: str) -> Path:
    """The folder of a new package, with the metadata beside it that pip would write."""
    naming = Naming(name)
    write(Kind(kind), naming, out)
    folder = out / naming.distribution
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["srum_plugins"]
    Site(folder).install(project["name"], points, {}, version=project["version"])
    return folder


def python(*arguments: str, paths: Iterable[Path] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, that finds this source tree and these folders."""
    found = os.pathsep.join(str(path) for path in [*paths, *SOURCES])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
