"""The wheel as users get it: what is in it, and whether it works outside of this repository with each extra alone.

A clean environment is made in two ways. By links: a new virtual environment with the wheel, and beside it links to
those installed packages that its metadata asks for, and to no others. By pip, which needs an index and takes minutes
for each extra: `make test-wheel`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / path for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
IN_A_CHECKOUT = {"dev", "docs"}
"""Extras of no use beside a wheel: its tests and its documentation are not in there."""
EXTRAS = sorted(set(PROJECT["project"]["optional-dependencies"]) - IN_A_CHECKOUT)
PIP_LINE = re.compile(r"pip install 'srum-plugins\[([a-z0-9-]+)\]'")
SMALL = {
    "run": {"directory": "run"},
    "adapter": "shapes",
    "prompts": {"name": "shapes", "count": 4},
    **{"grounder": "native", "judge": "choice", "aggregator": "srum", "objective": "srum"},
    "benchmark": {"name": "shapes", "prompts_per_split": 4, "questions": 8},
    "generate": {"candidates": 2, "sampling": {"points": 3}},
    "train": {"steps": 2, "batch": 2},
    "evaluate": {"sampling": {"points": 3}},
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and what its interpreter finds beside its own packages."""

    folder: Path
    beside: Path | None = None

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, without anything of the environment that the tests run in."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SRUM_", "VIRTUAL"))}
        clean |= {"OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(self.beside)} if self.beside else {})}
        program = str(self.folder / "bin" / command[0])
        return subprocess.run([program, *command[1:]], cwd=cwd, env=clean, capture_output=True, text=True, check=False)

    def out(self, *command: str, cwd: Path) -> str:
        """What a program prints that must not fail."""
        done = self.run(*command, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plugins(self, cwd: Path) -> list[dict[str, str]]:
        rows: list[dict[str, str]] = json.loads(self.out("srum", "plugins", "--json", cwd=cwd))
        return rows


Make = Callable[[str], Environment]


def build(target: str, source: Path, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)], cwd=source, check=True
    )
    (built,) = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("dist"))


def new(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def pip(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check"]
    subprocess.run([*command, "install", "--quiet", *arguments], check=True)


@pytest.fixture(scope="module")
def linked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The wheel, with an extra or with none (""), and links to what that asks for."""
    folder = new(tmp_path_factory.mktemp("linked") / "env")
    pip(folder, "--no-deps", "--no-index", str(wheel))

    (metadata,) = folder.glob("lib/*/site-packages/srum_plugins-*.dist-info")
    asked = Distribution.at(metadata).requires or []

    def make(extra: str) -> Environment:
        beside = tmp_path_factory.mktemp("beside")
        for name in closure(asked, extra):
            link(name, beside)
        return Environment(folder, beside)

    return make


@pytest.fixture(scope="module")
def by_pip(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The wheel with an extra, installed by pip with all that it asks for."""

    def make(extra: str) -> Environment:
        folder = new(tmp_path_factory.mktemp("pip") / "env")
        pip(folder, "-c", str(ROOT / "constraints.txt"), f"{wheel}[{extra}]" if extra else str(wheel))
        return Environment(folder)

    return make


def closure(asked: list[str], extra: str) -> set[str]:
    """The distributions that requirements with an extra need, and what these need; skips the test if one of the first
    is not installed here."""
    found: set[str] = set()
    waiting = [(line, extra, True) for line in asked]
    done = set()
    while waiting:
        line, extra, first = waiting.pop()
        needed = Requirement(line)
        if (line, extra) in done or not (needed.marker is None or needed.marker.evaluate({"extra": extra})):
            continue
        done.add((line, extra))
        try:
            requires = distribution(needed.name).requires or []
        except PackageNotFoundError:
            if first:
                pytest.skip(f"{needed.name} is not installed here; `make test-wheel` installs it")
            raise
        found.add(needed.name)
        waiting += [(further, one, False) for further in requires for one in ("", *needed.extras)]
    return found


def link(name: str, beside: Path) -> None:
    """Let a folder have the modules and the metadata of an installed distribution."""
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        if not (beside / top).exists():
            (beside / top).symlink_to(Path(str(distribution(name).locate_file(top))))


# --- what is in it ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_wheel_has_every_file_of_every_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
    wanted = {
        str(file.relative_to(package.parent))
        for package in PACKAGES
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    configs = {f"srum_plugins/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    assert {name for name in names if not name.startswith(info)} == wanted | configs
    assert {f"{package.name}/py.typed" for package in PACKAGES} < names
    assert {"srum_plugins/reporting/templates/page.html.j2", "srum_shapes/checkpoint/ema.safetensors"} < names
    assert f"{info}/licenses/LICENSE" in names
    assert f"Version: {PROJECT['project']['version']}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata


@pytest.mark.slow
def test_the_sources_that_are_published_make_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "sources", filter="data")
    (sources,) = (tmp_path / "sources").iterdir()
    with zipfile.ZipFile(build("wheel", sources, tmp_path / "wheel")) as again, zipfile.ZipFile(wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())
    assert (sources / "configs/demo.yaml").is_file()


# --- whether it works -------------------------------------------------------------------------------------------------
def waiting(rows: list[dict[str, str]]) -> dict[tuple[str, str], str]:
    """The providers that miss an extra, with its name in their pip line."""
    return {
        (row["kind"], row["name"]): match[1] if (match := PIP_LINE.search(row["cause"])) else row["cause"]
        for row in rows
        if row["status"] == "missing-extra"
    }


@pytest.fixture(params=["linked", pytest.param("by_pip", marks=pytest.mark.pip)])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.getfixturevalue(request.param)
    return made


@pytest.mark.slow
def test_without_extras_the_whole_loop_runs_outside_of_the_repository(make: Make, tmp_path: Path) -> None:
    alone = make("")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    assert alone.out("srum", "--version", cwd=tmp_path) == f"srum-plugins {PROJECT['project']['version']}\n"
    rows = alone.plugins(tmp_path)
    own = str(alone.folder / "lib")
    assert all(row["file"].startswith(own) and row["status"] in ("ready", "missing-extra") for row in rows), rows
    assert set(waiting(rows).values()) <= set(EXTRAS)
    assert ("adapter", "bagel") in waiting(rows)
    resolved = yaml.safe_load(alone.out("srum", "config", "small.yaml", cwd=tmp_path))
    assert resolved["train"]["steps"] == 2
    assert "paired" in alone.out("srum", "ablate", "demo", "--list", cwd=tmp_path)
    alone.out("srum", "run", "small.yaml", cwd=tmp_path)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["understanding"]["identical"] is True
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_alone_brings_all_that_its_providers_need(make: Make, tmp_path: Path, extra: str) -> None:
    one = make(extra)
    rows = one.plugins(tmp_path)
    assert {row["status"] for row in rows} <= {"ready", "missing-extra"}, rows
    assert extra not in waiting(rows).values()
    # A provider is ready by the names of its modules alone: all that its package holds can be imported too.
    for package in packages_of(extra):
        code = f"import pkgutil, importlib, {package}\n" + IMPORT_ALL.format(package=package)
        one.out("python", "-c", code, cwd=tmp_path)


IMPORT_ALL = """
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def packages_of(extra: str) -> list[str]:
    """The packages one of whose files names this extra in a pip line; the suites are a part of the core."""
    return ["srum_plugins.testing"] * (extra == "testing") + [
        package.name
        for package in PACKAGES
        if package.name != "srum_plugins"
        and any(extra in PIP_LINE.findall(file.read_text()) for file in package.rglob("*.py"))
    ]


def test_every_extra_is_named_where_something_misses_it() -> None:
    files = [file.read_text() for package in PACKAGES for file in package.rglob("*.py")]
    assert {name for text in files for name in PIP_LINE.findall(text)} == set(EXTRAS) - {"testing"}
