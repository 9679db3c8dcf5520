"""What the tests of the engine share: a host with the toy backend, configs on disk, run directories to compare."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import toy_backend
import yaml
from fakes import Site

from srum_plugins import hookimpl
from srum_plugins.attention import plugin as attention_plugin
from srum_plugins.attention.contract import Heads
from srum_plugins.config import RunConfig, load
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider
from srum_plugins.rewards import plugin as rewards_plugin
from srum_plugins.stages.pipeline import run

OURS = (
    # plugins that the toy runs do without
    "attention,tracking,progress,bagel,blip3o,shapes,native,components,fixed,file,choice,rubric,questions,http,"
    "compbench,reasonbench,prompt_file,monitors"
)


def toy_host() -> PluginHost:
    host = PluginHost.load(entry_points=())
    host.register(toy_backend, "toy")
    host.register(rewards_plugin, "rewards")
    return host


def attentive(options: Any, device: str, attention: Any) -> toy_backend.ToyAdapter:
    return toy_backend.ToyAdapter(options, device)


def attentive_host(factory: Callable[..., Any] = attentive) -> PluginHost:
    """With the kernels, and the toy model as one that takes an attention."""

    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            toy = toy_backend.srum_model_adapters()[0]
            heads = Heads(4, 2, 8, "float32")
            return [dataclasses.replace(toy, name="attentive", factory=factory, heads=lambda options: (heads,))]

    host = toy_host()
    host.register(attention_plugin, "attention")
    host.register(Plugin(), "attentive")
    return host


def write_config(folder: Path, **sections: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_backend.config(folder / "run", **sections)))
    return path


def toy_config(folder: Path, *overrides: str, host: PluginHost | None = None) -> RunConfig:
    path = folder / "toy.yaml"
    return load(path if path.exists() else write_config(folder), overrides, host or toy_host())


def toy_run(folder: Path, *overrides: str, only: str | None = None, host: PluginHost | None = None) -> list[str]:
    """Run in this process; returns what was said."""
    said: list[str] = []
    host = host or toy_host()
    run(toy_config(folder, *overrides, host=host), host, only=only, say=said.append)
    return said


def install_toy(site: Path) -> None:
    """The toy backend as a distribution of its own on a path."""
    source = Path(toy_backend.__file__).read_text()
    Site(site).install("toy-backend", {"toy": "toy_backend"}, {"toy_backend.py": source})


def srum(
    *arguments: str, site: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The real command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(site), "SRUM_PLUGINS_BLOCK": OURS, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "srum_plugins.cli", *arguments],
        env={**environment, "COLUMNS": "120", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run directory with its bytes, but for times and lock files."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name in ("seconds.json", "lock", "report.html") or path.name.startswith("cost-"):
            continue
        name = str(path.relative_to(run))
        if name == "summary.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
        elif name == "config.yaml":
            found[name] = path.read_text().replace(str(run), "RUN")
        else:
            found[name] = path.read_bytes()
    return found


def directories(run: Path) -> dict[str, set[str]]:
    """The fingerprints on disk by stage."""
    return {stage.name: {entry.name for entry in stage.iterdir() if entry.is_dir()} for stage in run.glob("stages/*")}
