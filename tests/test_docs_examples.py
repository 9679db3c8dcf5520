"""The providers of the documentation, as they are printed there, run the whole loop and keep their contracts."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_fixtures import toy_host, write_config
from snippets import ROOT, Page

from srum_plugins.config import load
from srum_plugins.stages.pipeline import run
from srum_plugins.testing.aggregators import AggregatorConformance
from srum_plugins.testing.attentions import AttentionConformance
from srum_plugins.testing.benchmarks import BenchmarkConformance
from srum_plugins.testing.grounders import GrounderConformance
from srum_plugins.testing.judges import JudgeConformance
from srum_plugins.testing.monitors import MonitorConformance
from srum_plugins.testing.objectives import ObjectiveConformance
from srum_plugins.testing.prompt_sets import PromptSetConformance


def defined(name: str) -> ModuleType:
    """The Python of a page as a module."""
    page = Page(ROOT / "docs" / name, Path())
    for example in page.examples():
        if page.path.read_text().splitlines()[example.line - 1] == "```python":
            example.evaluate()
    return page.module


KINDS = defined("kinds.md")
LINES = "a red tile\n\na blue tile\n"


def test_the_example_of_every_kind_takes_part_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = toy_host()
    host.register(KINDS, "kinds")
    (tmp_path / "prompts.txt").write_text(LINES)
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


class TestOwnEyes(GrounderConformance):
    plugin = KINDS
    name = "own-eyes"


class TestYesNo(JudgeConformance):
    plugin = KINDS
    name = "yes-no"


class TestMedian(AggregatorConformance):
    plugin = KINDS
    name = "median"


class TestMargin(ObjectiveConformance):
    plugin = KINDS
    name = "margin"


class TestLines(PromptSetConformance):
    plugin = KINDS
    name = "lines"

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        path = folder / "prompts.txt"
        path.write_text(LINES)
        return {"path": str(path)}


class TestStrongest(BenchmarkConformance):
    plugin = KINDS
    name = "strongest"


class TestOneByOne(AttentionConformance):
    plugin = KINDS
    name = "one-by-one"


class TestGrey(MonitorConformance):
    plugin = KINDS
    name = "grey"
