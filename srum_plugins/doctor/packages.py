"""Python, what is installed beside it, and the plugins."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from srum_plugins import __version__
from srum_plugins.doctor.finding import Finding
from srum_plugins.host import PluginHost

NAME = "srum-plugins"
NOT_FOR_USE = {"dev", "docs"}
"""Extras that only who works on this package needs."""


def python() -> Iterator[Finding]:
    """The interpreter, and the version of this package."""
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")
    try:
        installed = version(NAME)
    except PackageNotFoundError:
        says = f"{__version__}, imported from a folder that is not installed: its own plugins are not found"
        yield Finding(NAME, "problem", says, "pip install the package, or `pip install -e .` in its folder")
        return
    if installed == __version__:
        yield Finding(NAME, "ok", __version__)
    else:
        says = f"the code is of version {__version__}, and what is installed says {installed}"
        yield Finding(NAME, "warning", says, "install it again: pip install -e .")


def dependencies() -> Iterator[Finding]:
    """What this package needs always, and what each of its extras brings."""
    package = distribution(NAME)
    missing, there = _standing(package, "")
    if missing:
        mend = f"pip install {' '.join(repr(str(one)) for one in missing)}"
        yield Finding("dependencies", "problem", _told(missing), mend)
    else:
        yield Finding("dependencies", "ok", f"all {len(there)} are installed, in versions that fit")
    for extra in sorted(set(package.metadata.get_all("Provides-Extra") or ()) - NOT_FOR_USE):
        missing, there = _standing(package, extra)
        mend = f"pip install '{NAME}[{extra}]'"
        wrong = any(_installed(one.name) is not None for one in missing)
        if not missing:
            yield Finding(f"extra {extra}", "ok", ", ".join(there))
        elif wrong:
            yield Finding(f"extra {extra}", "warning", _told(missing), mend)
        else:
            yield Finding(f"extra {extra}", "ok", _told(missing), f"if you need it: {mend}")


def plugins(host: PluginHost) -> Iterator[Finding]:
    """What ``srum plugins`` lists, in short, and each that is not as it should be."""
    rows = host.rows()
    counts = Counter(row["status"] for row in rows)
    sources = {row["distribution"] for row in rows if row["status"] == "ready"}
    says = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    yield Finding(
        "plugins", "ok" if rows else "problem", f"{says or 'none'}, of {', '.join(sorted(sources)) or 'none'}"
    )
    for text in host.blocked_in_vain:
        yield Finding("blocked plugins", "warning", text, "`srum plugins` lists what is installed")
    for row in rows:
        check = f"plugin {row['name']}" if row["kind"] == "plugin" else f"{row['kind']} {row['name']}"
        if row["status"] == "failed":
            said = f"{row['distribution']} {row['version']}: {row['cause']}"
            mend = f"mend it at {row['file'] or 'its entry point'}, uninstall it, or block it (SRUM_PLUGINS_BLOCK)"
            yield Finding(check, "problem", said, mend)
        elif row["status"] == "blocked":
            yield Finding(check, "ok", row["cause"])
        elif row["warning"]:
            yield Finding(check, "warning", row["warning"], f"tell the authors of {row['distribution']}")


def _standing(package: Distribution, extra: str) -> tuple[list[Requirement], list[str]]:
    """Of what an extra brings (empty: of what is always needed) the requirements that are not met, and the others with
    their versions."""
    missing, there = [], []
    for line in package.requires or ():
        needed = Requirement(line)
        marker = needed.marker
        own = marker is None or marker.evaluate({"extra": extra})
        if not own or (extra and (marker is None or marker.evaluate({"extra": ""}))):
            continue
        needed.marker = None
        here = _installed(needed.name)
        if here is None or not needed.specifier.contains(here, prereleases=True):
            missing.append(needed)
        else:
            there.append(f"{needed.name} {here}")
    return missing, there


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _told(missing: list[Requirement]) -> str:
    return ", ".join(
        f"{one.name} is not installed" if here is None else f"{one.name} is {here}, not {one.specifier}"
        for one in missing
        for here in [_installed(one.name)]
    )
