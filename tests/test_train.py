"""The train stage: data order, resuming to the bit, stopping on what is not finite."""

import dataclasses
import gc
import json
import shutil
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_backend
from engine_fixtures import contents, toy_config, toy_host, toy_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from srum_plugins import hookimpl
from srum_plugins.config import TrainSection
from srum_plugins.contracts import Draws, Example, Generated, ModelAdapter, Objective, TrainBatch
from srum_plugins.errors import CheckpointError, ConfigError, ContractError, StageError
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt
from srum_plugins.stages import train
from srum_plugins.stages.session import Session
from srum_plugins.training.checkpoints import best, checkpoints, dropped, resume
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.parallel import Single
from srum_plugins.training.state import TrainingState


def dataset(count: int, size: int, seed: int) -> Dataset:
    example = Example(Prompt("p", "p"), (), ())
    return Dataset([example] * count, {}, [], size, seed, torch.device("cpu"))


@given(count=st.integers(1, 30), size=st.integers(1, 12), seed=st.integers(0, 5), epochs=st.integers(1, 3))
def test_each_epoch_has_every_example_once(count: int, size: int, seed: int, epochs: int) -> None:
    steps = -(-count * epochs // size)
    stream = [index for step in range(steps) for index in dataset(count, size, seed).indices(step)]
    assert all(len(dataset(count, size, seed).indices(step)) == size for step in range(steps))
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_depends_on_the_seed() -> None:
    assert dataset(40, 40, 1).indices(0) != dataset(40, 40, 2).indices(0)
    assert dataset(40, 40, 1).indices(0) != dataset(40, 40, 1).indices(1)


class Stop:
    """Ends a run after a step, as a failing machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def srum_train_step_finished(self, step: int) -> None:
        if step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    toy_run(folder)
    return folder


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    toy_run(folder, "train.ema=0.6")
    return folder


@pytest.mark.parametrize("step", [0, 2, 4, 7])
@pytest.mark.parametrize(("undisturbed", "overrides"), [("straight", ()), ("averaged", ("train.ema=0.6",))])
def test_k_steps_a_stop_and_the_rest_are_a_straight_run(
    request: pytest.FixtureRequest, tmp_path: Path, undisturbed: str, overrides: tuple[str, ...], step: int
) -> None:
    host = toy_host()
    host.register(Stop(step), "stop")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, *overrides, host=host)
    toy_run(tmp_path, *overrides)
    assert contents(tmp_path / "run") == contents(request.getfixturevalue(undisturbed) / "run")


def test_the_average_is_what_training_ends_with_and_changes_no_step(straight: Path, averaged: Path) -> None:
    def trained(folder: Path) -> tuple[Path, dict[str, Tensor]]:
        (stage,) = (folder / "run/stages/train").glob("*/")
        adapter = toy_backend.ToyAdapter(toy_backend.AdapterOptions(), "cpu")
        adapter.load_trained(stage / "weights")
        return stage, {
            name: value.detach() for name, value in adapter.start_training(toy_backend.Training(), base=False).items()
        }

    (plain, last), (stage, mean) = trained(straight), trained(averaged)
    assert (plain / "metrics.jsonl").read_bytes() == (stage / "metrics.jsonl").read_bytes()
    assert not any(torch.equal(last[name], mean[name]) for name in last)
    newest = max((stage / "checkpoints").iterdir())
    for name, value in load_file(newest / "average.safetensors").items():
        assert torch.equal(value, mean[name])
        assert torch.equal(load_file(newest / "parameters.safetensors")[name], last[name])


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), st.floats(0, 0.99))
def test_the_average_is_that_of_its_definition(values: list[float], decay: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    state = TrainingState.start(TrainSection(ema=0.5), {"p": parameter})
    expected = 0.0
    for step, value in enumerate(values):
        parameter.data.fill_(value)
        state.update_average(decay, step)
        share = min(decay, (step + 1) / (step + 10))
        expected = share * expected + (1 - share) * value
    state.take_average()
    assert parameter.item() == pytest.approx(expected, abs=1e-3)
    assert min([0.0, *values]) - 1e-3 <= parameter.item() <= max([0.0, *values]) + 1e-3


def test_an_encoder_that_samples_is_resumed_to_the_bit_too(tmp_path: Path) -> None:
    class Sampling(toy_backend.ToyAdapter):
        def encode(self, images: Sequence[Image.Image]) -> Tensor:
            latents = super().encode(images)
            return latents + 0.1 * torch.randn(latents.shape)

    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> Sequence[Provider]:
            return [dataclasses.replace(toy_backend.srum_model_adapters()[0], name="sampling", factory=Sampling)]

    def go(name: str, stop: int | None = None) -> None:
        host = toy_host()
        host.register(Plugin(), "sampling")
        if stop is not None:
            host.register(Stop(stop), "stop")
        (tmp_path / name).mkdir(exist_ok=True)
        toy_run(tmp_path / name, "adapter=sampling", host=host)

    go("straight")
    with pytest.raises(KeyboardInterrupt):
        go("stopped", stop=4)
    go("stopped")
    assert contents(tmp_path / "stopped/run") == contents(tmp_path / "straight/run")


def test_training_moves_the_trained_half_only_and_its_metrics_are_complete(straight: Path) -> None:
    (folder,) = (straight / "run/stages/train").glob("*/")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(8))
    assert [row["lr"] for row in metrics] == [0.025, *[0.05] * 7]
    assert {"loss", "grad_norm", "sample_loss", "weight"} < set(metrics[0])
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000006", "step-000008"]
    adapter = toy_backend.ToyAdapter(toy_backend.AdapterOptions(), "cpu")
    before, digest = adapter.model.palette.detach().clone(), adapter.understanding_digest()
    adapter.load_trained(folder / "weights")
    assert not torch.equal(before, adapter.model.palette)
    assert adapter.understanding_digest() == digest


@given(
    losses=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    every=st.integers(1, 4),
    keep=st.integers(1, 3),
    sign=st.sampled_from(["", "-"]),
    data=st.data(),
)
def test_the_best_checkpoint_is_the_same_whatever_was_dropped_before(
    losses: list[int], every: int, keep: int, sign: str, data: st.DataObject
) -> None:
    rows = [{"step": step, "loss": float(loss)} for step, loss in enumerate(losses)]
    places = sorted({*range(every, len(losses) + 1, every), len(losses)})
    saved = [(done, Path(f"step-{done:06d}")) for done in places]
    settings = TrainSection(keep=keep, keep_best=f"{sign}loss", checkpoint_every=every)
    winner = best(saved, rows, f"{sign}loss", every)
    gone = dropped(saved, rows, settings)
    assert not {winner, *(folder for _, folder in saved[-keep:])} & set(gone)
    assert len(saved) - len(gone) <= keep + 1
    part = data.draw(st.sets(st.sampled_from(gone))) if gone else set()
    left = [(done, folder) for done, folder in saved if folder not in part]
    assert best(left, rows, f"{sign}loss", every) == winner
    assert dropped(left, rows, settings) == [folder for folder in gone if folder not in part]


def test_a_run_drops_the_checkpoints_that_a_killed_one_had_no_time_to_drop(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    (folder,) = (tmp_path / "run/stages/train").glob("*/")
    (folder / "done.json").unlink()
    (folder / "checkpoints/step-000003").mkdir()  # emptied already
    toy_run(tmp_path)
    assert contents(tmp_path / "run") == contents(straight / "run")


def test_checkpoints_more_often_give_the_same_weights(straight: Path, tmp_path: Path) -> None:
    toy_run(tmp_path, "train.checkpoint_every=1")
    names = [name for name in contents(straight / "run") if "/weights/" in name or name.endswith("metrics.jsonl")]
    assert len(names) >= 3
    ours, theirs = contents(tmp_path / "run"), contents(straight / "run")
    assert [ours[name] for name in names if "checkpoints" not in name] == [
        theirs[name] for name in names if "checkpoints" not in name
    ]


def test_what_training_moves_reruns_training_alone(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    said = toy_run(tmp_path, "train.adapter.gain=false")
    assert said[:2] == [
        "train is stale: train.adapter.gain was true, is false",
        "evaluate is stale: its input train changed",
    ]
    folders = sorted((tmp_path / "run/stages/train").glob("*/checkpoints/step-000008/parameters.safetensors"))
    assert sorted(sorted(load_file(file)) for file in folders) == [["gain", "palette"], ["palette"]]


# --- objectives that go wrong ------------------------------------------------------------------------------------
class Odd(Objective):
    """The mean loss until step 3, then something else."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls = 0

    def examples(self, items: Any, rewards: Any) -> list[Example]:
        if self.kind == "none":
            return []
        pairs = [(item, reward) for item, reward in zip(items, rewards, strict=True) if reward]
        examples = [Example(item.prompt, (item.candidate.id,), (reward.map,)) for item, reward in pairs]
        if self.kind == "roles":
            examples[0] = Example(examples[0].prompt, examples[0].candidates * 2, examples[0].maps * 2)
        if self.kind == "couple":
            small, large = (next(e for e in examples if e.maps[0].width == width) for width in (8, 10))
            return [Example(small.prompt, (*small.candidates, *large.candidates), (*small.maps, *large.maps))]
        if self.kind == "stranger":
            examples[0] = Example(examples[0].prompt, ("who",), examples[0].maps)
        return examples

    def loss(self, model: ModelAdapter, batch: TrainBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        loss = model.predict(batch.prompts, batch.latents[0], draws).token_losses(batch.latents[0]).mean()
        metrics = {"plain": loss.detach()}
        if self.calls == 3:
            if self.kind == "loss":
                loss = loss * float("inf")
            if self.kind == "gradient":
                loss = loss + (loss - loss.detach()).abs().sqrt()  # finite, with a slope that is not
            if self.kind == "metric":
                metrics["plain"] = metrics["plain"] * float("nan")
        self.calls += 1
        return loss, metrics


encoded: list[int] = []


class OddPlugin:
    def __init__(self) -> None:
        self.failed: list[tuple[int, str]] = []

    @hookimpl
    def srum_objectives(self) -> Sequence[Provider]:
        kinds = ("none", "roles", "couple", "stranger", "loss", "gradient", "metric")
        return [Provider(kind, "odd", lambda options, kind=kind: Odd(kind)) for kind in kinds]

    @hookimpl
    def srum_model_adapters(self) -> Sequence[Provider]:
        class TwoSizes(toy_backend.ToyAdapter):
            def generate(self, requests: Any, sampling: Any) -> list[Generated]:
                sizes = [(8, 8) if request.seed % 2 else (10, 8) for request in requests]
                return [Generated(Image.new("RGB", size, "red")) for size in sizes]

        class Keeps(toy_backend.ToyAdapter):
            def generate(self, requests: Any, sampling: Any) -> list[Generated]:
                drawn = super().generate(requests, sampling)
                return [
                    dataclasses.replace(one, latents=latents)
                    for one, latents in zip(drawn, super().encode([one.image for one in drawn]), strict=True)
                ]

            def encode(self, images: Any) -> Tensor:
                encoded.append(len(images))
                return super().encode(images)

        toy = toy_backend.srum_model_adapters()[0]
        kinds = {"two-sizes": TwoSizes, "keeps": Keeps}
        return [dataclasses.replace(toy, name=name, factory=factory) for name, factory in kinds.items()]

    @hookimpl
    def srum_train_step_failed(self, step: int, error: BaseException) -> None:
        self.failed.append((step, str(error)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("loss", "the loss of step 3 is"), ("gradient", "the gradient norm of step 3 is"), ("metric", "metric 'plain'")],
)
def test_what_is_not_finite_stops_before_the_update(tmp_path: Path, kind: str, words: str) -> None:
    host, odd = toy_host(), OddPlugin()
    host.register(odd, "odd")
    with pytest.raises(StageError) as caught:
        toy_run(tmp_path, f"objective={kind}", "train.checkpoint_every=1", host=host)
    message = str(caught.value)
    assert words in message
    assert "before the update" in message
    assert [step for step, _ in odd.failed] == [3]
    session = Session(toy_config(tmp_path, f"objective={kind}", host=host), host)
    directory = session.directory(train.STAGE)
    assert checkpoints(directory)[-1][0] == 3
    assert len((directory.path / "metrics.jsonl").read_text().splitlines()) == 3
    names = Counter(message.partition("Candidates: ")[2].rstrip(".").split(", "))
    assert names
    assert set(names) <= {f"p{prompt}-{index}" for prompt in range(4) for index in range(3)}


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("objective=none", StageError, "made no example out of 12 candidates. 12 have a reward"),
        ("objective=roles", ContractError, "the same roles"),
        ("objective=stranger", ContractError, "'who'"),
        ("objective=couple", ContractError, "train together and must have one size, got [(8, 8), (10, 8)]"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path: Path, override: str, error: type[Exception], words: str) -> None:
    host = toy_host()
    host.register(OddPlugin(), "odd")
    with pytest.raises(error) as caught:
        toy_run(tmp_path, "adapter=two-sizes", override, host=host)
    assert words in str(caught.value)


def test_latents_that_were_kept_are_trained_on_unless_images_are_to_be_encoded(tmp_path: Path) -> None:
    host = toy_host()
    host.register(OddPlugin(), "odd")
    encoded.clear()
    toy_run(tmp_path, "adapter=keeps", host=host)
    assert encoded == []
    stage = next((tmp_path / "run/stages/generate").glob("*/"))
    assert len(list(stage.glob("latents/*.safetensors"))) == len(list(stage.glob("images/*.png"))) == 12
    trained = {file: file.read_bytes() for file in (tmp_path / "run").glob("stages/train/*/metrics.jsonl")}
    toy_run(tmp_path, "adapter=keeps", "train.latents=encoded", host=host)
    assert sum(encoded) == 12
    both = [file.read_bytes() for file in (tmp_path / "run").glob("stages/train/*/metrics.jsonl")]
    assert both == 2 * list(trained.values())  # this model's are what its images are encoded to
    damaged = next(stage.glob("latents/*.safetensors"))
    damaged.write_bytes(b"half")
    with pytest.raises(StageError, match=f"{damaged.name}: its content is not that"):
        toy_run(tmp_path, "adapter=keeps", "train.lr=0.01", host=host)


def test_candidates_of_several_sizes_train_together(tmp_path: Path) -> None:
    host = toy_host()
    host.register(OddPlugin(), "odd")
    toy_run(tmp_path, "adapter=two-sizes", host=host)
    (images,) = (tmp_path / "run/stages/generate").glob("*/images")
    assert {Image.open(file).size for file in images.glob("*.png")} == {(8, 8), (10, 8)}
    assert json.loads((tmp_path / "run/summary.json").read_text())["arm"] == "toy-maps+srum"


def test_a_checkpoint_that_is_damaged_or_of_another_model_is_refused(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    session = Session(toy_config(tmp_path), toy_host())
    directory = session.directory(train.STAGE)
    parameters = session.model().start_training(toy_backend.Training(), base=False)
    state = TrainingState.start(TrainSection(), parameters)
    assert resume(directory, state) == 8
    fewer = TrainingState.start(TrainSection(), {"palette": parameters["palette"]})
    with pytest.raises(CheckpointError, match="does not fit the model: it holds 'gain', which is not trained"):
        resume(directory, fewer)
    more = TrainingState.start(TrainSection(), {**parameters, "other": torch.nn.Parameter(torch.zeros(1))})
    with pytest.raises(CheckpointError, match="does not fit the model: 'other' and 0 more are missing"):
        resume(directory, more)
    wrong = {**parameters, "palette": torch.nn.Parameter(torch.zeros(4, 4))}
    with pytest.raises(CheckpointError, match=r"'palette' is \(4, 3\), not \(4, 4\)"):
        resume(directory, TrainingState.start(TrainSection(), wrong))
    newest = checkpoints(directory)[-1][1]
    (newest / "optimizer.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(directory, state)
    shutil.rmtree(newest)
    assert resume(directory, state) == 6


class Beginning(toy_backend.ToyAdapter):
    """What it trains begins at random, as low-rank adapters do."""

    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        parameters = super().start_training(training, base=base)
        with torch.no_grad():
            parameters["palette"].add_(0.1 * torch.randn(parameters["palette"].shape))
        return parameters


def test_what_begins_at_random_begins_alike_when_it_is_begun_again(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> Sequence[Provider]:
            return [dataclasses.replace(toy_backend.srum_model_adapters()[0], name="beginning", factory=Beginning)]

    host = toy_host()
    host.register(Plugin(), "beginning")
    toy_run(tmp_path, "adapter=beginning", host=host)
    before = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/train")
    torch.manual_seed(7)  # another process, which has made other chunks before
    toy_run(tmp_path, "adapter=beginning", only="train", host=host)
    assert contents(tmp_path / "run") == before


def test_an_optimizer_that_rounds_at_random_does_it_alike_whatever_a_process_has_seen(tmp_path: Path) -> None:
    drawn: list[Tensor] = []

    class Rounding(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            drawn.append(torch.rand(3))

    toy_run(tmp_path)
    session = Session(toy_config(tmp_path), toy_host())
    data = Dataset.build(session, session.model(), train._examples(session))
    whole = train._trainer(session, data)
    state = dataclasses.replace(whole.state, optimizer=Rounding(whole.state.moved.values(), lr=0.1))

    class Second(Single):
        def places(self, count: int) -> range:
            return range(count // 2, count)

    for engine in (whole.engine, Second(session.objective, session.model())):
        for step in range(2):
            dataclasses.replace(whole, state=state, engine=engine).step(step)
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_metric_that_there_is_not_is_told_at_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.keep_best=-los: training has no metric 'los'. Did you mean 'loss'"):
        toy_run(tmp_path, "train.keep_best=-los")
    (metrics,) = (tmp_path / "run/stages/train").glob("*/metrics.jsonl")
    assert metrics.read_text() == ""
    toy_run(tmp_path, "train.keep_best=-loss")  # no other result: it goes on in the same directory
    assert len(metrics.read_text().splitlines()) == 8


def test_the_optimizer_is_gone_when_the_weights_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, there = [], []
    original = train._trainer

    def watched(session: Session, data: Dataset) -> Any:
        trainer = original(session, data)
        made.append(weakref.ref(trainer.state.optimizer))
        return trainer

    def reached(point: str) -> None:
        if point == "save":
            gc.collect()
            there.append(made[0]() is not None)

    monkeypatch.setattr(train, "_trainer", watched)
    monkeypatch.setattr(toy_backend, "reached", reached)
    toy_run(tmp_path)
    assert there == [False]
