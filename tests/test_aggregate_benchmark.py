"""The benchmark of rewards: it measures the work of a run, on records that a run would accept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmark_module import load_benchmark


def test_it_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregate, reports = load_benchmark("aggregate"), []
    for aggregator in ("srum", "srum", "uniform"):
        file = tmp_path / "figures.json"
        given = f"--prompts 3 --regions 2 --grid 5 --aggregator {aggregator} --output {file}"
        monkeypatch.setattr(sys, "argv", ["aggregate.py", *given.split()])
        aggregate.main()
        reports.append(json.loads(file.read_text()))
    first, again, other = reports
    assert first["candidates"] == 12 and all(one["seconds"] > 0 for one in first["parts"].values())
    *parts, total = (one["seconds"] for one in first["parts"].values())
    assert total == pytest.approx(sum(parts))
    for digest in ("rewards_sha256", "tokens_sha256"):
        assert first[digest] == again[digest] != other[digest]
