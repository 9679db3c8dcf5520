"""The benchmark of BLIP3o: with random weights and on any checkpoint folder it writes what it measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_module import load_benchmark
from blip3o_folder import write_blip3o
from srum_blip3o.prior import Prior, PriorConfig

from srum_plugins.attention.sdpa import SDPA


@pytest.fixture(scope="module")
def blip3o() -> ModuleType:
    return load_benchmark("blip3o")


def reported(blip3o: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Any:
    file = folder / "figures.json"
    monkeypatch.setattr(sys, "argv", ["blip3o.py", *arguments, "--output", str(file)])
    blip3o.main()
    return json.loads(file.read_text())


@pytest.mark.parametrize("weights", ["random", "of a folder"])
def test_it_writes_what_it_measured(
    blip3o: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    folder, few = tmp_path / "blip3o", ["--prior-steps", "2", "--steps", "2"]
    if weights == "random":
        smaller = replace(blip3o.SMALL, prior=PriorConfig(512, channels=256, layers=1, heads=4))
        monkeypatch.setitem(blip3o.SIZES, "small", smaller)
        report = reported(blip3o, monkeypatch, tmp_path, *few)
    else:
        write_blip3o(folder)
        report = reported(blip3o, monkeypatch, tmp_path, "--checkpoint", str(folder), *few)
    assert (report["size"], report["side"]) == (("small", 128) if weights == "random" else (str(folder), 32))
    assert report["device"] and report["attention"] == "sdpa" and report["parameters"] > 0
    for work in ("generate", "answer", "train"):
        assert all(value > 0 for value in report[work].values())
        assert report[work]["images_per_second"] == pytest.approx(2 / report[work]["seconds"])
    assert report["train"]["tokens_per_second"] == pytest.approx(2 * 64 / report["train"]["seconds"])


@pytest.mark.parametrize("size", ["small", pytest.param("4b", marks=pytest.mark.slow)])
def test_the_memory_of_a_size_is_told_without_a_checkpoint(
    blip3o: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["blip3o.py", "--size", size, "--device", "cuda", "--memory", "--images", "1"])
    blip3o.main()
    (told,) = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("prior, trained")]
    with torch.device("meta"):
        moved = Prior(blip3o.SIZES[size].prior).prior_parameters()
    assert float(told) == pytest.approx(2 * sum(one.numel() for one in moved.values()) / 2**30, abs=0.005)


@pytest.mark.parametrize("eight_bit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_trains_bfloat16_weights_as_on_a_gpu(blip3o: ModuleType, eight_bit: bool) -> None:
    if eight_bit:
        pytest.importorskip("torchao")
    adapter = blip3o.build(blip3o.SMALL, torch.device("cpu"), torch.bfloat16, SDPA())
    networks = (adapter.qwen.model, adapter.prior, adapter.decoder)
    assert {each.dtype for network in networks for each in network.parameters()} == {torch.bfloat16}
    measure = load_benchmark("measure")
    step, gradients = measure.training(
        adapter, blip3o.Training(), list(torch.randn(1, 256, 8, 8)), (128, 128), eight_bit
    )
    figures = measure.measured(step, torch.device("cpu"), 1e12, counted=gradients)
    assert figures["teraflop"] > 0 and figures["seconds"] > 0
