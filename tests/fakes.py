"""Fake distributions on sys.path, found by the real importlib.metadata."""

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

HEAD = """
from srum_plugins import hookimpl
from srum_plugins.providers import Provider
"""
GROUNDER = (
    HEAD
    + """
@hookimpl
def srum_grounders():
    return [Provider("acme", "Finds what Acme sells.", factory=dict)]
"""
)


class Site:
    """A folder on sys.path in which a test installs distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def install(self, name: str, plugins: Mapping[str, str], files: Mapping[str, str], version: str = "1.0") -> None:
        """``plugins`` are entry points, ``files`` modules by path; what ends in .dist-info is written too."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        points = "\n".join(f"{point} = {target}" for point, target in plugins.items())
        meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        written = {f"{info}/METADATA": meta, f"{info}/entry_points.txt": f"[srum_plugins]\n{points}\n", **files}
        for path, text in written.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        self.names.add(name)

    def entry_points(self) -> list[EntryPoint]:
        """The entry points of what was installed here, without those of the machine."""
        found = importlib.metadata.entry_points(group="srum_plugins")
        return [point for point in found if point.dist is not None and point.dist.name in self.names]


def make_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site for a fixture to yield from; forgets the modules that were imported from it."""
    monkeypatch.delenv("SRUM_PLUGINS_BLOCK", raising=False)
    monkeypatch.delenv("SRUM_PLUGINS_STRICT", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
