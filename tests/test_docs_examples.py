"""The providers of the documentation, as they are printed there, run the whole loop."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from engine_fixtures import toy_host, write_config
from snippets import ROOT, Page

from srum_plugins.attention.contract import Heads
from srum_plugins.attention.probe import refusal
from srum_plugins.config import load
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.stages.pipeline import run


def defined(name: str) -> ModuleType:
    """The Python of a page as a module."""
    page = Page(ROOT / "docs" / name, Path())
    for example in page.examples():
        if page.path.read_text().splitlines()[example.line - 1] == "```python":
            example.evaluate()
    return page.module


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
