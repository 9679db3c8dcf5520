"""The benchmark of all arms: its overrides are configs that the gate accepts, and its tables are right."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_module import load_benchmark

from srum_plugins.config import load
from srum_plugins.gate import check
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.stages.pipeline import NAMES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def arms() -> ModuleType:
    return load_benchmark("arms")


def row(arm: str, seed: int, full: list[float], before: float = 0.5) -> dict[str, Any]:
    delta = sum(full) / len(full) - before
    figures = {"delta": delta, "ci95": [delta - 0.1, delta + 0.1]}
    splits = ("in_domain", "out_of_domain")
    sides = {"before": dict.fromkeys(splits, [before] * len(full)), "after": dict.fromkeys(splits, full)}
    return {"arm": arm, "seed": seed, **dict.fromkeys(splits, figures), "verdicts": sides}


def test_the_table_has_each_seed_and_all_together(arms: ModuleType) -> None:
    rows = [row("paired", 0, [1.0, 1.0]), row("paired", 1, [1.0, 0.0]), row("uniform", 1, [0.0, 0.0])]
    lines = arms.table(rows).splitlines()
    assert lines[0] == "| arm | split | seed 0 | seed 1 | all seeds |"
    # Over both seeds the two prompts gain 0.5 and 0: an interval from the one to the other.
    assert (
        "| paired | in-domain | +0.500 [+0.400, +0.600] | +0.000 [-0.100, +0.100] | +0.250 [+0.000, +0.500] |" in lines
    )
    assert "| uniform | out-of-domain |  | -0.500 [-0.600, -0.400] | -0.500 [-0.500, -0.500] |" in lines
    assert len(lines) == 2 + 2 * 2


def test_an_arm_is_compared_with_the_control_of_its_own_seed(arms: ModuleType) -> None:
    rows = [row("uniform", 0, [0.0, 1.0]), row("paired", 0, [1.0, 1.0]), row("paired", 1, [1.0, 1.0])]
    lines = arms.against(rows, "uniform").splitlines()
    assert lines[0] == "| arm minus uniform | split | seed 0 | seed 1 | all seeds |"
    assert lines[2].startswith("| paired | in-domain | +0.500 [")
    assert lines[2].endswith("] |  | +0.500 [+0.000, +1.000] |")
    assert len(lines) == 2 + 2


def test_every_arm_passes_the_gate(arms: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    host = PluginHost.load()
    for overrides in arms.ARMS.values():
        config = load(Path("configs/demo.yaml"), list(overrides), host)
        others = {kind.value: choice for kind, choice in config.providers.items() if kind is not Kind.ADAPTER}
        providers = {slot: (choice.registered, choice.options) for slot, choice in others.items()}
        check(config.providers[Kind.ADAPTER].registered, providers, NAMES)
