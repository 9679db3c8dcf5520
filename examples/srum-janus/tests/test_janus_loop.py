"""The whole loop on the CPU, by the config that is shipped: in this process, and installed by pip with the real command
line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from srum_janus import plugin as janus_plugin

from srum_plugins.config import load
from srum_plugins.errors import CapabilityError, ConfigError
from srum_plugins.host import PluginHost
from srum_plugins.stages.pipeline import run

EXAMPLE = Path(__file__).parent.parent
CONFIG = EXAMPLE / "tiny.yaml"


@pytest.fixture(scope="module")
def host() -> PluginHost:
    """With all that is installed, and Janus, which is not."""
    host = PluginHost.load(blocked=("tracking", "progress", "janus"))
    host.register(janus_plugin, "janus")
    return host


def settings(tiny: Path, folder: Path, *more: str) -> list[str]:
    return [f"adapter.checkpoint={tiny}", f"run.directory={folder}", "tracking.enabled=false", *more]


SMALL = ["prompts.count=3", "benchmark.prompts_per_split=2"]
PAIRED = ["grounder=grid", "objective=paired", "train.adapter.lora_rank=0"]
ENCODED = ["train.latents=encoded", "objective.anchor=0.1", "train.microbatch=2", "adapter.dtype=bfloat16"]


@pytest.mark.parametrize(
    "arm",
    [
        pytest.param([], id="srum"),
        pytest.param(PAIRED, id="paired", marks=pytest.mark.slow),
        pytest.param(ENCODED, id="encoded", marks=pytest.mark.slow),
    ],
)
def test_it_runs_from_prompts_to_a_summary(host: PluginHost, tiny: Path, tmp_path: Path, arm: list[str]) -> None:
    config = load(CONFIG, settings(tiny, tmp_path, "run.report=false", *SMALL, *arm), host)
    run(config, host, say=lambda text: None)
    told = json.loads((tmp_path / "summary.json").read_text())
    for split in ("in_domain", "out_of_domain"):
        assert told[split]["prompts"] == 2
        assert math.isclose(told[split]["after"] - told[split]["before"], told[split]["delta"], abs_tol=1e-9)
    assert told["understanding"]["identical"] is True

    (kept,) = (tmp_path / "stages/generate").glob("*/latents")
    assert any(kept.iterdir())
    (log,) = (tmp_path / "stages/train").glob("*/metrics.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 4
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["grad_norm"] > 0 for row in rows)
    (weights,) = (tmp_path / "stages/train").glob("*/weights/generation.safetensors")
    with safe_open(weights, "pt") as saved:
        assert any(".lora_" in name for name in saved.keys()) == ("lora_rank=0" not in str(arm))  # noqa: SIM118

    said: list[str] = []
    run(config, host, say=said.append)
    assert said[0].startswith("nothing to do")


def test_the_gate_says_what_fits_a_model_that_finds_no_boxes(host: PluginHost, tiny: Path, tmp_path: Path) -> None:
    config = load(CONFIG, settings(tiny, tmp_path, "grounder=native"), host)
    with pytest.raises(CapabilityError, match=r"'locate'.*these grounders work with it: components.*grid"):
        run(config, host, say=lambda text: None)


def test_a_folder_that_holds_no_janus_is_refused_before_anything_runs(
    host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "original").mkdir()
    (tmp_path / "original/config.json").write_text('{"model_type": "multi_modality"}')
    for place, why in (("nowhere", "neither a folder nor a hub id"), ("original", "the original code's layout")):
        with pytest.raises(ConfigError, match=rf"the adapter 'janus' of .* cannot run here: .*{why}"):
            run(load(CONFIG, settings(Path(place), tmp_path / "run"), host), host, say=lambda text: None)
    assert not (tmp_path / "run/stages").exists()


def test_objectives_that_a_cross_entropy_does_not_bound_are_refused(
    host: PluginHost, tiny: Path, tmp_path: Path
) -> None:
    more = ("objective.negative_weights=refuse", "objective.reference=best")
    config = load(CONFIG, settings(tiny, tmp_path, *more), host)
    with pytest.raises(ConfigError, match="no squared errors"):
        run(config, host, say=lambda text: None)


@pytest.mark.slow
def test_installed_by_pip_it_runs_by_the_command_line(tiny: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install", "--no-deps"]
    offline = ["--no-build-isolation", "--no-index", "--target", str(tmp_path / "site"), str(EXAMPLE)]
    done = subprocess.run([*pip, *offline], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def srum(*arguments: str) -> str:
        command = [sys.executable, "-m", "srum_plugins.cli", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = json.loads(srum("plugins", "--json"))
    (row,) = [row for row in rows if row["name"] == "janus"]
    assert (row["distribution"], row["version"], row["status"]) == ("srum-janus", "0.1.0", "ready")
    assert Path(row["file"].rsplit(":", 1)[0]) == tmp_path / "site/srum_janus/plugin.py"
    srum("run", str(CONFIG), *settings(tiny, tmp_path / "run"))
    assert json.loads((tmp_path / "run/summary.json").read_text())["understanding"]["identical"] is True
