"""Folders that hold no Janus, or a damaged one, are refused before a weight is read, by what is wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from srum_janus import released
from srum_janus.adapter import JanusAdapter
from srum_janus.options import AdapterOptions, Sampling, Training
from srum_janus.released import build

from srum_plugins.contracts import GenerationRequest
from srum_plugins.errors import CheckpointError, ConfigError
from srum_plugins.records import Prompt


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def nested(folder: Path, part: str, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", **{part: config[part] | values})


def reweigh(folder: Path, mend: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    mend(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json: it is no Janus"),
    "original layout": (
        lambda folder: change(folder / "config.json", model_type="multi_modality"),
        "deepseek-community/Janus-Pro-1B",
    ),
    "another model": (lambda folder: change(folder / "config.json", model_type="llama"), "model_type 'llama'"),
    "no mapping": (lambda folder: (folder / "config.json").write_text("[]"), "model_type None"),
    "wrong kind": (lambda folder: nested(folder, "vq_config", embed_dim="eight"), "no config of a Janus"),
    "parts": (lambda folder: nested(folder, "vq_config", projection_dim=16), r"vq_config\.projection_dim is 16"),
    "grid": (lambda folder: nested(folder, "vision_config", num_image_tokens=9), "num_image_tokens is 9, expected 16"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"holds no tokenizer\.json"),
    "damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot read the tokenizer"),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace("<begin_of_image>", "<image>")
        ),
        "lacks <begin_of_image>",
    ),
    "small vocabulary": (lambda folder: nested(folder, "text_config", vocab_size=100), "beyond the language model's"),
    "no preparation": (lambda folder: (folder / "preprocessor_config.json").unlink(), "how images are prepared"),
    "other preparation": (
        lambda folder: change(folder / "preprocessor_config.json", size={"height": 64, "width": 64}),
        "64 x 64, and the vision tower sees 32",
    ),
    "pickled": (rename, r"pytorch_model\.bin: pickles are not read"),
    "missing": (
        lambda folder: reweigh(folder, lambda all_: all_.pop("model.generation_head.proj_out.bias")),
        r"1 problems\): model\.generation_head\.proj_out\.bias is missing",
    ),
    "too much": (
        lambda folder: reweigh(folder, lambda all_: all_.update(more=torch.zeros(1))),
        "more is unexpected",
    ),
    "shape": (
        lambda folder: reweigh(folder, lambda all_: all_.update({"model.aligner.fc1.bias": torch.zeros(3)})),
        r"model\.aligner\.fc1\.bias has shape \(3,\)",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_does_not_fit_is_refused_before_loading(copy: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(*arguments: Any, **named: Any) -> None:
        raise AssertionError("weights were to be loaded")

    break_it, said = BROKEN[damage]
    break_it(copy)
    monkeypatch.setattr(released.JanusForConditionalGeneration, "from_pretrained", loading)
    with pytest.raises(CheckpointError, match=said):
        build(AdapterOptions(str(copy)), "cpu")


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a hub id"):
        build(AdapterOptions("nowhere"), "cpu")


def test_what_draws_is_in_float32_whatever_the_rest_is(tiny: Path) -> None:
    half: JanusAdapter = build(AdapterOptions(str(tiny)), "cpu")
    kinds = {name: value.dtype for name, value in half.network.janus.named_parameters()}
    assert kinds["model.generation_head.vision_head.weight"] == torch.float32
    assert kinds["model.vqmodel.quantize.embedding.weight"] == torch.float32
    assert kinds["model.language_model.layers.0.self_attn.q_proj.weight"] == torch.bfloat16
    positions = half.network.janus.model.language_model.rotary_emb.inv_freq
    assert positions.dtype == torch.float32
    (image,) = half.generate([GenerationRequest(Prompt("p", "a cat"), 1)], Sampling())
    assert image.latents is not None
    latents, parameters = [image.latents], half.start_training(Training(lora_rank=2), base=True)
    assert {value.dtype for value in parameters.values()} == {torch.float32}
    draws = half.draw(latents, torch.Generator().manual_seed(0))
    half.predict([Prompt("p", "a cat")], latents, draws).token_losses(latents).sum().backward()
    assert all(value.grad is not None for value in parameters.values())


def test_another_checkpoint_has_another_identity(tiny: Path, copy: Path) -> None:
    before = AdapterOptions(str(copy)).identity
    change(copy / "config.json", note=1)
    assert AdapterOptions(str(copy)).identity != before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdapterOptions("x", answer_tokens=0), "answer_tokens"),
        (lambda: Sampling(guidance=float("nan")), "guidance"),
        (lambda: Sampling(temperature=-1), "temperature"),
        (lambda: Sampling(top_p=0), "top_p"),
        (lambda: Training(lora_rank=-1), "lora_rank"),
        (lambda: Training(lora_alpha=0), "lora_alpha"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
