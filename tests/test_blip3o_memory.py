"""The memory of a run with BLIP3o: that the estimate is what a real one holds, and what it reads."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from benchmark_module import load_benchmark
from blip3o_folder import write_blip3o
from blip3o_qwen import full_layout
from PIL import Image
from real_steps import peak_of_a_step
from srum_blip3o import released
from srum_blip3o.adapter import Blip3oAdapter
from srum_blip3o.eva import EvaTower
from srum_blip3o.memory import weightless
from srum_blip3o.networks import new_networks
from srum_blip3o.options import AdapterOptions, Sampling, Training

from srum_plugins import cli
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.config import TrainSection
from srum_plugins.contracts import Capability, GenerationRequest, Objective, Question
from srum_plugins.errors import CheckpointError
from srum_plugins.memory.estimate import estimate
from srum_plugins.memory.tracker import Tracker
from srum_plugins.memory.workload import STAGES, Asking, Drawing, Estimate, Learning, Workload
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Paired, PairedOptions, Weighted, WeightedOptions

CPU = torch.device("cpu")
BATCH, IMAGES, WORDS, SIDE = 3, 4, 32, 128
TEXT = " ".join(["word"] * WORDS)
UNDERSTANDING = frozenset({Capability.ANSWER, Capability.CHOICE, Capability.LOCATE})


@pytest.fixture(scope="module")
def blip3o() -> ModuleType:
    return load_benchmark("blip3o")


def guess(blip3o: ModuleType, dtype: torch.dtype, **asked: Any) -> Estimate:
    return estimate(
        lambda: weightless(blip3o.SIZES["small"], dtype, blip3o.LONGEST_ANSWER),
        Workload("cpu", words=WORDS, questions=1, **asked),
    )


def real(blip3o: ModuleType, dtype: torch.dtype) -> Blip3oAdapter:
    made: Blip3oAdapter = blip3o.build(blip3o.SIZES["small"], CPU, dtype, SDPA())
    return made


def real_step(blip3o: ModuleType, dtype: torch.dtype, learning: Learning) -> int:
    """The peak of a real training step, after one that makes the optimizer's state."""
    prior = blip3o.SIZES["small"].prior
    latents = [torch.randn(prior.channels, prior.grid, prior.grid) for _ in range(BATCH)]
    with Tracker("cpu") as tracker:
        return peak_of_a_step(real(blip3o, dtype), latents, (SIDE, SIDE), TEXT, learning, tracker)


@pytest.mark.parametrize(
    ("dtype", "objective", "training", "ema"),
    [
        (torch.float32, Weighted(WeightedOptions()), Training(), 0.0),
        (torch.bfloat16, Weighted(WeightedOptions()), Training(checkpointing=True), 0.9),
        (torch.float32, Paired(PairedOptions()), Training("prior+queries"), 0.0),
        (torch.float32, Weighted(WeightedOptions()), Training("prior+queries", checkpointing=True), 0.0),
        (torch.bfloat16, Paired(PairedOptions()), Training(lora_rank=8), 0.0),
    ],
    ids=["prior", "recomputed, with an average", "with queries and a base", "with queries, recomputed", "low rank"],
)
def test_a_training_step_holds_what_was_estimated(
    blip3o: ModuleType, dtype: torch.dtype, objective: Objective, training: Training, ema: float
) -> None:
    learning = Learning(TrainSection(batch=BATCH, ema=ema), training, objective, None)
    found = guess(blip3o, dtype, learning=learning)
    assert not any(work.name.startswith("encode") for work in found.works)  # trained on as they were kept
    assert max(work.peak for work in found.works) == pytest.approx(real_step(blip3o, dtype, learning), rel=0.1)
    assert {"language_model", "vision_tower", "decoder", "prior, trained", "gradients", "optimizer"} <= set(found.held)
    assert ("base" in found.held) == (objective.uses_base and not training.lora_rank)
    assert ("average" in found.held) == (ema > 0)
    assert found.per_example is not None and found.per_example > 0


def test_every_other_work_holds_what_was_estimated(blip3o: ModuleType) -> None:
    learning = Learning(TrainSection(batch=1, latents="encoded"), Training(), Weighted(WeightedOptions()), None)
    sampling = Sampling(prior_steps=3, steps=3)
    found = guess(
        blip3o,
        torch.float32,
        drawing={"generate": Drawing(IMAGES, None, sampling)},
        asking={"judge": Asking(IMAGES, None, UNDERSTANDING)},
        learning=learning,
    )
    images = [Image.new("RGB", (SIDE, SIDE)) for _ in range(IMAGES)]
    requests = [GenerationRequest(Prompt(str(seed), TEXT), seed) for seed in range(IMAGES)]
    with Tracker("cpu") as tracker:
        model = real(blip3o, torch.float32)
        works: list[Callable[[], object]] = [
            lambda: model.generate(requests, sampling),
            lambda: model.answer([Question(image, TEXT) for image in images]),
            lambda: model.choice_logprobs([Question(image, TEXT, ("yes", "no")) for image in images]),
            lambda: model.locate(images, [[TEXT]] * IMAGES),
            lambda: model.encode(images[:1]),
        ]
        peaks = []
        for work in works:
            gc.collect()
            tracker.restart()
            work()
            peaks.append(tracker.peak)
    guessed = [work for work in found.works if "batch" not in work.name and work.name != "update"]
    assert [work.name.split()[0].strip(",") for work in guessed] == ["draw", "answer", "choice", "locate", "encode"]
    assert [work.peak for work in guessed] == pytest.approx(peaks, rel=0.1)


@pytest.mark.parametrize(
    ("size", "qwen", "prior"),
    [("8b", (3584, 18944, 28, 512, False), 1_365_010_336), ("4b", (2048, 11008, 36, 256, True), 1_362_257_824)],
)
def test_the_large_sizes_are_those_of_the_release(
    blip3o: ModuleType, size: str, qwen: tuple[int, int, int, int, bool], prior: int
) -> None:
    dimensions = blip3o.SIZES[size]
    networks = new_networks(dimensions, torch.device("meta"), torch.bfloat16, SDPA())

    def count(network: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(networks.prior) == prior + 64 * dimensions.prior.condition  # blip3o.md 1.4
    assert count(networks.decoder.unet) == 2_525_520_644
    assert networks.tower is not None and count(networks.tower()) == 4_350_208_256
    assert networks.decoder.noise_shape == (4, 128, 128) and networks.decoder.downsample == 8
    assert count(networks.qwen.model) == sum(math.prod(shape) for shape in full_layout(*qwen).values())
    assert {parameter.dtype for parameter in networks.qwen.model.parameters()} == {torch.bfloat16}


def test_a_released_checkpoint_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_blip3o(tmp_path / "blip3o")
    loaded = released.build(AdapterOptions(str(tmp_path / "blip3o")), "cpu")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    for name in ("load_qwen", "load_prior", "load_decoder"):
        monkeypatch.setattr(released, name, refuse)
    given = released.without_weights(AdapterOptions(str(tmp_path / "blip3o")))
    assert (given.size, given.latents) == ((32, 32), (16, 8, 8))
    model: Any = given.model

    def shapes(adapter: Any) -> list[dict[str, tuple[torch.Size, torch.dtype]]]:
        networks: list[torch.nn.Module] = [adapter.qwen.model, adapter.prior, adapter.decoder, adapter.tower]
        assert isinstance(networks[-1], EvaTower)
        return [{name: (each.shape, each.dtype) for name, each in one.named_parameters()} for one in networks]

    assert shapes(model) == shapes(loaded)
    assert all(parameter.is_meta for parameter in model.qwen.model.parameters())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="is not on this machine, and nothing is downloaded for an estimate"):
        released.without_weights(AdapterOptions("somebody/something", revision="0" * 40))


@pytest.mark.parametrize("tower", [True, False])
def test_the_command_tells_the_memory_of_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tower: bool
) -> None:
    """Without a tower of what trains on kept features; with one, what encodes too."""
    write_blip3o(tmp_path / "blip3o", tower=tower)
    config = {
        "adapter": {"name": "blip3o", "checkpoint": str(tmp_path / "blip3o"), "answer_tokens": 64},
        "prompts": {"name": "shapes", "count": 8},
        **{"grounder": "native", "judge": "choice", "aggregator": "srum", "objective": "srum", "benchmark": "shapes"},
        "generate": {"chunk": 2},
        "evaluate": {"chunk": 2},
        "train": {"batch": 2, "optimizer": "adamw8bit", "latents": "encoded" if tower else "kept"},
        "run": {"device": "cuda"},
    }
    file = tmp_path / "blip3o.yaml"
    file.write_text(yaml.safe_dump(config))
    assert cli.main(["doctor", "--memory", str(file), "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["held"]["gradients"] == found["held"]["prior, trained"]
    assert list(dict.fromkeys(work["stage"] for work in found["works"])) == list(STAGES)
    assert ("encode 1 image of 32x32" in [work["name"] for work in found["works"]]) == tower
    assert found["peak"] == max(work["held"] + work["activations"] for work in found["works"])


STEPS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
import torch
sys.path.insert(0, sys.argv[1])
from test_blip3o_memory import guess, load_benchmark, real_step
from srum_blip3o.options import Training
from srum_blip3o.prior import PriorConfig
from srum_plugins.config import TrainSection
from srum_plugins.memory.workload import Learning
from srum_plugins.rewards.objectives import Weighted, WeightedOptions

blip3o = load_benchmark("blip3o")
learning = Learning(TrainSection(batch=3), Training("prior+queries"), Weighted(WeightedOptions()), None)
real_step(blip3o, torch.float32, learning)  # so that libraries are there
language = blip3o.language(8192, 1024, 4096, 6, 8, 2, False, blip3o.SMALL_VISION)
blip3o.SIZES["small"] = replace(
    blip3o.SIZES["small"], qwen=language, prior=PriorConfig(1024, channels=512, layers=12, heads=8)
)
estimated = guess(blip3o, torch.float32, learning=learning).peak
start = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
real_step(blip3o, torch.float32, learning)
print(json.dumps([estimated, getrusage(RUSAGE_SELF).ru_maxrss * 1024 - start]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory as Linux tells it")
def test_a_process_grows_by_what_was_estimated() -> None:
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(Path(__file__).parent)],
        env={**os.environ, **given_back},
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, grown = json.loads(done.stdout)
    assert estimated == pytest.approx(grown, rel=0.1)
