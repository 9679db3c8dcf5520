"""Packages of ``srum new``, used as their authors would: linters, conformance, pip, a run."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fakes import Site, make_site
from new_packages import ROOT, new_package, python

from srum_plugins.cli import parse
from srum_plugins.commands.new import KINDS
from srum_plugins.config import load
from srum_plugins.contracts import GenerationRequest
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt
from srum_plugins.scaffold.package import TEMPLATES
from srum_plugins.stages.pipeline import run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


@pytest.fixture
def patches(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The model of a new adapter, as a module."""
    monkeypatch.syspath_prepend(str(new_package(site.folder, "adapter", "patches")))
    yield importlib.import_module("srum_patches.model")


# --- the toy model ----------------------------------------------------------------------------------------------------
def lines_of_code(file: Path) -> int:
    """Lines without blank ones, comments, docstrings and imports."""
    tree = ast.parse(file.read_text())
    out: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(file.read_text().splitlines(), start=1)
    return len([line for number, line in lines if number not in out and line.strip() and line.lstrip()[0] != "#"])


def test_it_is_a_model_in_100_lines() -> None:
    sources = TEMPLATES / "adapter/srum_example_name"
    assert lines_of_code(sources / "model.py") + lines_of_code(sources / "adapter.py") < 100


@pytest.mark.parametrize("time", [0.3, 0.6, 1.0])
def test_its_velocity_is_the_mean_over_all_images_that_it_may_draw(patches: ModuleType, time: float) -> None:
    """Compared with images of one token that are drawn, noised and weighed one by one."""
    flow = patches.PatchFlow(1.0)
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([0.3, -0.2, -0.5])
    odds = flow.paint[0].softmax(0)
    colours = flow.colours[odds.multinomial(100_000, replacement=True, generator=generator)]
    clean = colours + patches.GRAIN * torch.randn(colours.shape, generator=generator)
    noise = (seen - (1 - time) * clean) / time
    weights = (-noise.square().sum(1) / 2).softmax(0)
    mean = (weights[:, None] * (noise - clean)).sum(0)
    found = flow.velocity("a red one", seen[:, None, None], torch.tensor(time))[:, 0, 0]
    torch.testing.assert_close(found, mean, atol=0.03, rtol=0)


def test_it_draws_the_colours_that_are_named_and_sees_them(patches: ModuleType) -> None:
    from srum_patches.adapter import PatchesAdapter
    from srum_patches.plugin import Options, Sampling

    model = PatchesAdapter(Options(skill=12.0), "cpu")
    (drawn,) = model.generate([GenerationRequest(Prompt("p", "a red square and a blue cross"), 3)], Sampling())
    found = model.locate([drawn.image] * 3, [("red",), ("red", "blue"), ("green",)])
    assert [[region.phrase for region in regions] for regions in found] == [["red"], ["red", "blue"], []]


@pytest.mark.parametrize("kind", ["adapter", *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*KINDS][1:])])
def test_the_demo_runs_with_it_as_its_readme_says(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With few prompts and steps."""
    folder = new_package(site.folder, kind, f"own-{kind}")
    monkeypatch.syspath_prepend(str(folder))
    (line,) = re.findall(r"^srum run (.*)$", (folder / "README.md").read_text(), re.MULTILINE)
    args = parse(["run", *shlex.split(line, comments=True)])
    few = ["prompts.count=16", "train.steps=6", "train.batch=8"]
    if kind != "benchmark":
        few += ["benchmark.prompts_per_split=4", "benchmark.questions=8"]
    where = [f"run.directory={site.folder / 'run'}", "tracking.enabled=false", "run.max_failed=0"]
    host = PluginHost.load()
    config = load(args.config, [*args.overrides, *few, *where], host)
    assert config.providers[Kind(kind)].name == f"own-{kind}"
    demo = run(config, host, say=lambda line: None)
    assert set(demo["seconds"]) == {"generate", "ground", "judge", "reward", "train", "evaluate"}
    assert demo["in_domain"]["prompts"] == demo["out_of_domain"]["prompts"] > 0
    assert demo["in_domain"]["failed"] == demo["out_of_domain"]["failed"] == {"before": 0, "after": 0}
    assert demo["understanding"]["identical"] is True


def test_the_tutorial_shows_the_files_as_they_are_written(tmp_path: Path) -> None:
    folder = new_package(tmp_path, "adapter", "patches") / "srum_patches"
    text = (ROOT / "docs/tutorial-adapter.md").read_text()
    shown = dict(re.findall(r"^## `srum_patches/(\w+\.py)`.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert shown == {name: (folder / name).read_text() for name in ("plugin.py", "model.py", "adapter.py")}


# --- every kind -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kinds", [["adapter"], pytest.param([*KINDS][1:], marks=pytest.mark.slow)])
def test_conformance_is_green_at_once(tmp_path: Path, kinds: list[str]) -> None:
    folders = [new_package(tmp_path, kind, f"my-{kind}") for kind in kinds]
    tests = [str(folder / "tests") for folder in folders]
    flags = ["-p", "no:cacheprovider", "--import-mode=importlib", "-v", "--tb=short"]
    done = python("-m", "pytest", *flags, *tests, paths=folders, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in kinds:
        assert re.search(rf"::TestMy{kind.capitalize()}::\w+ PASSED", done.stdout), kind


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x", "my-model", "a-fairly-long-name"])
def test_linters_are_clean(tmp_path: Path, name: str) -> None:
    for kind in KINDS:
        folder = new_package(tmp_path / kind, kind, name)
        for command in (("check",), ("format", "--check")):
            done = python("-m", "ruff", *command, "--no-cache", ".", cwd=folder)
            assert done.returncode == 0, (kind, done.stdout)


@pytest.mark.slow
def test_types_are_clean(tmp_path: Path) -> None:
    folders = [new_package(tmp_path, kind, f"my-{kind}") for kind in KINDS]
    packages = [str(folder / f"srum_my_{kind}") for folder, kind in zip(folders, KINDS, strict=True)]
    flags = ["--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    done = python("-m", "mypy", *flags, *packages, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pip_installs_it_and_srum_lists_it(tmp_path: Path) -> None:
    folder = new_package(tmp_path, "grounder", "corners")
    for left in folder.glob("*.dist-info/*"):  # pip is to write its own
        left.unlink()
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text("\n".join([str(ROOT), sysconfig.get_paths()["purelib"]]))
    interpreter = str(environment / "bin/python")
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install", "--no-deps", "--no-index"]
    for command in ([*pip, "--no-build-isolation", "-e", str(folder)], ["-m", "srum_plugins.cli", "plugins", "--json"]):
        done = subprocess.run([interpreter, *command], env=own, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout) if row["name"] == "corners"]
    assert (row["kind"], row["distribution"], row["status"]) == ("grounder", "srum-corners", "ready")
    assert row["file"].startswith(str(folder / "srum_corners/plugin.py"))
