"""Checkpoint folders in the released layout: read strictly, loaded, used, saved; and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from release_folder import LEVELS, released_name, write_release
from safetensors.torch import load_file, save_file
from srum_bagel import release
from srum_bagel.config import BagelConfig
from srum_bagel.grounding import PARTS, read_boxes, read_named_boxes, where_all_question
from srum_bagel.images import AsTheyAre, Resized, ResizeRule
from srum_bagel.options import AdapterOptions, Sampling, Scope, Thinking, Training
from srum_bagel.plugin import srum_model_adapters
from srum_bagel.release import diffusers_name, load_release, read_release
from srum_bagel.released import ReleasedBagel, build
from srum_bagel.tokenizer import SPECIAL, Tokenizer

from srum_plugins import weights
from srum_plugins.attention.contract import Heads
from srum_plugins.attention.dense import Dense
from srum_plugins.cli import main
from srum_plugins.contracts import Answer, Decoding, GenerationRequest, Question
from srum_plugins.errors import CheckpointError, ConfigError, ContractError
from srum_plugins.hub import check_place, local_folder
from srum_plugins.options import build_options
from srum_plugins.pixels import on_white
from srum_plugins.records import Box, Failure, Prompt, Region

CPU = torch.device("cpu")
SAMPLING = Sampling(points=3)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def options(folder: Path, **changes: Any) -> AdapterOptions:
    return AdapterOptions(str(folder), **{"dtype": "float32", "size": (64, 64), "answer_tokens": 6, **changes})


def adapter(folder: Path, **changes: Any) -> ReleasedBagel:
    return build(options(folder, **changes), "cpu")


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


# --- read and load ----------------------------------------------------------------------------------------------------
def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model, autoencoder = write_release(tmp_path)
    release = read_release(tmp_path, Tokenizer(tmp_path).special)
    assert release.config == model.config
    loaded, auto = load_release(release, CPU, torch.bfloat16)
    for (name, mine), (other, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other and mine.dtype == torch.bfloat16 and torch.equal(mine, theirs)
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(auto.encode(pixels), autoencoder.encode(pixels))
        assert torch.equal(auto.decode(torch.ones(1, 16, 4, 4)), autoencoder.decode(torch.ones(1, 16, 4, 4)))
    assert not any(tensor.is_meta for module in (loaded, auto) for tensor in module.state_dict().values())
    assert {buffer.device.type for buffer in loaded.buffers()} == {"cpu"}


def test_save_and_load_is_bit_identical_and_keeps_every_file(original: Path, tmp_path: Path) -> None:
    first = adapter(original, dtype="bfloat16")
    first.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in original.iterdir())
    for file in original.iterdir():
        if file.name != "ema.safetensors":
            assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
    stored, again = load_file(original / "ema.safetensors"), load_file(tmp_path / "ema.safetensors")
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    second = adapter(tmp_path, dtype="bfloat16")
    request = [GenerationRequest(Prompt("p", "a red circle"), 3)]
    images = [each.generate(request, SAMPLING)[0].image for each in (first, second)]
    assert images[0].tobytes() == images[1].tobytes()


def test_trained_weights_come_back(original: Path, tmp_path: Path) -> None:
    first, second = adapter(original), adapter(original)
    with torch.no_grad():
        first.model.llm2vae.weight.add_(1.0)
    first.save(tmp_path)
    second.load_trained(tmp_path)
    assert torch.equal(first.model.llm2vae.weight, second.model.llm2vae.weight)


def test_shards_are_one_checkpoint(folder: Path) -> None:
    tensors = load_file(folder / "ema.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:30], "model-2.safetensors": names[30:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "ema.safetensors").unlink()
    loaded = adapter(folder, dtype="bfloat16").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 are missing: model-2.safetensors"):
        adapter(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no index of shards"):
        adapter(folder)


STREAMING = """
import sys
from pathlib import Path
import torch
from srum_plugins import weights

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

with torch.device("meta"):
    module = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(32)))
weights.load_weights(torch.nn.Linear(1, 1, bias=False), [Path(sys.argv[2])], torch.device("cpu"))  # libraries are there
sums = []
weights._put = lambda owner, name, tensor, device, dtype: sums.append(float(tensor.sum()))
Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is that of what follows
before = peak()
weights.load_weights(module, weights.weight_files(Path(sys.argv[1])), torch.device("meta"))
assert sums == [1024.0 * 1024.0] * 32
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory as Linux tells it")
def test_the_host_holds_no_more_than_a_shard(tmp_path: Path) -> None:
    """Weights that go to another device pass through the host one by one. There is none here: they are read and let go
    where they would be sent there."""
    folder, small = tmp_path / "sharded", tmp_path / "small.safetensors"
    folder.mkdir()
    names = [f"{number}.weight" for number in range(32)]
    of_name = {name: f"ema-{number // 8}.safetensors" for number, name in enumerate(names)}
    for file in set(of_name.values()):
        save_file({name: torch.ones(1024, 1024) for name in names if of_name[name] == file}, folder / file)
    (folder / "ema.safetensors.index.json").write_text(json.dumps({"weight_map": of_name}))
    save_file({"weight": torch.ones(1, 1)}, small)
    shard = 8 * 1024 * 1024 * 4
    command = [sys.executable, "-c", STREAMING, str(folder), str(small)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.5 * shard < grown < 1.3 * shard


def test_the_names_of_the_autoencoder_at_full_size() -> None:
    """Names of the released file, and what diffusers calls them."""
    assert diffusers_name("encoder.down.1.block.0.nin_shortcut.weight", 4) == (
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"
    )
    assert diffusers_name("decoder.up.3.block.2.norm2.bias", 4) == "decoder.up_blocks.0.resnets.2.norm2.bias"
    assert diffusers_name("decoder.up.1.upsample.conv.weight", 4) == "decoder.up_blocks.2.upsamplers.0.conv.weight"
    assert diffusers_name("encoder.down.0.downsample.conv.bias", 4) == "encoder.down_blocks.0.downsamplers.0.conv.bias"
    assert diffusers_name("encoder.mid.attn_1.proj_out.weight", 4) == "encoder.mid_block.attentions.0.to_out.0.weight"
    assert diffusers_name("decoder.norm_out.weight", 4) == "decoder.conv_norm_out.weight"
    assert released_name(diffusers_name("decoder.mid.block_2.conv1.bias", LEVELS)) == "decoder.mid.block_2.conv1.bias"


# --- use --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_draws_and_answers(original: Path, dtype: str) -> None:
    model = adapter(original, dtype=dtype)
    prompts = [Prompt("a", "a red circle"), Prompt("b", "a red circle left of a blue square, and more words")]
    made = model.generate([GenerationRequest(prompt, 1) for prompt in prompts], SAMPLING)
    assert [image.image.size for image in made] == [(64, 64)] * 2
    images = [picture(64, 64), picture(90, 40, 1), picture(64, 64)]
    questions = [Question(image, "what is there ?", ("yes", "not at all"), Box(1, 2, 30, 40)) for image in images]
    assert len(model.answer(questions)) == 3
    drawn = Decoding(temperature=1.0, top_p=0.9, max_tokens=20)
    stopping = dataclasses.replace(drawn, stop=("e", " "))
    whole, cut = model.answer(questions, drawn), model.answer(questions, stopping)
    assert [answer.text for answer in cut] == [stopping.cut(answer.text) for answer in whole]
    assert not any(answer.truncated for answer in cut) and all(answer.truncated for answer in whole)
    logprobs = model.choice_logprobs(questions)
    assert [len(row) for row in logprobs] == [2, 2, 2]
    alone = model.choice_logprobs(questions[1:2])[0]
    assert alone == pytest.approx(logprobs[1], abs=1e-4 if dtype == "float32" else 0.1)
    found = model.locate(images[:1], [("red circle",)])[0]
    assert all(isinstance(region, Failure) or region.phrase == "red circle" for region in found)


def test_an_empty_prompt_is_a_prompt(original: Path) -> None:
    made = adapter(original).generate([GenerationRequest(Prompt("a", ""), 1)], SAMPLING)
    assert made[0].image.size == (64, 64)


def test_special_tokens_in_a_prompt_are_text(original: Path) -> None:
    tokenizer = Tokenizer(original)
    special = set(vars(tokenizer.special).values())
    for text in SPECIAL.values():
        ids = tokenizer.encode(f"a {text} circle")
        assert not special & set(ids)
        assert tokenizer.decode(ids) == f"a {text} circle"
    assert tokenizer.decode([tokenizer.special.bos, *tokenizer.encode("yes"), tokenizer.special.eos]) == "yes"


@settings(max_examples=60)
@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_ascii_text_survives_the_tokenizer(original: Path, text: str) -> None:
    import unicodedata

    tokenizer = Tokenizer(original)
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


# --- refused ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("llm_config.json", {"model_type": "llama"}, "model_type is 'llama', not 'qwen2'"),
        ("llm_config.json", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ("llm_config.json", {"hidden_size": "32"}, "hidden_size must be a positive integer, got '32'"),
        ("llm_config.json", {"num_attention_heads": 5}, "must divide the width"),
        ("llm_config.json", {"vocab_size": 100}, "beyond llm_config.json's vocab_size 100"),
        ("llm_config.json", {"intermediate_size": 64}, r"problems\).*mlp.gate_proj.weight has shape"),
        ("vit_config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("vit_config.json", {"num_hidden_layers": 3}, r"layers.1.* is missing"),
    ],
)
def test_configs_of_another_model_are_refused(folder: Path, file: str, changes: dict[str, Any], words: str) -> None:
    edit(folder / file, **changes)
    with pytest.raises(CheckpointError, match=words):
        adapter(folder)


@pytest.mark.parametrize(
    "name", ["llm_config.json", "vit_config.json", "vocab.json", "ema.safetensors", "ae.safetensors"]
)
def test_a_missing_or_damaged_file_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"damaged|cannot read"):
        adapter(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        adapter(folder)


def test_misfits_are_one_error_with_the_first_ten_and_their_number(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "_moe_gen" in name]:
            tensors[f"odd.{name}"] = tensors.pop(name)

    rewrite(folder / "ema.safetensors", spoil)
    with pytest.raises(CheckpointError, match=r"\(\d\d problems\)") as caught:
        adapter(folder)
    assert str(caught.value).count(" is missing") == weights.SHOWN


def test_a_checkpoint_without_the_tower_says_what_to_add(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(release.TOWER)]:
            del tensors[name]

    rewrite(folder / "ema.safetensors", drop)
    with pytest.raises(CheckpointError, match=r"no understanding tower.*Add them from the checkpoint"):
        adapter(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / "ema.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: pickles are not read, because"):
        adapter(folder)


def test_two_kinds_of_weights_need_a_choice(folder: Path) -> None:
    shutil.copy(folder / "ema.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter.weights=ema or adapter.weights=model"):
        adapter(folder)
    assert adapter(folder, weights="model").release.weights == (folder / "model.safetensors",)


def test_nothing_is_loaded_where_something_does_not_fit(folder: Path, original: Path) -> None:
    good = adapter(original)
    before = {name: tensor.clone() for name, tensor in good.model.state_dict().items()}
    rewrite(folder / "ema.safetensors", lambda tensors: tensors.pop("llm2vae.bias"))
    with pytest.raises(CheckpointError, match=r"llm2vae\.bias is missing"):
        good.load_trained(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in good.model.state_dict().items())


def test_a_full_disk_leaves_the_old_checkpoint(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapter(original)
    model.save(tmp_path)
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensors: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left"):
        model.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("size", [(60, 64), (0, 64), (128, 64)])
def test_sizes_that_do_not_fit_are_refused(original: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="multiples of 16 up to 64"):
        adapter(original, size=size)


def test_places(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    check_place("ByteDance-Seed/BAGEL-7B-MoT", commit)
    for place, revision, words in [
        ("no such folder", None, "neither a folder nor a hub id"),
        ("ByteDance-Seed/BAGEL-7B-MoT", None, "needs adapter.revision"),
        ("ByteDance-Seed/BAGEL-7B-MoT", "main", "got 'main'"),
        (str(original), commit, "is a folder"),
    ]:
        with pytest.raises(ConfigError, match=words):
            check_place(place, revision)
    import huggingface_hub

    asked: list[Any] = []

    def download(name: str, **settings: Any) -> str:
        asked.append((name, settings["revision"]))
        return str(original)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_folder("a/b", commit) == original and asked == [("a/b", commit)]

    def offline(name: str, **settings: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"cannot get a/b at 0123.*no network"):
        local_folder("a/b", commit)


def test_the_provider_tells_what_it_can_and_what_it_is(original: Path, folder: Path) -> None:
    [provider] = srum_model_adapters()
    mine = build_options(provider.options, {"checkpoint": str(original), "size": [64, 64]}, "adapter")
    assert provider.identity(mine) == provider.identity(mine)
    copied = build_options(provider.options, {"checkpoint": str(folder), "size": [64, 64]}, "adapter")
    (folder / "ema.safetensors").touch()
    assert provider.identity(copied) != provider.identity(mine)
    commit = "a" * 40
    assert provider.identity(AdapterOptions("o/n", commit)) == f"o/n@{commit}"
    assert provider.factory(mine, "cpu").size == (64, 64)
    assert provider.heads is not None and provider.heads(mine) == (Heads(4, 2, 8, "bfloat16"),)
    assert isinstance(provider.factory(mine, "cpu", Dense()).model.attention, Dense)


# --- images -----------------------------------------------------------------------------------------------------------
VAE, TOWER = Resized().autoencoder, Resized().tower


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (VAE, (1024, 1024), (1024, 1024)),
        (TOWER, (1024, 1024), (980, 980)),
        (VAE, (300, 300), (512, 512)),
        (VAE, (2048, 1024), (1024, 512)),
        (VAE, (4000, 400), (1024, 96)),
        (TOWER, (100, 100), (224, 224)),
        (VAE, (1000, 777), (992, 784)),  # 62.5 strides: to the even number
    ],
)
def test_sizes_by_the_rule(rule: ResizeRule, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rule.size(*size) == expected
    assert rule.resize(picture(*size)).size == expected


@given(st.sampled_from([VAE, TOWER]), st.integers(1, 5000), st.integers(1, 5000))
def test_any_size_fits_the_model(rule: ResizeRule, width: int, height: int) -> None:
    found = rule.size(width, height)
    assert all(side % rule.stride == 0 and rule.stride <= side <= rule.longest for side in found)


def test_transparency_becomes_white_and_other_sizes_are_refused() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert on_white(clear).getpixel((0, 0)) == (255, 255, 255)
    assert on_white(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)
    assert on_white(Image.new("LA", (4, 4), (7, 0))).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ContractError, match="reads images of"):
        AsTheyAre((8, 8)).seen(picture(9, 8))


# --- boxes in words ---------------------------------------------------------------------------------------------------
sides = st.integers(0, PARTS)


@given(st.lists(st.tuples(sides, sides, sides, sides).filter(lambda b: b[0] < b[2] and b[1] < b[3]), max_size=4))
def test_boxes_are_read_as_they_are_written(boxes: list[tuple[int, int, int, int]]) -> None:
    answer = "\n".join(f"[{a}, {b}, {c}, {d}]" for a, b, c, d in boxes) or "none"
    assert read_boxes(answer, (500, 2000)) == [Box(a / 2, b * 2, c / 2, d * 2) for a, b, c, d in boxes]
    assert read_boxes(f"<think>[1, 2] maybe</think> {answer}", (500, 2000)) == read_boxes(answer, (500, 2000))


@pytest.mark.parametrize(
    "answer",
    ["[1, 2, 3]", "[30, 2, 3, 40]", "[1, 2, 3, 1001]", "[-1, 2, 3, 4]", "[1, 2, 30, 40] [5, 6", "over there", "", "[]"],
)
def test_what_is_no_box_is_a_failure(answer: str) -> None:
    found = read_boxes(answer, (100, 100))
    assert isinstance(found, Failure) and found.detail


@given(st.text(max_size=60), st.lists(st.lists(st.integers() | st.floats(0, 1000), max_size=5), max_size=3))
def test_any_answer_is_boxes_inside_the_image_or_a_failure(prose: str, groups: list[list[float]]) -> None:
    for answer in (prose, f"{prose} {groups}", "\n".join(map(str, groups))):
        found = read_named_boxes(answer, (50, 20))
        assert isinstance(found, Failure) or all(box.inside(50, 20) for _, box in found)


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("red dog: [0, 0, 500, 500]\ncat: [1, 2, 3, 4]", ["red dog", "cat"]),
        ("red dog: [0, 0, 500, 500], [1, 2, 3, 4]\n- cat: (1, 2, 3, 4).", ["red dog", "red dog", "cat"]),
        ("Here they are.\n**red dog**\n[0, 0, 500, 500]", ["red dog"]),
        ("red dog: none\ncat: [1, 2, 3, 4]", ["cat"]),
        ("[1, 2, 3, 4]", [""]),
        ("none", []),
    ],
)
def test_each_box_has_the_name_that_stands_before_it(answer: str, names: list[str]) -> None:
    found = read_named_boxes(answer, (100, 100))
    assert not isinstance(found, Failure) and [name for name, _ in found] == names
    assert read_boxes(answer, (100, 100)) == [box for _, box in found]


def test_all_phrases_of_an_image_are_asked_for_at_once(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = adapter(original), list[Question]()
    said = iter([Answer("A red dog: [0, 0, 500, 500]\nbird: [1, 2, 3, 4]"), Answer("cat: [1,"), Answer("cat", True)])
    monkeypatch.setattr(model, "answer", lambda questions: asked.extend(questions) or [next(said) for _ in questions])
    images = [picture(64, 64), picture(90, 40, 1), picture(64, 64, 2), picture(64, 64, 3)]
    found = model.locate_all(images, [("red dog", "cat"), (), ("cat",), ("cat",)])
    assert [question.image for question in asked] == [images[0], images[2], images[3]]
    assert asked[0].text == where_all_question(("red dog", "cat"))
    assert found[0][0] == Region(Box(0, 0, 32, 32), "red dog") and found[1] == []
    causes = [one.cause for regions in found for one in regions if isinstance(one, Failure)]
    assert causes == ["unknown label", "malformed boxes", "truncated answer"]


def test_a_config_is_a_mapping_of_the_release(original: Path) -> None:
    config = read_release(original, Tokenizer(original).special).config
    assert isinstance(config, BagelConfig)
    assert (config.latent_patch_size, config.max_latent_size, config.vit_max_num_patch_per_side) == (2, 4, 8)
    assert config.latent_stride == 16


# --- the command line -------------------------------------------------------------------------------------------------
OWN = {"vae2llm", "llm2vae", "time_embedder"}


def seven(original: Path) -> None:
    """A config of the whole loop on the folder, in the current directory."""
    adapter = {"name": "bagel", "checkpoint": str(original), "size": [64, 64], "answer_tokens": 6, "dtype": "float32"}
    settings = {
        "run": {"name": "seven", "directory": "run"},
        "tracking": {"enabled": False},
        "adapter": adapter,
        "prompts": {"name": "shapes", "count": 2},
        "grounder": "native",
        "judge": "choice",
        "aggregator": "uniform",
        "objective": "srum",
        "benchmark": "shapes",
        "generate": {"candidates": 2, "sampling": {"points": 3}},
        "train": {"steps": 2, "batch": 2, "lr": 1e-3},
    }
    Path("seven.yaml").write_text(json.dumps(settings))


def test_the_stages_through_the_command_line(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seven(original)
    settings = ["seven.yaml"]
    for stage in ("generate", "ground", "judge", "reward", "train"):
        assert main([stage, *settings]) == 0, capsys.readouterr().err
    pictures = list((tmp_path / "run" / "stages" / "generate").glob("*/images/*.png"))
    assert len(pictures) == 4 and {Image.open(file).size for file in pictures} == {(64, 64)}
    (weights,) = (tmp_path / "run" / "stages" / "train").glob("*/weights")
    before, after = (load_file(next(folder.glob("ema.safetensors"))) for folder in (original, weights))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert moved and all("_moe_gen" in name or name.split(".")[0] in OWN for name in moved)
    names = {file.name for file in original.iterdir()}
    assert names | {"SHA256SUMS"} == {file.name for file in weights.iterdir()}  # which every folder of a run has
    # A plan is kept with its candidate.
    plans = [*settings, "run.directory=plans", "generate.sampling={think: true, think_tokens: 4, points: 2}"]
    assert main(["generate", *plans]) == 0
    (shard,) = (tmp_path / "plans" / "stages" / "generate").glob("*/*.jsonl")
    assert all(isinstance(json.loads(line)["plan"], str) for line in shard.read_text().splitlines())
    # What cannot work is refused before any weight is read, also where there are none to read.
    capsys.readouterr()
    assert main(["generate", *settings, "run.directory=other", "attention=varlen"]) == 2
    assert "attention=varlen does not work here: it runs on cuda only" in capsys.readouterr().err
    assert main(["run", *settings, f"adapter.checkpoint={tmp_path}", "adapter.dtype=bfloat16"]) == 2
    assert "cannot train weights in bfloat16" in (said := capsys.readouterr().err) and "adamw8bit" in said
    assert main(["generate", *settings, "adapter.checkpoint=nobody/knows"]) == 2
    assert "needs adapter.revision" in capsys.readouterr().err


@pytest.mark.slow  # torchao compiles its step for every shape: a C++ compiler, and up to a minute
def test_a_whole_run_in_bfloat16_moves_the_generation_half_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao")
    monkeypatch.chdir(tmp_path)
    write_release(tmp_path / "release", width=64)  # moments of smaller weights are not kept in 8 bits
    seven(tmp_path / "release")
    bfloat16 = ["adapter.dtype=bfloat16", "train.optimizer=adamw8bit"]
    small = ["evaluate.width=32", "evaluate.height=32", "benchmark.prompts_per_split=1", "benchmark.questions=8"]
    assert main(["run", "seven.yaml", *bfloat16, *small]) == 0, capsys.readouterr().err
    stages = tmp_path / "run" / "stages"
    (trained,) = (stages / "train").glob("*/weights/ema.safetensors")
    before, after = load_file(tmp_path / "release" / "ema.safetensors"), load_file(trained)
    assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {torch.bfloat16}
    half = {name for name in before if "_moe_gen" in name or name.split(".")[0] in OWN}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved <= half  # the understanding half is the same to the bit
    assert not {name for name in half if before[name].ndim == 2} - moved
    (state,) = (stages / "train").glob("*/checkpoints/step-000002/optimizer.safetensors")
    eight = {name.split("/")[1] for name, value in load_file(state).items() if value.dtype == torch.uint8}
    assert eight and eight == {name for name in moved if before[name].numel() >= 4096}
    # The run found the same, by the digest of what each side of the evaluation read.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["understanding"]["identical"] is True


@pytest.mark.parametrize("scope", ["generation", "all"])
def test_bfloat16_weights_have_gradients(original: Path, scope: Scope) -> None:
    adapter = build(AdapterOptions(str(original), size=(64, 32)), "cpu")
    parameters = adapter.start_training(Training(scope), base=False)
    image = adapter.generate([GenerationRequest(Prompt("a", "a red circle"), 0)], Thinking(points=2))[0].image
    latents = adapter.encode([image])
    draws = dataclasses.replace(adapter.draw(latents, torch.Generator()), drop=torch.tensor([False]))
    losses = adapter.predict([Prompt("a", "a red circle")], latents, draws).token_losses(latents)
    assert losses.dtype == torch.float32
    losses.mean().backward()
    found = [name for name, parameter in parameters.items() if parameter.grad is not None]
    assert {parameters[name].dtype for name in found} == {torch.bfloat16}
    assert any("_moe_gen" in name for name in found)
    assert any("_moe_gen" not in name and "layers.0." in name for name in found) == (scope == "all")


@pytest.mark.parametrize("size", [(16, 48), (64, 16), (32, 64)])
def test_candidates_of_any_size_are_encoded_on_their_own_token_grid(original: Path, size: tuple[int, int]) -> None:
    adapter = build(AdapterOptions(str(original), size=size, dtype="float32"), "cpu")
    image = adapter.generate([GenerationRequest(Prompt("a", "a red circle"), 0)], Thinking(points=2))[0].image
    assert image.size == size
    patch = adapter.config.latent_patch_size
    assert tuple(side // patch for side in adapter.encode([image]).shape[2:]) == adapter.token_grid(*size)
    assert adapter.encode([Image.new("RGB", (100, 20))]).shape[2:] == (16 // 8, 64 // 8)  # others are resized
