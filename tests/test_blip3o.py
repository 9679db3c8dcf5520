"""BLIP3o behind the adapter contract, on a tiny folder of the released layout, and through the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blip3o_folder import write_blip3o
from blip3o_parts import tiny_eva, write_eva
from blip3o_qwen import NAMES, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from release_folder import write_release
from safetensors.torch import load_file, save_file
from srum_blip3o.adapter import Blip3oAdapter, FeaturePrediction
from srum_blip3o.conditions import cache_folder
from srum_blip3o.eva import EvaConfig
from srum_blip3o.options import AdapterOptions, Sampling, Scope, Training
from srum_blip3o.plugin import srum_model_adapters
from srum_blip3o.prior_weights import PARTS, own_name
from srum_blip3o.qwen import Qwen, load_qwen
from srum_blip3o.released import build, conditions_identity

from srum_plugins.attention.contract import Attention, Heads, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.cli import main
from srum_plugins.contracts import Draws, GenerationRequest, Question
from srum_plugins.errors import CheckpointError, ConfigError, ContractError
from srum_plugins.options import build_options
from srum_plugins.records import Box, Prompt
from srum_plugins.rewards.maps import MapRegion, RewardMap

SAMPLING = Sampling(prior_steps=3, steps=2)
TEXTS = ("a red circle", "a blue square left of a green triangle", "three black crosses")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("blip3o")
    write_blip3o(place)
    return place


def adapter(folder: Path, **options: Any) -> Blip3oAdapter:
    return build(AdapterOptions(str(folder), dtype="float32", **options), "cpu")


@pytest.fixture(scope="module")
def drawing(folder: Path) -> Blip3oAdapter:
    return adapter(folder)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(str(number), TEXTS[number % 3]) for number in range(count)]


def requests(*seeds: int) -> list[GenerationRequest]:
    return [GenerationRequest(Prompt(str(seed), TEXTS[seed % 3]), seed) for seed in seeds]


def stack(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(one.image, int) for one in images])


# --- generation -------------------------------------------------------------------------------------------------------
@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), st.data())
def test_a_candidate_does_not_depend_on_its_batch(
    drawing: Blip3oAdapter, seeds: list[int], data: st.DataObject
) -> None:
    together = drawing.generate(requests(*seeds), SAMPLING)
    index = data.draw(st.integers(0, len(seeds) - 1))
    (alone,) = drawing.generate(requests(seeds[index]), SAMPLING)
    torch.testing.assert_close(together[index].latents, alone.latents, atol=1e-4, rtol=1e-4)
    assert np.abs(stack([together[index]]) - stack([alone])).max() <= 1
    assert np.array_equal(stack(drawing.generate(requests(*seeds), SAMPLING)), stack(together))


def test_an_image_depends_on_its_prompt_its_seed_and_both_guidances(drawing: Blip3oAdapter) -> None:
    request = GenerationRequest(Prompt("p", TEXTS[0]), 3)
    others = [
        (GenerationRequest(Prompt("p", TEXTS[1]), 3), SAMPLING),
        (GenerationRequest(Prompt("p", TEXTS[0]), 4), SAMPLING),
        (request, dataclasses.replace(SAMPLING, prior_guidance=1.0)),
        (request, dataclasses.replace(SAMPLING, guidance=1.0)),
    ]
    (first,) = drawing.generate([request], SAMPLING)
    for other, sampling in others:
        (second,) = drawing.generate([other], sampling)
        assert not np.array_equal(stack([first]), stack([second]))
    assert torch.equal(
        first.latents, drawing.generate([request], dataclasses.replace(SAMPLING, guidance=1.0))[0].latents
    )


def test_what_is_guided_away_from_is_drawn_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, asked = adapter(folder), []
    bare = type(drawing.qwen).bare_condition
    monkeypatch.setattr(type(drawing.qwen), "bare_condition", lambda *given: asked.append(given[1]) or bare(*given))
    drawing.generate(requests(0), SAMPLING)
    drawing.generate(requests(1, 2), SAMPLING)
    assert asked == [[" "]]
    drawing.generate(requests(0), dataclasses.replace(SAMPLING, guidance=1.0, prior_steps=2))
    assert len(asked) == 1


def test_other_sizes_are_refused(drawing: Blip3oAdapter) -> None:
    with pytest.raises(ContractError, match="draws images of 32 x 32 pixels, and 64 x 32 was asked for"):
        drawing.generate([GenerationRequest(Prompt("p", "a dog"), 0, 64, 32)], SAMPLING)
    with pytest.raises(ContractError, match="square images, got 64 x 32"):
        drawing.token_grid(64, 32)


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"think": True}, "think must be false"), ({"steps": 0}, "steps must be"), ({"guidance": float("nan")}, "finite")],
)
def test_impossible_sampling_is_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**setting)


# --- training ---------------------------------------------------------------------------------------------------------
def test_equal_weights_are_the_plain_loss(drawing: Blip3oAdapter) -> None:
    latents = [one.latents for one in drawing.generate(requests(0, 1), SAMPLING)]
    draws = drawing.draw(latents, torch.Generator().manual_seed(1))
    prediction = drawing.predict(prompts(2), latents, draws)
    target = torch.stack(list(draws.noise)) - torch.stack(latents)
    losses = prediction.token_losses(latents)
    assert losses.shape == (2 * 64,) and losses.dtype == torch.float32
    torch.testing.assert_close(losses.mean(), torch.nn.functional.mse_loss(prediction.velocity, target))
    perfect = FeaturePrediction(target, torch.stack(list(draws.noise)))
    assert torch.equal(perfect.token_losses(latents), torch.zeros(2 * 64))


def test_a_box_lands_on_its_cells_and_nowhere_else() -> None:
    quarter = RewardMap(1024, 1024, (MapRegion(Box(256, 256, 512, 512), 1.0),), 1.0, 0.0).tokens(8, 8)
    expected = torch.zeros(8, 8)
    expected[2:4, 2:4] = 1.0
    torch.testing.assert_close(quarter, expected)
    part = RewardMap(1024, 1024, (MapRegion(Box(256, 256, 320, 288), 1.0),), 1.0, 0.0).tokens(8, 8)
    assert float(part[2, 2]) == pytest.approx(64 * 32 / 128**2) and float(part.sum()) == pytest.approx(
        float(part[2, 2])
    )


def test_a_reward_on_a_cell_reaches_the_features_of_that_cell(drawing: Blip3oAdapter) -> None:
    latents = [torch.zeros(16, 8, 8)]
    velocity = torch.zeros(1, 16, 8, 8)
    velocity[0, :, 2, 5] = 1.0
    losses = FeaturePrediction(velocity, torch.zeros(1, 16, 8, 8)).token_losses(latents)
    assert torch.nonzero(losses.reshape(8, 8)).tolist() == [[2, 5]]


def train_a_little(model: Blip3oAdapter, parameters: dict[str, torch.nn.Parameter]) -> None:
    latents = [torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(2)) for _ in range(2)]
    draws = model.draw(latents, torch.Generator().manual_seed(1))
    draws = dataclasses.replace(draws, drop=torch.tensor([False, True]))
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model.predict(prompts(2), latents, draws).token_losses(latents).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("scope", ["prior", "prior+queries", "low rank"])
def test_training_moves_what_it_says_and_leaves_the_base_and_the_qwen(
    folder: Path, scope: str, checkpointing: bool
) -> None:
    model = adapter(folder)
    latents = [torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    draws = Draws(torch.tensor([0.5, 0.9]), [torch.randn(16, 8, 8) for _ in range(2)], torch.tensor([False, False]))
    before, digest = model.predict(prompts(2), latents, draws).velocity, model.understanding_digest()
    held = {name: tensor.clone() for name, tensor in model.prior.state_dict().items()}
    low = scope == "low rank"
    chosen = Training("prior" if low else scope, 2 * low, checkpointing=checkpointing)
    parameters = model.start_training(chosen, base=True)
    train_a_little(model, parameters)
    base = model.predict(prompts(2), latents, draws, base=True)
    torch.testing.assert_close(base.velocity, before, atol=1e-6, rtol=1e-6)
    assert not base.velocity.requires_grad
    now = model.predict(prompts(2), latents, draws)
    assert float(now.token_distance(base).detach().max()) > 0
    assert model.understanding_digest() == digest
    assert all(parameter.grad is None for parameter in model.qwen.model.parameters())
    if not low:
        moved = {name for name, tensor in model.prior.state_dict().items() if not torch.equal(tensor, held[name])}
        assert moved == set(parameters)
        assert ("latent_queries" in moved) == (scope == "prior+queries")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts the language model reads in each call from now on, of adapters made from now on."""
    counted: list[int] = []
    condition = Qwen.condition

    def counting(self: Qwen, texts: Any, *given: Any) -> Any:
        counted.append(len(texts))
        return condition(self, texts, *given)

    monkeypatch.setattr(Qwen, "condition", counting)
    return counted


def test_the_prompt_is_read_once_while_the_queries_stay(folder: Path, read: list[int]) -> None:
    model = adapter(folder)
    train_a_little(model, model.start_training(Training(), base=False))
    assert read == [1, 1]
    model = adapter(folder)
    train_a_little(model, model.start_training(Training("prior+queries"), base=False))
    assert read == [1, 1, 2, 2]


def test_a_prompt_reads_the_same_whatever_it_was_first_asked_with(folder: Path) -> None:
    """Else a resumed run would not be the same to the bit."""
    first, second = adapter(folder), adapter(folder)
    first.generate(requests(0, 1), SAMPLING)
    images = [one.generate(requests(3, 2), SAMPLING) for one in (first, second)]  # the prompt of 3 is that of 0
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(*images, strict=True))


def test_conditions_are_kept_for_later_runs(
    folder: Path, tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRUM_CACHE", str(tmp_path / "kept"))
    drawn = stack(adapter(folder).generate(requests(0, 1, 3), SAMPLING))
    files = list((tmp_path / "kept").glob("*.safetensors"))
    assert read == [1, 1] and len(files) == 2  # of two prompts
    second = adapter(folder)
    assert np.array_equal(stack(second.generate(requests(0, 1, 3), SAMPLING)), drawn) and read == [1, 1]
    # Other queries read otherwise.
    with torch.no_grad():
        second.prior.latent_queries += 1.0
    assert not np.array_equal(stack(second.generate(requests(0, 1, 3), SAMPLING)), drawn) and read == [1] * 4
    # So does a model in another dtype.
    build(AdapterOptions(str(folder)), "cpu").generate(requests(0), SAMPLING)
    assert read == [1] * 5
    # What is damaged is written anew.
    for file in files:
        file.write_bytes(b"half")
    assert np.array_equal(stack(adapter(folder).generate(requests(0, 1, 3), SAMPLING)), drawn) and read == [1] * 7


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"SRUM_CACHE": "/somewhere"}, "/somewhere"),
        ({"SRUM_CACHE": "~/kept"}, "/home/me/kept"),
        ({"SRUM_CACHE": "", "XDG_CACHE_HOME": "/cache"}, None),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/srum-plugins/conditions"),
        ({}, "/home/me/.cache/srum-plugins/conditions"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/srum-plugins/conditions"),
    ],
)
def test_conditions_are_kept_in_the_users_cache_folder_or_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], folder: str | None
) -> None:
    for name in ("SRUM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (None if folder is None else Path(folder))


def test_a_folder_that_cannot_be_written_to_is_told_once_and_done_without(
    folder: Path, tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRUM_CACHE", str(tmp_path / "file" / "inside"))
    drawn = [adapter(folder).generate(requests(0, 1, 3), SAMPLING) for _ in range(2)]
    assert read == [1] * 4
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "cannot be kept in" in record.message and "goes on" in record.message
    monkeypatch.setenv("SRUM_CACHE", "")
    assert np.array_equal(stack(adapter(folder).generate(requests(0, 1, 3), SAMPLING)), stack(drawn[0]))
    assert (tmp_path / "file").read_text() == "no folder"


def test_conditions_are_told_by_all_that_they_depend_on(folder: Path, tmp_path: Path) -> None:
    def identity(place: Path, dtype: str = "float32", kernel: Attention | None = None, **said: str) -> str:
        options = AdapterOptions(str(place), dtype=dtype)  # type: ignore[arg-type]
        qwen = load_qwen(place, torch.device("cpu"), torch.float32)
        for name, value in said.items():
            monkeypatch.setattr(f"srum_blip3o.tokenizer.{name}", value)
        return conditions_identity(options, qwen, kernel)

    shutil.copytree(folder, tmp_path / "other")
    shard = tmp_path / "other" / "model-00001-of-00002.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(shard).items()}, shard)
    with pytest.MonkeyPatch.context() as monkeypatch:
        first = identity(folder)
        assert identity(folder) == first
        others = [
            identity(tmp_path / "other"),
            identity(folder, dtype="bfloat16"),
            identity(folder, kernel=Dense()),
            identity(folder, kernel=SDPA()),
            identity(folder, DRAW="Draw: {caption}"),
        ]
        monkeypatch.setattr("torch.__version__", "2.99.0")
        others.append(identity(folder))
    assert len({first, *others}) == 1 + len(others)


def test_what_is_guided_away_from_follows_the_weights(folder: Path) -> None:
    model, fresh = adapter(folder), adapter(folder)
    model.generate(requests(0), SAMPLING)
    train_a_little(model, model.start_training(Training(), base=False))
    fresh.prior.load_state_dict(model.prior.state_dict())
    assert np.array_equal(stack(model.generate(requests(0), SAMPLING)), stack(fresh.generate(requests(0), SAMPLING)))


def test_what_did_not_move_is_saved_as_it_was_stored(folder: Path, tmp_path: Path) -> None:
    """In a wider dtype than it is held in."""
    write_blip3o(tmp_path / "wide")
    shard = tmp_path / "wide" / "model-00003-of-00004.safetensors"
    wide = {name: tensor.float() + 1e-6 for name, tensor in load_file(shard).items()}
    save_file(wide, shard)
    model = build(AdapterOptions(str(tmp_path / "wide")), "cpu")
    train_a_little(model, model.start_training(Training(), base=False))
    model.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / shard.name)
    assert torch.equal(saved["model.latent_queries"], wide["model.latent_queries"])
    assert not torch.equal(
        saved["model.dit.model.norm_out.linear_1.bias"], wide["model.dit.model.norm_out.linear_1.bias"]
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n_query", 5, "n_query makes 5, the prior 4"),
        ("gen_hidden_size", 7, "makes 7, the prior 16"),
        ("gen_pooling", "early_pool2d_2", "gen_pooling makes 16, the prior 8"),
    ],
)
def test_a_config_of_other_weights_is_refused(tmp_path: Path, field: str, value: Any, words: str) -> None:
    write_blip3o(tmp_path, tower=False)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(CheckpointError, match=f"does not fit the weights: {words}|{words}"):
        adapter(tmp_path)


def test_a_base_that_was_not_kept_is_no_base(folder: Path) -> None:
    model, latents = adapter(folder), [torch.zeros(16, 8, 8)]
    model.start_training(Training(), base=False)
    with pytest.raises(ContractError, match="kept none"):
        model.predict(prompts(1), latents, model.draw(latents, torch.Generator()), base=True)


def test_impossible_training_is_refused() -> None:
    for setting, words in (({"lora_rank": -1}, "lora_rank"), ({"lora_rank": 2, "scope": "prior+queries"}, "no layer")):
        with pytest.raises(ValueError, match=words):
            Training(**setting)


# --- weights ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scope", ["prior", "prior+queries", "low rank"])
def test_what_was_trained_is_saved_under_the_released_names_and_comes_back(
    folder: Path, tmp_path: Path, scope: str
) -> None:
    low = scope == "low rank"
    model, fresh = adapter(folder), adapter(folder)
    train_a_little(model, model.start_training(Training("prior" if low else scope, 2 * low), base=False))
    model.save(tmp_path)
    listed = sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == listed
    for name in listed:
        if name.endswith(".safetensors"):
            before, after = load_file(folder / name), load_file(tmp_path / name)
            assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
            changed = {key for key in before if not torch.equal(before[key], after[key])}
            # What moved keeps all that float32 holds of it, although it was stored in bfloat16.
            assert all(after[k].dtype == (torch.float32 if k in changed else v.dtype) for k, v in before.items())
            assert all(own_name(key) is not None for key in changed)
            assert bool(changed) == any(key.startswith(PARTS) for key in before)
        elif (folder / name).is_file():
            assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    fresh.generate(requests(0), SAMPLING)  # what it remembers of the old weights must go
    fresh.load_trained(tmp_path)
    whole = adapter(tmp_path)
    for name, tensor in whole.prior.state_dict().items():
        assert torch.equal(fresh.prior.state_dict()[name], tensor)
        assert torch.equal(tensor, model.prior.state_dict()[name])
    drawn = [stack(one.generate(requests(0), SAMPLING)) for one in (fresh, whole)]
    assert np.array_equal(*drawn)


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    write_release(tmp_path / "bagel")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        adapter(tmp_path / "bagel")
    write_blip3o(tmp_path / "blip", tower=False)
    shard = tmp_path / "blip" / "model-00003-of-00004.safetensors"
    tensors = load_file(shard)
    tensors["model.dit.model.stranger"] = tensors.pop("model.dit.model.norm_out.linear_1.bias")
    save_file(tensors, shard)
    with pytest.raises(CheckpointError, match=r"2 problems.*norm_out.linear_1.bias is missing.*stranger.*unexpected"):
        adapter(tmp_path / "blip")
    del tensors["model.latent_queries"]
    save_file(tensors, shard)
    with pytest.raises(CheckpointError, match=r"holds no BLIP3o: model.latent_queries is missing"):
        adapter(tmp_path / "blip")


def test_without_a_tower_only_encoding_is_missing(folder: Path, tmp_path: Path) -> None:
    write_blip3o(tmp_path, tower=False)
    without, image = adapter(tmp_path), Image.new("RGB", (32, 32), "red")
    assert "tower" not in vars(adapter(folder))  # it is loaded when it is asked for
    with pytest.raises(CheckpointError, match=r"holds no EVA tower.*adapter\.tower.*train\.latents=kept"):
        without.encode([image])
    file = tmp_path / "tower.safetensors"
    held = load_file(folder / "model-00004-of-00004.safetensors")
    save_file({name.rpartition("vision_tower.model.")[2]: tensor for name, tensor in held.items()}, file)
    file.rename(tmp_path.parent / "tower.safetensors")  # beside the folder: in it, it would be a part of the checkpoint
    given = adapter(tmp_path, tower=str(tmp_path.parent / "tower.safetensors"))
    assert torch.equal(given.encode([image]), adapter(folder).encode([image]))
    assert given.encode([image] * 9).shape == (9, 16, 8, 8)
    given.start_training(Training(), base=False)
    assert "tower" not in vars(given)
    pickled = tmp_path.parent / "pytorch_model.bin"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: pickles are not read"):
        adapter(tmp_path, tower=str(pickled))
    damaged = dict(load_file(tmp_path.parent / "tower.safetensors"))
    del damaged["blocks.0.norm1.bias"]
    save_file(damaged, tmp_path.parent / "damaged.safetensors")
    with pytest.raises(CheckpointError, match=r"1 problems.*blocks.0.norm1.bias is missing"):
        adapter(tmp_path, tower=str(tmp_path.parent / "damaged.safetensors"))


def test_a_tower_of_another_prior_is_refused(folder: Path, tmp_path: Path) -> None:
    for config, words in (
        (tiny_eva(channels=32), "32 channels on 16"),
        (EvaConfig(48, 4, 16, 1, 2, 24), "16 channels on 12"),
    ):
        write_eva(tmp_path / "tower.safetensors", config)
        with pytest.raises(CheckpointError, match=f"{words}.*the prior takes 16 on 8"):
            adapter(folder, tower=str(tmp_path / "tower.safetensors"))


def test_encoding_without_a_tower_is_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_blip3o(tmp_path / "blip", tower=False)

    def refuse(*args: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("srum_blip3o.released.build", refuse)
    Path("blip3o.yaml").write_text(json.dumps(config({"name": "blip3o", "checkpoint": "blip", "dtype": "float32"})))
    encoded = ["blip3o.yaml", "train.latents=encoded"]
    for stage in ("run", "train"):
        assert main([stage, *encoded]) == 2
        said = capsys.readouterr().err
        assert "train.latents=encoded does not work with the adapter 'blip3o'" in said
        assert "holds no EVA tower" in said and "adapter.tower" in said and "train.latents=kept" in said
    [provider] = srum_model_adapters()
    shard = str(folder / "model-00004-of-00004.safetensors")
    able = (AdapterOptions(str(folder)), AdapterOptions("blip", tower=shard))
    assert [provider.cannot_encode(options) for options in able] == ["", ""]


TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json")


def test_a_checkpoint_without_a_tokenizer_is_given_one_and_refused_without(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    for name in (*TOKENIZER, "preprocessor_config.json"):
        (tmp_path / "bare" / name).unlink()
    own = tmp_path / "own"
    own.mkdir()
    write_tokenizer(own, NAMES[:-3])
    given = adapter(tmp_path / "bare", tokenizer=str(own))
    drawn = [one.generate(requests(0, 1), SAMPLING) for one in (given, adapter(folder))]
    assert np.array_equal(stack(drawn[0]), stack(drawn[1]))
    given.save(tmp_path / "saved")
    assert not any((tmp_path / "saved" / name).exists() for name in TOKENIZER)
    adapter(tmp_path / "saved", tokenizer=str(own))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("srum_blip3o.qwen.load_model", refuse)
    with pytest.raises(CheckpointError, match=r"bare holds no tokenizer.*give adapter\.tokenizer, a folder with the"):
        adapter(tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"bare holds no tokenizer: neither"):
        adapter(tmp_path / "bare", tokenizer=str(tmp_path / "bare"))
    with pytest.raises(ConfigError, match=r"adapter\.tokenizer is for checkpoints without.*leave it out"):
        adapter(folder, tokenizer=str(own))


def test_the_identity_follows_every_file_that_the_options_name(folder: Path, tmp_path: Path) -> None:
    [provider] = srum_model_adapters()
    write_tokenizer(tmp_path)
    tower = tmp_path / "tower.safetensors"
    options = [
        AdapterOptions(str(folder)),
        AdapterOptions(str(folder), tokenizer=str(tmp_path)),
        AdapterOptions(str(folder), tower=str(tower)),
    ]
    before = [provider.identity(one) for one in options]
    write_eva(tower)
    write_tokenizer(tmp_path, NAMES[:-3])
    after = [provider.identity(one) for one in options]
    assert len({*before}) == 3 and before[0] == after[0] and not set(before[1:]) & set(after)


# --- the framework ----------------------------------------------------------------------------------------------------
class Counting(Dense):
    def __init__(self) -> None:
        self.calls = 0

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
        self.calls += 1
        return super().attend(q, k, v, segments)


def test_the_provider_and_its_attention(folder: Path) -> None:
    [provider] = srum_model_adapters()
    mine = build_options(provider.options, {"checkpoint": str(folder), "dtype": "float32"}, "adapter")
    assert provider.heads is not None and provider.heads(mine)[::2] == (
        Heads(4, 2, 8, "float32"),
        Heads(2, 2, 8, "float32"),
    )
    assert provider.identity(mine) == provider.identity(mine)
    kernel = Counting()
    given, plain = provider.factory(mine, "cpu", kernel), provider.factory(mine, "cpu")
    images = [one.generate(requests(0, 1), SAMPLING) for one in (given, plain)]
    assert kernel.calls > 0 and np.abs(stack(images[0]) - stack(images[1])).max() <= 1
    assert isinstance(kernel, Attention)


def test_with_checkpointing_every_layer_that_gradients_go_through_is_computed_twice(folder: Path) -> None:
    calls = []
    for checkpointing in (False, True):
        kernel = Counting()
        model = build(AdapterOptions(str(folder), dtype="float32"), "cpu", kernel)
        model.start_training(Training("prior+queries", checkpointing=checkpointing), base=False)
        latents = [torch.randn(16, 8, 8)]
        prediction = model.predict(prompts(1), latents, model.draw(latents, torch.Generator()))
        prediction.token_losses(latents).mean().backward()
        calls.append(kernel.calls)
    assert calls == [2 + 2 * 2, 2 * (2 + 2 * 2)]  # one attention in each layer of the language, two in the prior's


def config(adapter: dict[str, Any]) -> dict[str, Any]:
    """One experiment; models differ in the adapter block alone."""
    return {
        "run": {"name": "two", "directory": f"run-{adapter['name']}"},
        "tracking": {"enabled": False},
        "adapter": adapter,
        "prompts": {"name": "shapes", "count": 3},
        "grounder": "native",
        "judge": "choice",
        "aggregator": "srum",
        "objective": {"name": "srum", "negative_weights": "saturate"},
        "benchmark": {"name": "shapes", "prompts_per_split": 4, "questions": 8},
        "generate": {"candidates": 2},
        "train": {"steps": 2, "batch": 2, "lr": 1e-3},
    }


def test_two_models_run_one_experiment_through_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_release(tmp_path / "bagel")
    common = {"dtype": "float32", "answer_tokens": 6}
    adapters: list[dict[str, Any]] = [
        {"name": "blip3o", "checkpoint": str(folder), **common},
        {"name": "bagel", "checkpoint": str(tmp_path / "bagel"), "size": [32, 32], **common},
    ]
    for one in adapters:
        file = Path(f"{one['name']}.yaml")
        file.write_text(json.dumps(config(one)))
        assert main(["run", str(file)]) == 0, capsys.readouterr().err
        summary = json.loads(Path(f"run-{one['name']}/summary.json").read_text())
        assert summary["understanding"]["identical"] is True and summary["arm"] == "srum+srum"
    run = tmp_path / "run-blip3o"
    (weights,) = (run / "stages" / "train").glob("*/weights")
    before, after = (load_file(place / "model-00003-of-00004.safetensors") for place in (folder, weights))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and "model.latent_queries" not in moved
    assert len(list((run / "stages" / "generate").glob("*/latents/*.safetensors"))) == 6
    # The images can be encoded by the tower instead.
    assert main(["train", "blip3o.yaml", "train.latents=encoded"]) == 0, capsys.readouterr().err
    # What it cannot do is refused before anything is loaded, with the reason.
    capsys.readouterr()
    assert main(["run", "blip3o.yaml", "generate.sampling.think=true"]) == 2
    assert "generate.sampling.think must be false: BLIP3o draws from the prompt alone" in capsys.readouterr().err
    half = ["run", "blip3o.yaml", "adapter.dtype=bfloat16", "run.directory=half"]
    assert main(half) == 2
    assert "cannot train weights in bfloat16" in capsys.readouterr().err
    assert main([*half, "train.adapter.lora_rank=2", "train.adapter.checkpointing=true"]) == 0, capsys.readouterr().err
    assert json.loads(Path("half/summary.json").read_text())["understanding"]["identical"] is True


@pytest.mark.slow  # torchao compiles its step for every shape: a C++ compiler, and up to a minute
def test_a_whole_run_in_bfloat16_moves_the_prior_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao")
    monkeypatch.chdir(tmp_path)
    Path("blip3o.yaml").write_text(
        json.dumps(config({"name": "blip3o", "checkpoint": str(folder), "answer_tokens": 6}))
    )
    assert main(["run", "blip3o.yaml", "train.optimizer=adamw8bit"]) == 0, capsys.readouterr().err
    stages = tmp_path / "run-blip3o" / "stages"
    (weights,) = (stages / "train").glob("*/weights")
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    before, after = (
        {name: tensor for shard in shards for name, tensor in load_file(place / shard).items()}
        for place in (folder, weights)
    )
    assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {torch.bfloat16}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    prior = {name for name in before if own_name(name) not in (None, "latent_queries")}
    assert moved <= prior and not {name for name in prior if before[name].ndim == 2} - moved
    (file,) = (stages / "train").glob("*/checkpoints/step-000002/optimizer.safetensors")
    eight = {name.split("/")[1] for name, value in load_file(file).items() if value.dtype == torch.uint8}
    assert eight and eight == {own_name(name) for name in prior if before[name].numel() >= 4096}
    # The run found the same, by the digest of what each side of the evaluation read.
    summary = json.loads((tmp_path / "run-blip3o" / "summary.json").read_text())
    assert summary["understanding"]["identical"] is True


@pytest.mark.parametrize("scope", ["prior", "prior+queries"])
def test_bfloat16_weights_have_gradients(folder: Path, scope: Scope) -> None:
    model = build(AdapterOptions(str(folder)), "cpu")
    parameters = model.start_training(Training(scope), base=True)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.bfloat16}
    train_a_little(model, parameters)
    assert all(parameter.grad is not None for parameter in parameters.values())
    answers = model.choice_logprobs([Question(Image.new("RGB", (32, 32)), "is it red?", ("yes", "no"))])
    assert len(answers[0]) == 2
