"""Two processes make the steps of one: torch's DistributedDataParallel and fully_shard, on gloo."""

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launch
from safetensors.torch import load_file
from srum_bagel.options import Training
from srum_shapes.prompts import prompt_list
from tiny_bagel import tiny_adapter

from srum_plugins.config import TrainSection
from srum_plugins.contracts import Example, Objective
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.rewards.objectives import Paired, PairedOptions, Weighted, WeightedOptions
from srum_plugins.runs.store import StageDirectory
from srum_plugins.training import parallel
from srum_plugins.training.checkpoints import METRICS, resume, save
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.shared_tensors import full
from srum_plugins.training.state import TrainingState
from srum_plugins.training.step import NonFiniteError, Trainer
from srum_plugins.world import World, join

STEPS = 4
SETTINGS = TrainSection(steps=STEPS, batch=4, lr=1e-3, warmup=0, ema=0.9)
CASES: dict[str, tuple[dict[str, Any], Training, Objective]] = {
    "paired, anchored": ({}, Training(), Paired(PairedOptions())),
    "weighted, all experts": ({}, Training(scope="all"), Weighted(WeightedOptions(anchor=0.5))),
    "low rank": ({}, Training(lora_rank=2), Weighted(WeightedOptions(anchor=0.5))),
    "accumulated": ({"microbatch": 1}, Training(checkpointing=False), Weighted(WeightedOptions())),
    "bfloat16": ({"master_weights": True}, Training(), Weighted(WeightedOptions())),
}


def dataset() -> Dataset:
    """Pairs of two sizes, so that processes have different numbers of tokens."""
    generator = torch.Generator().manual_seed(5)
    examples, latents, grids = [], {}, []
    for index, prompt in enumerate(prompt_list(6, 0, "train")):
        side = (32, 16)[index % 3 == 0]
        names = (f"{prompt.id}-0", f"{prompt.id}-1")
        maps = tuple(RewardMap(side, side, (), alpha=alpha, background=0.8) for alpha in (0.9, 0.3))
        examples.append(Example(prompt, names, maps))
        latents |= {name: torch.rand(3, side, side, generator=generator) * 2 - 1 for name in names}
        grids.append((side // 4, side // 4))
    return Dataset(examples, latents, grids, SETTINGS.batch, 0, torch.device("cpu"))


def trainer(case: str, sharding: str, world: World) -> Trainer:
    changed, training, objective = CASES[case]
    settings = dataclasses.replace(SETTINGS, sharding=sharding, **changed)
    adapter = tiny_adapter()
    if settings.master_weights:
        adapter.model.to(torch.bfloat16)
    parameters = adapter.start_training(training, base=objective.uses_base)
    engine, parameters = parallel.start(objective, adapter, parameters, sharding, "cpu", world)
    return Trainer(settings, 0, adapter, TrainingState.start(settings, parameters), dataset(), engine, world)


def train(rank: int, case: str, sharding: str, folder: str, stop: int) -> None:
    """From the last checkpoint to step ``stop``, with a checkpoint after every step."""
    torch.set_num_threads(1)
    world = join("cpu")
    own = trainer(case, sharding, world)
    directory = StageDirectory(Path(folder), "train", {})
    directory.path.mkdir(parents=True, exist_ok=True)
    for step in range(resume(directory, own.state, world), stop):
        metrics = own.step(step)
        if world.main:
            with (directory.path / METRICS).open("a") as log:
                log.write(f"{json.dumps({'step': step, **metrics})}\n")
        save(directory, own.state, step + 1, own.settings, world)
    world.meet("done")
    world.leave()


def run(folder: Path, case: str, size: int, sharding: str = "none", stop: int = STEPS) -> None:
    assert launch(size, train, case, sharding, str(folder), stop) == [0] * size


Found = tuple[list[dict[str, float]], dict[str, dict[str, torch.Tensor]]]


def found(folder: Path) -> Found:
    """The metrics, and the last checkpoint's tensors by part."""
    (directory,) = (folder / "stages/train").glob("*/")
    last = max((directory / "checkpoints").iterdir())
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for file in sorted(last.glob("*.safetensors")):
        parts.setdefault(file.name.split("-")[0].removesuffix(".safetensors"), {}).update(load_file(file))
    return [json.loads(line) for line in (directory / METRICS).read_text().splitlines()], parts


@cache
def one_process(case: str) -> Found:
    """What this process makes of a case."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        train(0, case, "none", folder, STEPS)
        torch.set_num_threads(threads)
        return found(Path(folder))


BOTH = [*((case, "none") for case in ("paired, anchored", "accumulated")), *((case, "fsdp2") for case in CASES)]
REST = [pytest.param(case, "none", marks=pytest.mark.slow) for case in CASES if (case, "none") not in BOTH]


@pytest.mark.parametrize(("case", "sharding"), [*BOTH, *REST])
def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path, case: str, sharding: str) -> None:
    run(tmp_path, case, 2, sharding)
    alone, together = one_process(case), found(tmp_path)
    assert len(alone[0]) == len(together[0]) == STEPS
    near = 1e-5 if case != "bfloat16" else 0.02  # there the forward itself depends on what is batched together
    for one, two in zip(alone[0], together[0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=near, abs=near)
        assert two == pytest.approx(one, rel=20 * near, abs=20 * near)  # a margin is a small difference times beta
    assert sorted(alone[1]) == ["average", "optimizer", "parameters"]
    for part, tensors in alone[1].items():
        assert all(tensors[name].shape == together[1][part][name].shape for name in tensors)
        # What never works has no gradient, and one of zeros where it is shared out.
        for name in together[1][part].keys() - tensors.keys():
            assert sharding == "fsdp2"
            assert name.startswith("step/") or not together[1][part][name].any()
    moved = alone[1]["parameters"]
    assert any(not torch.equal(moved[name], value) for name, value in alone[1]["average"].items())


def test_a_training_goes_on_with_other_numbers_of_processes_and_shardings(tmp_path: Path) -> None:
    case = "paired, anchored"
    for stop, (size, sharding) in enumerate([(2, "fsdp2"), (1, "none"), (2, "none"), (1, "none")], start=1):
        if size == 1:
            train(0, case, sharding, str(tmp_path / "mixed"), stop)
        else:
            run(tmp_path / "mixed", case, size, sharding, stop)
    alone, together = one_process(case), found(tmp_path / "mixed")
    for one, two in zip(alone[0], together[0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5, abs=1e-5)
    for name, value in alone[1]["parameters"].items():
        assert torch.allclose(value, together[1]["parameters"][name], atol=2e-4), name


@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.slow), "fsdp2"])
def test_two_processes_resume_to_the_bit(tmp_path: Path, sharding: str) -> None:
    case = "weighted, all experts"
    run(tmp_path / "straight", case, 2, sharding)
    for stop in (1, STEPS):
        run(tmp_path / "stopped", case, 2, sharding, stop)
    straight, stopped = found(tmp_path / "straight"), found(tmp_path / "stopped")
    assert straight[0] == stopped[0]
    for part, tensors in straight[1].items():
        for name, value in tensors.items():
            assert torch.equal(value, stopped[1][part][name]), name


def break_down(rank: int, sharding: str) -> None:
    """One example of the step is not finite, in one process."""
    world = join("cpu")
    own = trainer("paired, anchored", sharding, world)
    odd = own.data.examples[own.data.indices(0)[3]]
    own.data.latents[odd.candidates[1]].fill_(float("nan"))  # a cache of tensors that are handed out as they are
    before = [full(value.detach()).clone() for value in own.state.moved.values()]
    with pytest.raises(NonFiniteError, match=rf"^the loss of step 0 is nan; .* Candidates: {odd.candidates[0]}, "):
        own.step(0)
    after = [full(value.detach()) for value in own.state.moved.values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    world.leave()


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_what_is_not_finite_in_one_process_stops_all_before_the_update_and_is_named(sharding: str) -> None:
    assert launch(2, break_down, sharding) == [0, 0]
