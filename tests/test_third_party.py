"""A stranger's adapter in a distribution of its own: pip installs it, `srum plugins` lists it, `srum run` uses it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import toy_backend
import yaml
from engine_fixtures import srum, write_config

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "stranger-tiles"
version = "3.1.4"
dependencies = ["srum-plugins"]

[project.entry-points.srum_plugins]
tiles = "stranger_tiles.backend"

[tool.hatch.build.targets.wheel]
packages = ["stranger_tiles"]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the stranger's distribution into; the sources are elsewhere."""
    folder = tmp_path_factory.mktemp("stranger")
    package = folder / "source/stranger_tiles"
    package.mkdir(parents=True)
    (folder / "source/pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").touch()
    (package / "backend.py").write_bytes(Path(toy_backend.__file__).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    done = subprocess.run([*pip, *offline, str(folder / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_it_is_listed_with_its_distribution_version_and_file(site: Path) -> None:
    done = srum("plugins", "--json", site=site, env={"SRUM_PLUGINS_BLOCK": ""})
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert (site / "stranger_tiles-3.1.4.dist-info/INSTALLER").read_text().strip() == "pip"
    (adapter,) = [row for row in rows if row["kind"] == "adapter" and row["name"] == "toy"]
    assert (adapter["distribution"], adapter["version"]) == ("stranger-tiles", "3.1.4")
    assert (adapter["status"], adapter["cause"]) == ("ready", "")
    file, line = adapter["file"].rsplit(":", 1)
    assert Path(file) == site / "stranger_tiles/backend.py"
    assert "def srum_model_adapters" in "\n".join(Path(file).read_text().splitlines()[int(line) - 1 :][:2])
    assert {row["distribution"] for row in rows if row["status"] == "ready"} >= {"srum-plugins", "stranger-tiles"}


def test_it_runs_the_whole_loop_with_our_grounder_judge_aggregator_and_objective(site: Path, tmp_path: Path) -> None:
    write_config(tmp_path, grounder="native", judge="choice", aggregator="srum", objective="paired")
    done = srum("run", "toy.yaml", site=site, cwd=tmp_path, env={"SRUM_PLUGINS_BLOCK": ""})
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["arm"] == "srum+paired"
    for split in ("in_domain", "out_of_domain"):
        assert summary[split]["prompts"] == 4
        assert math.isclose(summary[split]["after"] - summary[split]["before"], summary[split]["delta"], abs_tol=1e-9)
    assert summary["understanding"]["identical"] is True
    assert set(summary["seconds"]) == {"generate", "ground", "judge", "reward", "train", "evaluate"}

    (manifest,) = (tmp_path / "run/stages/generate").glob("*/manifest.json")
    adapter = json.loads(manifest.read_text())["ingredients"]["adapter"]
    assert (adapter["name"], adapter["distribution"], adapter["version"]) == ("toy", "stranger-tiles", "3.1.4")
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["adapter"]["blur"] == 0.5
    (weights,) = (tmp_path / "run/stages/train").glob("*/weights/model.safetensors")
    assert weights.stat().st_size > 0


def test_without_it_installed_its_name_is_unknown(site: Path, tmp_path: Path) -> None:
    write_config(tmp_path)
    done = srum("run", "toy.yaml", site=tmp_path, cwd=tmp_path, env={"SRUM_PLUGINS_BLOCK": ""})
    assert done.returncode == 2
    assert "toy" in done.stderr
    assert "Known: bagel, blip3o, shapes." in done.stderr
