"""Writes the package that a plugin starts from: a working toy implementation of one kind of provider.

``templates/<kind>`` are packages as they are written, but for their name: ``example-name`` in its three spellings.
``templates/common`` has what all kinds share.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from srum_plugins.errors import ConfigError, StorageError
from srum_plugins.host import GROUP, PluginHost
from srum_plugins.providers import Kind

TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Naming:
    """A provider's ``name`` and what is called after it.

    Raises:
        ConfigError: the name is not fit for a provider, a distribution and a Python package.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot name a plugin: take small letters and digits that begin with a letter, and "
                "single '-', '_' or '.' between them, such as my-model"
            )

    @property
    def distribution(self) -> str:
        """Such as ``srum-my-model``; also the folder."""
        return f"srum-{self.name}"

    @property
    def package(self) -> str:
        """Such as ``srum_my_model``."""
        return f"srum_{self._underscored}"

    def fill(self, text: str) -> str:
        """A template's text with this name."""
        title = "".join(part.capitalize() for part in self._underscored.split("_"))
        own = {"example-name": self.name, "example_name": self._underscored, "ExampleName": title}
        # All at once, because a name may hold a placeholder.
        return re.sub("|".join(own), lambda found: own[found[0]], text)

    @property
    def _underscored(self) -> str:
        return re.sub("[.-]", "_", self.name)


def check_free(kind: Kind, naming: Naming, host: PluginHost) -> None:
    """Refuse a name that another plugin has: the host would load neither.

    Raises:
        ConfigError: which plugin that is.
    """
    for row in host.rows():
        if (row["kind"], row["name"]) == (kind.value, naming.name):
            raise _taken(naming, f"{row['distribution']} {row['version']} has the {kind} {naming.name!r}")
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name == naming.name:
            owner = f"{point.dist.name} {point.dist.version}" if point.dist else "another distribution"
            raise _taken(naming, f"{owner} has a plugin of this name, {point.value}")
    if (spec := importlib.util.find_spec(naming.package)) is not None:
        raise _taken(naming, f"there is a Python package {naming.package}: {spec.origin}")


def write(kind: Kind, naming: Naming, out: Path) -> list[Path]:
    """Write the package of a kind that there is a template of into ``out / naming.distribution``; returns its files.

    Raises:
        ConfigError: that folder is there already.
        StorageError: it cannot be written.
    """
    target = out / naming.distribution
    if target.exists():
        raise ConfigError(f"{target} is there already, and nothing was written: choose another name, or --out FOLDER")
    files = []
    try:
        for folder in (TEMPLATES / "common", TEMPLATES / kind.value):
            for source in _files(folder):
                path = target / naming.fill(str(source.relative_to(folder)))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(naming.fill(source.read_text(encoding="utf-8")), encoding="utf-8")
                files.append(path)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return files


def _files(folder: Path) -> list[Path]:
    """The files of a template, without what linters and Python leave in its folders."""
    kept = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parent.parts)
    ]
    return sorted(kept)


def _taken(naming: Naming, how: str) -> ConfigError:
    return ConfigError(f"the name {naming.name!r} is taken, and nothing was written: {how}. Choose another name")
