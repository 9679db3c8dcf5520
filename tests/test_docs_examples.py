"""The providers of the documentation, as they are printed there, run the whole loop."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from engine_fixtures import toy_host, write_config
from safetensors.torch import load_file
from snippets import DEMO, ROOT, Page

from srum_plugins.attention.contract import Heads
from srum_plugins.attention.probe import refusal
from srum_plugins.config import load
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.stages.pipeline import run
from srum_plugins.testing.adapters import AdapterConformance


def defined(name: str) -> ModuleType:
    """The Python of a page as a module."""
    page = Page(ROOT / "docs" / name, Path())
    for example in page.examples():
        if page.path.read_text().splitlines()[example.line - 1] == "```python":
            example.evaluate()
    return page.module


class TestTheModelOfTheTutorial(AdapterConformance):
    name = "paint"

    @classmethod
    def host(cls) -> PluginHost:
        host = PluginHost.load(entry_points=())
        host.register(defined("tutorial.md"), "paint")
        return host


def test_the_example_of_every_kind_takes_part_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = toy_host()
    host.register(defined("kinds.md"), "kinds")
    (tmp_path / "prompts.txt").write_text("a red tile\n\na blue tile\n")
    config = write_config(
        tmp_path,
        prompts={"name": "lines", "path": str(tmp_path / "prompts.txt")},
        grounder="own-eyes",
        judge="yes-no",
        aggregator="median",
        objective="margin",
        benchmark="strongest",
        monitors=[{"name": "grey", "every": 2}],
    )
    summary = run(load(config, (), host), host, say=lambda text: None)
    assert summary["arm"] == "median+margin"
    assert set(summary["in_domain"]["categories"]) == {"red", "green", "blue"}
    (noted,) = (tmp_path / "run/stages/train").glob("*/monitors.jsonl")
    assert '"grey"' in noted.read_text()
    steps = re.findall(r"^(\d+) [\d.]+$", capsys.readouterr().out, re.MULTILINE)
    assert [int(step) for step in steps] == list(range(len(steps))) and steps


def test_the_kernel_of_the_docs_computes_attention() -> None:
    host = PluginHost.load(entry_points=())
    host.register(defined("kinds.md"), "kinds")
    provider = host.get(Kind.ATTENTION, "one-by-one").provider
    assert refusal(provider.factory(provider.options()), Heads(4, 2, 8, "float32"), "cpu") == ""


def test_the_model_of_the_tutorial_learns_in_the_demo(tmp_path: Path) -> None:
    text = (ROOT / "docs/tutorial.md").read_text()
    module = defined("tutorial.md")
    host = installed_with(module)
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "paint.yaml"
    own = {"run": {"name": "paint", "directory": str(tmp_path / "run")}, "tracking": {"enabled": False}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(DEMO.read_text()), **yaml.safe_load(block), **own}))
    summary = run(load(path, (), host), host, say=lambda text: None)
    assert summary["in_domain"]["before"] == summary["in_domain"]["after"] == 0.0, "as the page says"
    assert summary["understanding"]["identical"] is True
    (log,) = (tmp_path / "run/stages/train").glob("*/metrics.jsonl")
    assert len(log.read_text().splitlines()) == 20
    start = module.Painter().palette
    (weights,) = (tmp_path / "run/stages/train").glob("*/weights/model.safetensors")
    trained = module.Painter()
    trained.load_state_dict(load_file(weights))
    assert float((trained.palette - start).detach().abs().max()) > 0.05, "the pictures change, as the page says"


def installed_with(module: ModuleType) -> PluginHost:
    """All plugins but the listeners, which print, and one more."""
    host = PluginHost.load(blocked=("tracking", "progress"))
    host.register(module, "paint")
    return host


def test_the_tutorial_has_as_many_lines_as_it_says() -> None:
    text = (ROOT / "docs/tutorial.md").read_text()
    code = "".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = [line for line in code.splitlines() if line.strip() and not re.match(r"(from|import) | *#", line)]
    assert len(lines) <= 100, len(lines)
