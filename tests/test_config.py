"""The configuration: what is accepted, what is refused, and in which words."""

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import toy_backend
import yaml
from engine_fixtures import attentive_host, toy_host, write_config
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.config import SECTIONS, SLOTS, RunConfig, TrainSection, load
from srum_plugins.errors import ConfigError, PluginError, SrumError
from srum_plugins.providers import Kind
from srum_plugins.training.step import learning_rate

HOST = toy_host()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(SrumError) as caught:
        load(path, overrides, HOST)
    return str(caught.value)


def options(config: RunConfig, kind: Kind) -> dict[str, object]:
    return config.providers[kind].plain()


def test_a_word_and_a_mapping_fill_a_slot_alike(tmp_path: Path) -> None:
    word = load(write_config(tmp_path, adapter="toy"), (), HOST)
    mapping = load(write_config(tmp_path, adapter={"name": "toy", "blur": 0.5}), (), HOST)
    assert word.resolved() == mapping.resolved()


def test_defaults_are_filled_in_and_loading_the_resolved_config_gives_the_same(tmp_path: Path, path: Path) -> None:
    config = load(path, ("evaluate.sampling.noise=0.3",), HOST)
    assert config.train.beta2 == 0.95
    assert config.sampling["generate"] == toy_backend.Sampling()
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.resolved()))
    assert load(again, (), HOST).resolved() == config.resolved()
    assert set(SLOTS) - {"attention"} < set(config.resolved())


def test_a_preset_is_where_settings_start_from(tmp_path: Path, path: Path) -> None:
    config = load(path, ("generate.sampling.preset=slow", "generate.sampling.noise=0.3"), HOST)
    assert config.sampling["generate"] == toy_backend.Sampling(steps=3, noise=0.3)
    assert config.sampling["evaluate"] == toy_backend.Sampling()
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.resolved()))  # which has the settings and not the word
    assert load(again, (), HOST).resolved() == config.resolved()
    assert load(again, ("generate.sampling.preset=quiet",), HOST).sampling["generate"].noise == 0.3


def test_what_training_moves_is_the_adapters_own_settings(tmp_path: Path, path: Path) -> None:
    config = load(path, ("train.adapter.gain=false",), HOST)
    assert config.training == toy_backend.Training(gain=False)
    assert config.resolved()["train"]["adapter"] == {"gain": False}
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.resolved()))
    assert load(again, (), HOST).resolved() == config.resolved()
    assert load(path, (), HOST).training == toy_backend.Training()


def test_without_a_file_the_overrides_are_everything() -> None:
    slots = [f"{slot}={value}" for slot, value in toy_backend.config("x").items() if slot in SLOTS]
    config = load(None, [*slots, "run.name=bare"], HOST)
    assert config.directory == Path("runs/bare")
    assert config.arm == "toy-maps+srum"


def test_a_word_swaps_a_provider_and_drops_the_options_of_the_old_one(tmp_path: Path) -> None:
    path = write_config(tmp_path, aggregator={"name": "toy-maps", "background": 0.1})
    assert options(load(path, ("aggregator=toy-flat",), HOST), Kind.AGGREGATOR) == {"name": "toy-flat"}
    kept = {"name": "toy-maps", "background": 0.1}
    assert options(load(path, ("aggregator=toy-maps",), HOST), Kind.AGGREGATOR) == kept
    assert options(load(path, ("aggregator.name=toy-maps",), HOST), Kind.AGGREGATOR) == kept


def test_the_order_of_a_swap_and_its_options_does_not_matter(tmp_path: Path) -> None:
    path = write_config(tmp_path, aggregator="toy-flat")
    pair = ["aggregator=toy-maps", "aggregator.background=0.2"]
    for given_order in (pair, pair[::-1], ["aggregator={name: toy-maps, background: 0.2}"]):
        config = load(path, given_order, HOST)
        assert options(config, Kind.AGGREGATOR) == {"name": "toy-maps", "background": 0.2}


def test_values_are_yaml(path: Path) -> None:
    config = load(path, ("train.lr=1e-3", "train.grad_clip=null", "run.name=run-7", "train.decay=cosine"), HOST)
    assert (config.train.lr, config.train.grad_clip, config.run.name) == (0.001, None, "run-7")


def test_interpolations_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_NAME", "from-env")
    path = write_config(tmp_path, prompts={"name": "toy", "count": "${train.steps}"})
    config = load(path, ("run.name=${oc.env:TOY_NAME}",), HOST)
    assert options(config, Kind.PROMPTS)["count"] == 8
    assert config.run.name == "from-env"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.steps=5", ["'trian'", "'train'"]),
        ("train.stepz=5", ["train.stepz", "'steps'"]),
        ("train.steps=many", ["train.steps", "many"]),
        ("train.steps=1.5", ["train.steps", "1.5"]),
        ("train.steps=0", ["train.steps", "at least 1"]),
        ("train.lr=0", ["train.lr", "positive"]),
        ("train.lr=.nan", ["train.lr", "finite"]),
        ("train.decay=cosin", ["train.decay", "'cosine'"]),
        ("train.steps", ["key=value"]),
        ("train.steps=", ["train.steps=null"]),
        ("train..steps=4", ["key=value"]),
        ("train=5", ["train", "section", "train.steps"]),
        ("tracking=false", ["tracking is a section", "write tracking.enabled=false"]),
        ("train=null", ["train", "section"]),
        ("train.steps.more=4", ["train.steps"]),
        ("train.steps=[1", ["not valid YAML"]),
        ("train.steps=???", ["train.steps", "missing value"]),
        ("train.steps=${run.nothing}", ["train.steps", "run.nothing"]),
        ("aggregator=toy-map", ["'toy-map'", "'toy-maps'"]),
        ("aggregator=null", ["aggregator is missing", "toy-flat"]),
        ("aggregator=3", ["aggregator", "3"]),
        ("aggregator.backgroun=0.5", ["aggregator.backgroun", "'background'"]),
        ("aggregator.background=high", ["aggregator.background", "high"]),
        ("generate.sampling.nois=0.5", ["generate.sampling.nois", "'noise'"]),
        ("generate.sampling.preset=quite", ["generate.sampling.preset", "'toy'", "'quite'", "'quiet'"]),
        ("generate.sampling.preset=[slow]", ["generate.sampling.preset", "'toy'"]),
        ("train.adapter.gian=true", ["train.adapter.gian", "'gain'"]),
        ("ground.sampling.noise=0.5", ["ground.sampling", "chunk"]),
        ("ground.filter=dorp", ["ground.filter", "'dorp'", "'drop'"]),
        ("ground.threshold=1.5", ["ground.threshold", "[0, 1]", "1.5"]),
        ("ground.threshold=.nan", ["ground.threshold", "[0, 1]"]),
        ("ground.template=what is it", ["ground.template", "{phrase}"]),
        ("generate.width=64", ["generate.width", "both or neither"]),
        ("run.device=gpu", ["run.device", "'gpu'"]),
        ("run.seed=-1", ["run.seed"]),
        ("run.name=a/b", ["run.name"]),
    ],
)
def test_mistakes_are_named_with_their_path(path: Path, override: str, words: list[str]) -> None:
    message = refused(path, override)
    for word in words:
        assert word in message
    assert "\n" not in message.strip()


def test_an_empty_slot_is_refused_with_what_there_is(tmp_path: Path) -> None:
    path = write_config(tmp_path, grounder=None)
    message = refused(path)
    assert "grounder is missing" in message
    assert "toy-halves" in message


def test_missing_values_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    message = refused(write_config(tmp_path, adapter={"name": "toy", "blur": "???"}))
    assert "missing value: adapter.blur" in message


def test_an_attention_is_filled_in_where_the_adapter_takes_one(path: Path) -> None:
    assert "takes none; leave it out" in refused(path, "attention=sdpa")
    host = attentive_host()
    assert load(path, ("adapter=attentive",), host).resolved()["attention"] == {
        "name": "auto",
        "order": ["varlen", "sdpa", "dense"],
    }
    config = load(path, ("adapter=attentive", "attention=sdpa"), host)
    assert config.resolved()["attention"] == {"name": "sdpa"}
    order = "attention.order=[sdpa]"
    for words in ((order,), ("attention={order: [sdpa]}",), (order, "attention=auto")):
        config = load(path, ("adapter=attentive", *words), host)
        assert config.resolved()["attention"] == {"name": "auto", "order": ["sdpa"]}
    assert load(path, ("adapter=attentive", "attention=null"), host).providers[Kind.ATTENTION].name == "auto"


def test_an_unknown_provider_is_a_plugin_error(path: Path) -> None:
    with pytest.raises(PluginError, match="toy-halves"):
        load(path, ("grounder=toy-halfs",), HOST)


def test_yaml_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("run:\n  name: a\n  name: b\n")
    assert f"{path}:3" in refused(path)
    path.write_text("run: {name: a\n\ntrain: [}\n")
    assert f"{path}:3" in refused(path)
    path.write_text("- a\n- b\n")
    assert "section: settings" in refused(path)


def test_a_missing_file_is_named_with_its_neighbours(path: Path) -> None:
    message = refused(path.with_name("toi.yaml"))
    assert "toi.yaml" in message
    assert "'toy.yaml'" in message
    (path.parent / "folder.yaml").mkdir()
    assert refused(path.with_name("folder.yaml")).count("folder.yaml") == 1


def test_config_errors_are_config_errors(path: Path) -> None:
    with pytest.raises(ConfigError):
        load(path, ("train.stepz=5",), HOST)


@given(
    steps=st.integers(1, 200),
    warmup=st.integers(0, 50),
    decay=st.sampled_from(["constant", "linear", "cosine"]),
    step=st.integers(0, 199),
)
def test_the_learning_rate_warms_up_and_never_rises_after(steps: int, warmup: int, decay: str, step: int) -> None:
    settings = TrainSection(steps=steps, warmup=warmup, decay=decay, lr=0.5)
    rates = [learning_rate(settings, index) for index in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
    if warmup and step < min(warmup, steps):
        assert math.isclose(rates[step], 0.5 * (step + 1) / warmup)
    after = rates[max(warmup - 1, 0) :]
    assert all(late <= early for early, late in pairwise(after))
    if decay == "constant" and len(after) > 1:
        assert after[-1] == 0.5


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    text = (Path(__file__).parent.parent / "docs/configuration.md").read_text()
    for setting in dataclasses.fields(SECTIONS[section]):
        default = yaml.safe_dump(setting.default).partition("\n")[0]
        shown = {"run.directory": "runs/<name>", "train.lr": "0.0001"}.get(f"{section}.{setting.name}", default)
        assert f"| `{section}.{setting.name}` | `{shown}` |" in text
    for slot in SLOTS:
        assert f"| `{slot}` |" in text
