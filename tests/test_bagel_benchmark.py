"""The benchmark of BAGEL: it measures the released dimensions, and runs."""

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_module import load_benchmark
from PIL import Image
from srum_bagel.model import Bagel
from torch.utils.flop_counter import FlopCounterMode

from srum_plugins.attention.contract import Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.attention.sdpa import SDPA


@pytest.fixture(scope="module")
def bagel() -> ModuleType:
    return load_benchmark("bagel")


def test_the_large_size_is_that_of_the_release(bagel: ModuleType) -> None:
    with torch.device("meta"):
        model = Bagel(bagel.SEVEN)
    assert sum(value.numel() for value in model.state_dict().values()) == 14_607_260_128  # bagel.md 1.1
    assert len(model.state_dict()) == 1223  # bagel.md 1.3
    assert (bagel.SEVEN.latent_token_dim, bagel.SEVEN.latent_stride) == (64, 16)


def test_it_writes_what_it_measured(bagel: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = dataclasses.replace(bagel.SMALL.llm, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    monkeypatch.setitem(bagel.SIZES, "small", (dataclasses.replace(bagel.SMALL, llm=llm), 64))
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bagel.py", "--points", "3", "--output", str(file)])
    bagel.main()
    report = json.loads(file.read_text())
    assert report["device"] and report["attention"] == "sdpa" and report["size"] == "small" and report["side"] == 64
    for work in ("generate", "answer", "train"):
        figures = report[work]
        assert all(value > 0 for value in figures.values())
        assert figures["images_per_second"] == pytest.approx(2 / figures["seconds"])
    assert report["generate"]["tokens_per_second"] == pytest.approx(2 * 64 * 2 / report["generate"]["seconds"])
    # A training step is a forward and, with recomputation, another and a backward of twice that.
    assert report["train"]["teraflop"] > report["generate"]["teraflop"] / 4


@pytest.mark.parametrize("causal", [False, True])
def test_operations_of_attention_are_counted_whoever_knows_the_kernel(causal: bool) -> None:
    """The dense reference computes every pair, of which a causal text sees about half."""
    counted = {}
    for kernel in (Dense(), SDPA()):
        measure = load_benchmark("measure")
        parts = [torch.randn(20, 2, 8, requires_grad=True) for _ in range(3)]
        attention = measure.counting(kernel, torch.device("cpu"), torch.float32)
        with FlopCounterMode(display=False) as counter:
            attention.attend(*parts, Segments.of([20], [20], causal)).sum().backward()
        counted[type(attention).__name__] = (counter.get_total_flops(), getattr(attention, "operations", 0))
    product = 2 * 2 * 8 * (20 * 21 // 2 if causal else 20 * 20)
    assert counted["Counting"] == (0, 7 * product)
    assert counted["Dense"] == (6 * 2 * 2 * 8 * 20 * 20, 0)  # it keeps the scores, and need not compute them again


@pytest.mark.parametrize("eight_bit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_trains_bfloat16_weights_as_on_a_gpu(bagel: ModuleType, eight_bit: bool) -> None:
    if eight_bit:
        pytest.importorskip("torchao")
    llm = dataclasses.replace(bagel.SMALL.llm, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    device = torch.device("cpu")
    adapter = bagel.build(dataclasses.replace(bagel.SMALL, llm=llm), 128, device, torch.bfloat16)
    assert {value.dtype for value in adapter.model.state_dict().values()} == {torch.bfloat16}
    measure, latents = load_benchmark("measure"), adapter.encode([Image.new("RGB", (128, 128))])
    step, gradients = measure.training(adapter, bagel.Training(), list(latents), (128, 128), eight_bit)
    figures = measure.measured(step, device, 1e12, counted=gradients)
    assert figures["teraflop"] > 0 and figures["seconds"] > 0
