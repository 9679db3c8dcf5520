"""The memory of a run: what is counted, and that the estimate is what a real run holds."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from benchmark_module import load_benchmark
from engine_fixtures import install_toy, srum, toy_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from real_steps import peak_of_a_step
from release_folder import write_release
from srum_bagel import released
from srum_bagel.memory import weightless
from srum_bagel.options import AdapterOptions, Sampling, Training
from srum_bagel.released import preparation

from srum_plugins import cli
from srum_plugins.config import TrainSection, load
from srum_plugins.contracts import Capability, GenerationRequest, Objective, Question
from srum_plugins.errors import CheckpointError
from srum_plugins.hookspecs import hookimpl
from srum_plugins.host import PluginHost
from srum_plugins.memory.eight_bit import EightBit
from srum_plugins.memory.estimate import estimate
from srum_plugins.memory.tracker import Tracker, ValueNeededError, fused_attention
from srum_plugins.memory.workload import STAGES, Asking, Drawing, Estimate, Learning, Workload, workload
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt
from srum_plugins.rewards.objectives import Paired, PairedOptions, Weighted, WeightedOptions
from srum_plugins.stages.pipeline import run
from srum_plugins.training import optimizers

ROOT = Path(__file__).parents[1]
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])
BATCH, IMAGES, WORDS = 3, 4, 32
TEXT = " ".join(["word"] * WORDS)


@DEVICES
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 1000))))
def test_the_tracker_counts_what_is_held_and_the_most_that_was(device: str, steps: list[tuple[bool, int, int]]) -> None:
    held: dict[int, torch.Tensor] = {}
    sizes: dict[int, int] = {}
    most = 0
    with Tracker(device) as tracker:
        for keep, place, size in steps:
            if keep and place not in held:
                held[place] = torch.empty(size, device=device)
                sizes[place] = 4 * size
            elif place in held:
                view = held.pop(place)[:1].mul_(2)  # neither a view nor a change in place is a new tensor
                del view, sizes[place]
            most = max(most, sum(sizes.values()))
            assert tracker.live == sum(sizes.values())
        assert tracker.peak == most
        tracker.restart()
        assert tracker.peak == tracker.live


def test_only_the_devices_that_were_named_are_counted() -> None:
    before = torch.empty(100, device="meta")
    with Tracker("meta") as tracker:
        host = torch.empty(1000)
        assert (tracker.live, host.nbytes) == (0, 4000)
        tracker.hold([before, before[:3], host])
        assert tracker.live == 400
        del before
        assert tracker.live == 0


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.tolist, bool, torch.Tensor.cpu])
def test_a_value_that_is_not_there_is_asked_for(read: Any) -> None:
    with Tracker("meta"), pytest.raises(ValueNeededError):
        read(torch.empty(1, device="meta"))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_memory_holds_what_the_cpu_does(masked: bool) -> None:
    peaks = []
    for device in ("cpu", "meta"):
        query = torch.randn(2, 4, 300, 16, device=device, requires_grad=True)
        key = torch.randn(2, 2, 300, 16, device=device, requires_grad=True)
        mask = torch.ones(2, 1, 300, 300, dtype=torch.bool, device=device) if masked else None
        with fused_attention(), Tracker(device) as tracker:
            out = torch.nn.functional.scaled_dot_product_attention(query, key, key, attn_mask=mask, enable_gqa=True)
            out.sum().backward()
        peaks.append(tracker.peak)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)
    scores = 2 * 4 * 300 * 300 * 4
    assert max(peaks) < scores + (2 * 300 * 300 * 4 if masked else 0)


@pytest.fixture(scope="module")
def bagel() -> ModuleType:
    return load_benchmark("bagel")


def real_step(bagel: ModuleType, dtype: torch.dtype, learning: Learning) -> int:
    """The peak of a real training step, after one that makes the optimizer's state."""
    config, side = bagel.SIZES["small"]
    with Tracker("cpu") as tracker:
        model = bagel.build(config, side, torch.device("cpu"), dtype)
        latents = model.encode([Image.new("RGB", (side, side))] * BATCH)
        return peak_of_a_step(model, list(latents), (side, side), TEXT, learning, tracker)


def guess(bagel: ModuleType, dtype: torch.dtype, **asked: Any) -> Estimate:
    config, side = bagel.SIZES["small"]
    return estimate(
        lambda: weightless(config, dtype, (side, side), bagel.LONGEST_ANSWER, preparation(config)),
        Workload("cpu", words=WORDS, questions=1, **asked),
    )


@pytest.mark.parametrize(
    ("dtype", "objective", "training", "ema"),
    [
        (torch.float32, Weighted(WeightedOptions()), Training(), 0.0),
        (torch.bfloat16, Weighted(WeightedOptions()), Training(checkpointing=False), 0.9),
        (torch.float32, Paired(PairedOptions()), Training(scope="all"), 0.0),
        (torch.bfloat16, Paired(PairedOptions()), Training(lora_rank=8), 0.0),
    ],
    ids=["recomputed", "bfloat16 with an average", "all, with a base", "low rank, with a base"],
)
def test_a_training_step_holds_what_was_estimated(
    bagel: ModuleType, dtype: torch.dtype, objective: Objective, training: Training, ema: float
) -> None:
    learning = Learning(TrainSection(batch=BATCH, ema=ema), training, objective, None)
    found = guess(bagel, dtype, learning=learning)
    steps = [work for work in found.works if not work.name.startswith("encode")]
    assert max(work.peak for work in steps) == pytest.approx(real_step(bagel, dtype, learning), rel=0.1)
    assert all(work.held <= sum(found.held.values()) for work in found.works)
    assert ("base" in found.held) == (objective.uses_base and not training.lora_rank)
    assert ("average" in found.held) == (ema > 0)
    assert found.per_example is not None and found.per_example > 0


def test_drawing_and_answering_hold_what_was_estimated(bagel: ModuleType) -> None:
    config, side = bagel.SIZES["small"]
    sampling = Sampling(points=4)
    found = guess(
        bagel,
        torch.float32,
        drawing={"generate": Drawing(IMAGES, None, sampling)},
        asking={"judge": Asking(IMAGES, None, frozenset({Capability.ANSWER, Capability.CHOICE}))},
    )
    images = [Image.new("RGB", (side, side)) for _ in range(IMAGES)]
    requests = [GenerationRequest(Prompt(str(seed), TEXT), seed) for seed in range(IMAGES)]
    real = []
    with Tracker("cpu") as tracker:
        model = bagel.build(config, side, torch.device("cpu"), torch.float32)
        for work in (
            lambda: model.generate(requests, sampling),
            lambda: model.answer([Question(image, TEXT) for image in images]),
            lambda: model.choice_logprobs([Question(image, TEXT, ("yes", "no")) for image in images]),
        ):
            gc.collect()
            tracker.restart()
            work()
            real.append(tracker.peak)
    assert [work.name.partition(" ")[0] for work in found.works] == ["draw", "answer,", "choice,"]
    assert [work.peak for work in found.works] == pytest.approx(real, rel=0.1)
    assert found.peak == max(work.peak for work in found.works)


def test_asking_for_all_phrases_at_once_holds_less_than_for_each(bagel: ModuleType) -> None:
    config, side = bagel.SIZES["small"]
    asking = Asking(IMAGES, None, frozenset({Capability.LOCATE, Capability.LOCATE_ALL}))
    found = estimate(
        lambda: weightless(config, torch.float32, (side, side), bagel.LONGEST_ANSWER, preparation(config)),
        Workload("cpu", words=8, questions=6, asking={"ground": asking}),
    )
    each, at_once = found.works
    assert each.name.startswith("locate, ") and at_once.name.startswith("locate-all, ")
    assert 0 < at_once.activations < each.activations


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 4352, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_in_eight_bits_take_a_byte_and_a_share_of_a_scale(count: int, dtype: torch.dtype) -> None:
    parameter = torch.nn.Parameter(torch.empty(count, dtype=dtype, device="meta"))
    parameter.grad = torch.empty_like(parameter)
    optimizer = EightBit([parameter])
    with Tracker("meta") as tracker:
        optimizer.step()
        optimizer.step()
    quantised = count in (4096, 4352, 65536)
    assert tracker.live == 2 * (count + count // 256 * 4 + 1024 if quantised else parameter.nbytes)


@pytest.mark.slow
def test_moments_in_eight_bits_are_those_of_torchao() -> None:
    pytest.importorskip("torchao")
    parameters = {str(n): torch.nn.Parameter(torch.randn(n, dtype=torch.bfloat16)) for n in (10, 4096, 4097, 65536)}
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    real = optimizers.build(TrainSection(optimizer="adamw8bit"), parameters)
    real.step()
    tensors = optimizers.state_tensors(real, parameters)
    ours = EightBit(parameters.values())
    with Tracker("cpu") as tracker:
        ours.step()
    assert tracker.live == sum(value.nbytes for name, value in tensors.items() if not name.startswith("step/"))


def test_a_released_checkpoint_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, autoencoder = write_release(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(released, "load_release", refuse)
    given = released.without_weights(AdapterOptions(str(tmp_path), size=(64, 64)))
    assert given.size == (64, 64)
    model: Any = given.model
    assert {name: value.shape for name, value in model.model.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert {value.dtype for value in model.model.parameters()} == {torch.bfloat16}
    sizes = [sum(value.nbytes for value in one.model.parameters()) for one in (autoencoder, model.autoencoder)]
    assert sizes[0] == sizes[1] > 0
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="is not on this machine, and nothing is downloaded for an estimate"):
        released.without_weights(AdapterOptions("somebody/something", revision="0" * 40))


def test_the_command_prints_tables_and_json_of_a_released_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_release(tmp_path / "release")
    config = {
        "adapter": {"name": "bagel", "checkpoint": str(tmp_path / "release"), "size": [64, 64], "answer_tokens": 64},
        "prompts": {"name": "shapes", "count": 8},
        **{"grounder": "native", "judge": "choice", "aggregator": "srum", "objective": "srum", "benchmark": "shapes"},
        "generate": {"chunk": 2, "sampling": {"points": 3, "think": True, "think_tokens": 20}},
        "evaluate": {"chunk": 2, "sampling": {"points": 3}},
        "train": {"batch": 2, "optimizer": "adamw8bit"},
        "run": {"device": "cuda"},
    }
    file = tmp_path / "release.yaml"
    file.write_text(yaml.safe_dump(config))
    arguments = ["doctor", "--memory", str(file), "ground.chunk=2", "judging.chunk=2"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda"
    assert found["held"]["gradients"] == found["held"]["model, trained"]
    assert list(dict.fromkeys(work["stage"] for work in found["works"])) == list(STAGES)
    assert found["peak"] == max(work["held"] + work["activations"] for work in found["works"])
    assert list(tmp_path.glob("runs")) == []

    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for words in ("model, frozen", "optimizer", "forward and backward, batch of 2", "Assumed:", "Not counted:"):
        assert words in out


def test_an_adapter_that_cannot_tell_is_named(tmp_path: Path) -> None:
    install_toy(tmp_path / "site")
    toy_config(tmp_path)
    site, path = tmp_path / "site", f"{tmp_path / 'site'}{os.pathsep}{ROOT}"
    process = srum("doctor", "--memory", "toy.yaml", site=site, cwd=tmp_path, env={"PYTHONPATH": path})
    assert (process.returncode, process.stdout) == (2, "")
    assert "its provider has no `weightless`" in process.stderr
    assert "Traceback" not in process.stderr


STEPS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
import torch
sys.path.insert(0, sys.argv[1])
from test_memory import MIDDLE, guess, load_benchmark, real_step
from srum_bagel.options import Training
from srum_plugins.config import TrainSection
from srum_plugins.memory.workload import Learning
from srum_plugins.rewards.objectives import Weighted, WeightedOptions

bagel = load_benchmark("bagel")
learning = Learning(TrainSection(batch=3), Training(checkpointing=False), Weighted(WeightedOptions()), None)
real_step(bagel, torch.float32, learning)  # so that libraries are there
bagel.SIZES["small"] = (replace(bagel.SMALL, llm=replace(bagel.SMALL.llm, **MIDDLE)), 256)
estimated = guess(bagel, torch.float32, learning=learning).peak
start = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
real_step(bagel, torch.float32, learning)
print(json.dumps([estimated, getrusage(RUSAGE_SELF).ru_maxrss * 1024 - start]))
"""
MIDDLE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 16}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory as Linux tells it")
def test_a_process_grows_by_what_was_estimated() -> None:
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(ROOT / "tests")],
        env={**os.environ, **given_back},
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, grown = json.loads(done.stdout)
    assert estimated == pytest.approx(grown, rel=0.1)


@pytest.mark.slow
def test_a_whole_run_holds_what_was_estimated(tmp_path: Path) -> None:
    peaks: dict[str, int] = {}

    class Listener:
        @hookimpl
        def srum_stage_started(self) -> None:
            tracker.restart()

        @hookimpl
        def srum_stage_finished(self, stage: str) -> None:
            peaks[stage] = tracker.peak

    host = PluginHost.load(blocked=["progress", "tracking"])
    host.register(Listener(), "listener")
    shorter = ["prompts.count=64", "train.steps=3", "benchmark.prompts_per_split=96", "benchmark.questions=0"]
    config = load(ROOT / "configs/demo.yaml", [f"run.directory={tmp_path / 'run'}", *shorter], host)
    with Tracker("cpu") as tracker:
        run(config, host)
    choice = config.providers[Kind.ADAPTER]
    make = choice.registered.provider.weightless
    assert make is not None
    found = estimate(lambda: make(choice.options), workload(config))
    for stage in STAGES:
        guessed = max(work.peak for work in found.works if work.stage == stage)
        assert guessed == pytest.approx(peaks[stage], rel=0.1), stage
    assert found.peak == pytest.approx(max(peaks.values()), rel=0.1)
