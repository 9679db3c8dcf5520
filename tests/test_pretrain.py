"""The recipe of the shipped checkpoint, on a model small enough to be trained in a second."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from srum_bagel.autoencoder import KLAutoencoder, build_autoencoder, to_pixels
from srum_bagel.config import AutoencoderConfig, BagelConfig
from srum_bagel.model import Bagel
from srum_bagel.packing import Piece, pack
from srum_shapes import oracle, pretrain
from srum_shapes.adapter import build
from srum_shapes.architecture import autoencoder_config
from srum_shapes.cli import main
from srum_shapes.options import AdapterOptions, Phase, Recipe
from srum_shapes.prompts import parse
from srum_shapes.vocabulary import BOI, EOI, EOS, decode
from tiny_bagel import tiny_config

from srum_plugins.errors import ConfigError

RECIPE = Recipe(
    autoencoder_steps=3,
    autoencoder_batch=4,
    decoder_steps=3,
    phases=[
        Phase(until=12, images=2, questions=3, captions=4),
        Phase(
            until=24, images=2, questions=3, captions=6, inventory=False, relations=1, lessons=1, layouts=0.5, aside=2
        ),
    ],
    warmup=4,
    checkpoint_every=9,
)
SETTINGS = [f"{name}={json.dumps(value)}" for name, value in dataclasses.asdict(RECIPE).items()]
PATCHES = 64


def with_counts(**counts: float) -> Recipe:
    """The recipe with these settings in every phase."""
    return dataclasses.replace(RECIPE, phases=[dataclasses.replace(p, **counts) for p in RECIPE.phases])


def tiny_autoencoder(scale: float = 1.0, shift: float = 0.0) -> AutoencoderConfig:
    config = autoencoder_config(scale, shift)
    return dataclasses.replace(
        config, arguments={**config.arguments, "block_out_channels": [4, 4, 4], "norm_num_groups": 2}
    )


def tiny_bagel(scale: float = 1.0, shift: float = 0.0) -> BagelConfig:
    return dataclasses.replace(tiny_config(), vae=tiny_autoencoder(scale, shift), latent_patch_size=1)


@pytest.fixture(scope="module", autouse=True)
def small_architecture() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "autoencoder_config", tiny_autoencoder)
        patch.setattr(pretrain, "bagel_config", tiny_bagel)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    pretrain.pretrain(RECIPE, folder)
    return folder


# --- data -------------------------------------------------------------------------------------------------------------
def branches(sample: list[Piece], ids: Iterator[int], targets: Iterator[int]) -> dict[int, list[tuple[int, int, int]]]:
    """(piece, token, target) of every text token of a sample, by branch, in packed order."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for number, piece in enumerate(sample):
        expected = piece.ids or (BOI, EOI)
        for token in expected:
            assert next(ids) == token
            found.setdefault(piece.branch, []).append((number, token, next(targets)))
    return found


@settings(max_examples=25)
@given(st.integers(0, 5), st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5))
def test_every_target_is_the_next_token_of_its_branch(seed: int, step: int, images: int, questions: int) -> None:
    recipe = dataclasses.replace(with_counts(images=images, questions=questions), seed=seed)
    batch = pretrain.question_batch(recipe, step, PATCHES)
    packed = pack(batch.pieces, BOI, EOI)
    more = recipe.phase(step).lessons
    assert (len(batch.pictures), len(batch.pieces)) == (images + 2 * more, images + 3 * more)
    assert batch.targets.shape == packed.text_ids.shape
    ids, targets = iter(packed.text_ids.tolist()), iter(batch.targets.tolist())
    for number, sample in enumerate(batch.pieces):
        found = branches(sample, ids, targets)
        trunk = found.pop(0, [])
        assert all(target == pretrain.IGNORE for _, _, target in trunk)
        assert number >= images or len(found) >= questions
        for tokens in found.values():
            last = tokens[-1][0]
            for (piece, _, target), (_, following, _) in zip(tokens, [*tokens[1:], (0, EOS, 0)], strict=True):
                assert target == (following if piece == last else pretrain.IGNORE)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def data(seed: int, step: int) -> list[Any]:
        recipe = dataclasses.replace(RECIPE, seed=seed)
        asked, told = pretrain.question_batch(recipe, step, PATCHES), pretrain.caption_batch(recipe, step)
        return [asked.pictures.tolist(), asked.pieces, asked.targets.tolist(), told.pictures.tolist(), told.captions]

    assert data(3, 7) == data(3, 7)
    for other in (data(3, 8), data(4, 7)):
        assert all(mine != theirs for mine, theirs in zip(data(3, 7), other, strict=True))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_captions_are_true_but_for_the_stated_share(noise: float) -> None:
    recipe = dataclasses.replace(with_counts(captions=100, noise=noise), caption_dropout=0.0)
    batch = pretrain.caption_batch(recipe, 0)
    for picture, ids in zip(batch.pictures, batch.captions, strict=True):
        assert ids is not None
        assert oracle.score(parse(decode(ids)), picture.numpy())["full"] == 1.0 - noise


def test_later_a_share_of_the_captions_are_layouts_and_a_third_of_the_questions_are_relations() -> None:
    recipe = dataclasses.replace(with_counts(images=40, captions=300), caption_dropout=0.0)
    texts = [decode(ids) for ids in pretrain.caption_batch(recipe, 12).captions if ids is not None]
    layouts = sum("<" in text for text in texts)
    assert abs(layouts / 300 - 0.5) < 4 * math.sqrt(0.25 / 300)
    asked = [piece for sample in pretrain.question_batch(recipe, 12, PATCHES).pieces for piece in sample]
    relations = sum(decode(piece.ids).startswith("<bos> where is") for piece in asked if piece.ids)
    assert relations > 40 / 2  # a scene that has a relation is asked about one for certain


def test_captions_are_dropped_in_the_stated_share() -> None:
    batch = pretrain.caption_batch(dataclasses.replace(with_counts(captions=300), caption_dropout=0.4), 0)
    dropped = sum(ids is None for ids in batch.captions)
    assert abs(dropped / 300 - 0.4) < 4 * math.sqrt(0.4 * 0.6 / 300)


# --- losses -----------------------------------------------------------------------------------------------------------
def test_the_packed_loss_is_that_of_the_questions_one_by_one() -> None:
    torch.manual_seed(0)
    model = Bagel(tiny_bagel())
    batch = pretrain.question_batch(RECIPE, 5, PATCHES)
    losses = []
    with torch.no_grad():
        packed_loss = pretrain.question_loss(model, batch)
        for picture, (image, *texts) in zip(batch.pictures, batch.pieces, strict=True):
            for branch in sorted({piece.branch for piece in texts}):
                pieces = [image, *(piece for piece in texts if piece.branch == branch)]
                packed = model.pack([pieces])
                und, _ = model.hidden(packed, model.vision_tokens(to_pixels(picture[None])).flatten(0, 1), None)
                answer = pieces[-1].ids
                logits = model.language_model.lm_head(und[packed.text_rows[-len(answer) :]])
                losses.append(F.cross_entropy(logits, torch.tensor([*answer[1:], EOS]), reduction="none"))
    torch.testing.assert_close(packed_loss, torch.cat(losses).mean())


def test_the_velocity_loss_of_an_untrained_head_is_the_power_of_its_target() -> None:
    """The head starts at zero, so that the loss is E (noise - x0)^2 = 1 + x0^2, whatever the caption."""
    torch.manual_seed(0)
    model = Bagel(tiny_bagel())
    pretrain.initialise(model)
    latents = torch.full((6, 8, 8, 8), 2.0)
    captions: list[list[int] | None] = [None, [5, 6], None, [7], [8], None]
    with torch.no_grad():
        loss = pretrain.caption_loss(model, latents, captions, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(5.0, abs=0.3)


@given(st.integers(1, 500), st.integers(1, 60), st.floats(0.05, 1.0))
def test_rates_rise_stay_and_fall_to_almost_nothing(steps: int, warmup: int, share: float) -> None:
    rates = [pretrain.rate(step, steps, warmup, share) for step in range(steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(1 / warmup)
    assert rates[-1] <= 1 / (share * steps)


# --- runs -------------------------------------------------------------------------------------------------------------
def plain(state: Any) -> Any:
    """Tensors as their bytes, in the mappings and lists that hold them."""
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize("stop", [4, 22])  # before the first checkpoint, and after the second, at 18
def test_some_steps_a_stop_and_the_rest_are_a_straight_run(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = pretrain.main_step

    def interrupted(model: Bagel, auto: KLAutoencoder, recipe: Recipe, step: int, told: pretrain.CaptionBatch) -> float:
        if step == stop:
            raise KeyboardInterrupt
        return whole(model, auto, recipe, step, told)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "main_step", interrupted)
        assert main(["pretrain", str(tmp_path), *SETTINGS]) == 130
    monkeypatch.setattr(pretrain, "train_autoencoder", None)  # it is there already
    assert main(["pretrain", str(tmp_path), *SETTINGS]) == 0

    for file in sorted((straight / "model").iterdir()):
        assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes(), file.name
    mine, theirs = (plain(torch.load(folder / "state.pt", weights_only=True)) for folder in (tmp_path, straight))
    assert mine == theirs
    mine, theirs = (
        [{**json.loads(line), "seconds": 0} for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path, straight)
    )
    assert [row["step"] for row in mine] == [0, 20]
    assert mine == theirs


def test_the_log_is_cut_back_to_the_state_also_where_a_kill_cut_a_line_off(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 0}\n{"step": 20}\n{"step": 40}\n{"st')
    pretrain.keep_log(file, 40)
    assert file.read_text() == '{"step": 0}\n{"step": 20}\n'


def test_a_finished_run_stays_as_it_is(straight: Path) -> None:
    files = {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()}
    pretrain.pretrain(RECIPE, straight)
    assert {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()} == files


def test_training_moves_every_part_of_the_model(straight: Path) -> None:
    torch.manual_seed(RECIPE.seed)
    start = Bagel(tiny_bagel())
    pretrain.initialise(start)
    end = torch.load(straight / "state.pt", weights_only=True)["model"]
    still = {name for name, parameter in start.named_parameters() if torch.equal(parameter, end[name])}
    assert still == {name for name, parameter in start.named_parameters() if not parameter.requires_grad}


def test_a_phase_without_questions_trains_the_generation_half_alone(straight: Path, tmp_path: Path) -> None:
    for name in ("autoencoder.pt", "state.pt", "log.jsonl"):
        shutil.copy(straight / name, tmp_path)
    drawing = [Phase(until=27, captions=4), Phase(until=30, captions=6, noise=0.5, aside=2)]
    pretrain.pretrain(dataclasses.replace(RECIPE, phases=[*RECIPE.phases, *drawing]), tmp_path)
    before, after = (torch.load(folder / "state.pt", weights_only=True) for folder in (straight, tmp_path))
    model = Bagel(tiny_bagel())
    moved = {name for name in before["model"] if not torch.equal(before["model"][name], after["model"][name])}
    assert moved == set(model.generation_parameters())
    # The optimizers' states rest as well, so that questions of a later phase go on where they were.
    rests = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in moved]
    groups = [
        [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (parameter.ndim == 2 and ".layers." in name) == inner
        ]
        for inner in (True, False)
    ]
    for names, old, new in zip(groups, before["optimizer"], after["optimizer"], strict=True):
        for index, name in enumerate(names):
            assert (plain(old["state"][index]) == plain(new["state"][index])) == (name in rests), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_run_follows_the_plain_one(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        recipe = dataclasses.replace(RECIPE, phases=[Phase(until=21, captions=16)], warmup=30, compiled=compiled)
        pretrain.pretrain(recipe, folder := tmp_path / str(compiled))
        losses.append([json.loads(line)["velocity"] for line in (folder / "log.jsonl").read_text().splitlines()])
    assert losses[0][0] != losses[0][1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_finished_folder_loads_as_the_adapter(straight: Path) -> None:
    adapter = build(AdapterOptions(str(straight / "model")), "cpu")
    state = torch.load(straight / "state.pt", weights_only=True)
    torch.testing.assert_close(dict(adapter.model.state_dict()), state["model"], rtol=0, atol=0)

    saved = torch.load(straight / "autoencoder.pt", weights_only=True)
    trained = build_autoencoder(tiny_autoencoder(saved["scale"], saved["shift"]))
    trained.load_state_dict(saved["model"])
    pixels = to_pixels(pretrain.caption_batch(RECIPE, 0).pictures)
    with torch.no_grad():
        latents = adapter.autoencoder.encode(pixels)
        assert torch.equal(latents, trained.encode(pixels))
    assert latents.shape == (4, 8, 8, 8)


def test_latents_have_unit_spread_around_zero() -> None:
    auto = pretrain.train_autoencoder(dataclasses.replace(RECIPE, seed=1))
    pictures = pretrain.caption_batch(with_counts(captions=200), 0).pictures
    with torch.no_grad():
        latents = auto.encode(to_pixels(pictures))
    assert latents.mean().item() == pytest.approx(0.0, abs=0.1)
    assert latents.std().item() == pytest.approx(1.0, abs=0.1)


# --- mistakes ---------------------------------------------------------------------------------------------------------
def test_another_recipe_in_the_same_folder_is_refused_and_named(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (straight / "recipe.json").read_bytes()
    assert main(["pretrain", str(straight), *SETTINGS, "warmup=5", "caption_dropout=0.5"]) == 2
    printed = capsys.readouterr()
    assert "begun with another recipe (caption_dropout was 0.1, is 0.5; warmup was 4, is 5)" in printed.err
    assert "Traceback" not in printed.err
    assert (straight / "recipe.json").read_bytes() == kept
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        pretrain.pretrain(dataclasses.replace(RECIPE, seed=1), straight)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("warmup=0", "pretrain.warmup must be at least 1"),
        ("seed=-1", "pretrain.seed must be at least 0"),
        ("decay_share=0", "pretrain.decay_share must lie in (0, 1]"),
        ("caption_dropout=1.5", "pretrain.caption_dropout must lie in [0, 1]"),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    assert main(["pretrain", str(tmp_path / "run"), flag]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "counts",
    [{"images": 1}, {"questions": 1}, {"aside": 4}, {"images": -1, "questions": 2}, {"noise": 1.5}, {"until": 0}],
)
def test_phases_without_sense_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a phase"):
        Phase(**{"until": 3, "captions": 4, **counts})


@pytest.mark.parametrize("flag", ["--prompts=0", "--questions=0"])
def test_measuring_nothing_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "folder", flag])
    assert "must be at least 1" in capsys.readouterr().err
