"""The benchmark of BLIP3o runs on any checkpoint folder, and writes what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmark_module import load_benchmark
from blip3o_folder import write_blip3o


def test_it_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_blip3o(tmp_path / "blip3o")
    file = tmp_path / "figures.json"
    arguments = ["--checkpoint", str(tmp_path / "blip3o"), "--output", str(file), "--images", "2"]
    monkeypatch.setattr(sys, "argv", ["blip3o.py", *arguments])
    load_benchmark("blip3o").main()
    report = json.loads(file.read_text())
    assert report["device"] and report["attention"] == "sdpa" and report["side"] == 32
    for work in ("generate", "answer", "train"):
        assert all(value > 0 for value in report[work].values())
        assert report[work]["images_per_second"] == pytest.approx(2 / report[work]["seconds"])
