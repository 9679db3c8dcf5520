"""BLIP3o's EVA tower and pixel decoder: against forwards written out here, on tiny and on full-sized parts."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blip3o_parts import CHANNELS, SAVED_PREFIX, SCHEDULER, random_eva, tiny_eva, write_decoder, write_eva
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from srum_blip3o import decoder as decoder_module
from srum_blip3o.decoder import GUIDANCE, STEPS, PixelDecoder, current_name, load_decoder, make_schedule
from srum_blip3o.eva import MEAN, STD, EvaConfig, EvaTower, as_tokens, load_tower, pooled, preprocess
from torch import Tensor

from srum_plugins.errors import CheckpointError, ContractError

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.bf16.safetensors"

PUBLISHED_UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 1792,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 3328,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# The tower


def layer_norm(token: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = token - token.sum() / len(token)
    return centred / ((centred**2).sum() / len(token) + 1e-6).sqrt() * weight + bias


def written_out(weights: dict[str, Tensor], config: EvaConfig, image: Tensor) -> Tensor:
    """The tower of one image (3, S, S), token by token and head by head."""
    patches = []
    for row in range(config.side):
        for column in range(config.side):
            y, x = config.patch * row, config.patch * column
            patch = image[:, y : y + config.patch, x : x + config.patch]
            embedded = torch.einsum("dcyx,cyx->d", weights["patch_embed.proj.weight"], patch)
            patches.append(embedded + weights["patch_embed.proj.bias"])
    tokens = torch.stack([weights["cls_token"][0, 0], *patches]) + weights["pos_embed"][0]
    head_width = config.width // config.heads
    for number in range(config.depth):
        w = {name.removeprefix(f"blocks.{number}."): weight for name, weight in weights.items()}
        packed = torch.einsum("td,ed->te", tokens, w["attn.qkv.weight"]) + w["attn.qkv.bias"]
        mixed = torch.empty_like(tokens)
        for head in range(config.heads):
            q, k, v = (
                packed[:, part * config.width + head * head_width : part * config.width + (head + 1) * head_width]
                for part in range(3)
            )
            scores = torch.einsum("qe,ke->qk", q, k) * head_width**-0.5
            shares = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            mixed[:, head * head_width : (head + 1) * head_width] = torch.einsum("qk,ke->qe", shares, v)
        added = torch.einsum("td,ed->te", mixed, w["attn.proj.weight"]) + w["attn.proj.bias"]
        tokens = tokens + torch.stack([layer_norm(t, w["norm1.weight"], w["norm1.bias"]) for t in added])
        hidden = torch.einsum("td,hd->th", tokens, w["mlp.fc1.weight"]) + w["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        added = torch.einsum("th,dh->td", hidden, w["mlp.fc2.weight"]) + w["mlp.fc2.bias"]
        tokens = tokens + torch.stack([layer_norm(t, w["norm2.weight"], w["norm2.bias"]) for t in added])
    return tokens[1:]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_tower_equals_a_forward_written_out(seed: int) -> None:
    config = EvaConfig(image=24, patch=4, width=16, depth=3, heads=4, mlp=20)
    tower, pixels = random_eva(config, seed).double(), normal(2, 3, 24, 24, seed=seed).double()
    expected = torch.stack([written_out(tower.state_dict(), config, image) for image in pixels])
    torch.testing.assert_close(tower(pixels), expected, rtol=1e-10, atol=1e-10)


def test_every_weight_of_the_tower_shows_in_the_features() -> None:
    tower, pixels = random_eva(tiny_eva()), normal(1, 3, 64, 64)
    before = tower(pixels)
    for name, weight in tower.named_parameters():
        kept = weight.clone()
        weight.copy_(normal(*weight.shape, seed=7))
        assert not torch.allclose(tower(pixels), before, atol=1e-5), name
        weight.copy_(kept)
    torch.testing.assert_close(tower(pixels), before)


def test_the_full_tower_has_the_names_and_shapes_of_the_checkpoint() -> None:
    with torch.device("meta"):
        tower = EvaTower(EvaConfig())
    expected = {
        "cls_token": (1, 1, 1792),
        "pos_embed": (1, 1025, 1792),
        "patch_embed.proj.weight": (1792, 3, 14, 14),
        "patch_embed.proj.bias": (1792,),
    }
    for number in range(64):
        for norm in ("norm1", "norm2"):
            expected |= {f"blocks.{number}.{norm}.{kind}": (1792,) for kind in ("weight", "bias")}
        for layer, (out, into) in {
            "attn.qkv": (5376, 1792),
            "attn.proj": (1792, 1792),
            "mlp.fc1": (15360, 1792),
            "mlp.fc2": (1792, 15360),
        }.items():
            expected |= {f"blocks.{number}.{layer}.weight": (out, into), f"blocks.{number}.{layer}.bias": (out,)}
    assert {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()} == expected
    assert sum(weight.numel() for weight in tower.parameters()) == 4_350_208_256


@settings(max_examples=12)
@given(row=st.integers(0, 7), column=st.integers(0, 7))
def test_a_painted_block_of_a_render_is_one_token(row: int, column: int) -> None:
    """128 x 128 pixels of a 1024 image; without blocks a patch knows of nothing but itself."""
    tower = random_eva(EvaConfig(width=16, depth=0, heads=2))
    grey = np.full((1024, 1024, 3), 128, dtype=np.uint8)
    painted = grey.copy()
    # The resize reads a few pixels around each, so that what is painted stays clear of the block's border.
    painted[128 * row + 16 : 128 * row + 112, 128 * column + 16 : 128 * column + 112] = (255, 0, 0)
    before, after = tower.encode([Image.fromarray(grey), Image.fromarray(painted)])
    assert before.shape == (16, 8, 8)
    changed = (as_tokens(after[None]) - as_tokens(before[None])).abs().amax(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [8 * row + column]


def test_patches_are_in_rows_and_their_means_are_pooled() -> None:
    features = normal(2, 1024, 5)
    means = pooled(features)
    assert means.shape == (2, 5, 8, 8)
    for row, column in ((0, 0), (0, 7), (7, 0), (3, 5)):
        members = [32 * (4 * row + y) + 4 * column + x for y in range(4) for x in range(4)]
        torch.testing.assert_close(means[:, :, row, column], features[:, members].mean(dim=1))
    torch.testing.assert_close(as_tokens(means)[:, 8 * 3 + 5], means[:, :, 3, 5])


@pytest.mark.parametrize("count", [1023, 36])
def test_features_that_cannot_be_pooled_are_refused(count: int) -> None:
    with pytest.raises(ContractError, match=f"cannot pool {count} features to 8 x 8: they must be a square"):
        pooled(normal(1, count, 4))


def test_encoding_is_the_tower_pooled_in_float32() -> None:
    tower, images = random_eva(tiny_eva()), [picture(64, 64), picture(100, 80, seed=1)]
    expected = tower(preprocess(images, 64)).reshape(2, 8, 2, 8, 2, CHANNELS).mean(dim=(2, 4)).permute(0, 3, 1, 2)
    torch.testing.assert_close(tower.encode(images), expected)
    half = tower.to(torch.bfloat16).encode(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1)


def test_a_tower_refuses_pixels_of_another_size_and_dimensions_that_do_not_divide() -> None:
    with pytest.raises(ContractError, match=r"reads pixels \(B, 3, 64, 64\), got \(1, 3, 60, 64\)"):
        random_eva(tiny_eva())(normal(1, 3, 60, 64))
    with pytest.raises(ContractError, match="image 450 is no multiple of its patch 14"):
        EvaConfig(image=450)
    with pytest.raises(ContractError, match="width 1792 is no multiple of its heads 15"):
        EvaConfig(heads=15)


# Images for the tower


def normalised(array: np.ndarray) -> np.ndarray:
    return ((array / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


def test_an_image_of_the_size_is_only_normalised() -> None:
    image = picture(448, 448)
    pixels = preprocess([image])
    assert pixels.shape == (1, 3, 448, 448)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0].numpy(), normalised(np.asarray(image)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((1024, 1024), (448, 448), (0, 0)),
        ((901, 673), (599, 448), (76, 0)),  # 75.5, rounded to the even number
        ((333, 1000), (448, 1345), (0, 448)),
        ((31, 17), (816, 448), (184, 0)),
        ((1, 3), (448, 1344), (0, 448)),
    ],
)
def test_the_middle_of_the_resized_image_is_kept(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = picture(*size)
    whole = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    left, top = corner
    middle = whole[top : top + 448, left : left + 448]
    assert middle.shape == (448, 448, 3)
    np.testing.assert_allclose(preprocess([image])[0].numpy(), normalised(middle), rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.sampled_from([7, 16, 33]))
def test_an_image_of_one_colour_stays_one_whatever_its_size(width: int, height: int, size: int) -> None:
    pixels = preprocess([Image.new("RGB", (width, height), (10, 20, 250))], size)
    assert pixels.shape == (1, 3, size, size)
    expected = (torch.tensor([10, 20, 250]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels[0], expected[:, None, None].expand(3, size, size))


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 10))
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([9, 9, 9])
    palette.info["transparency"] = 0
    grey = Image.new("L", (20, 20), 77)
    white, blue = normalised(np.full((1, 1, 3), 255)), normalised(np.array([[[0, 0, 255]]]))
    pixels = preprocess([clear, palette, grey], 20).double().numpy()
    np.testing.assert_allclose(pixels[0, :, 15:], np.broadcast_to(white, (3, 5, 20)), rtol=1e-5)
    np.testing.assert_allclose(pixels[0, :, :10], np.broadcast_to(blue, (3, 10, 20)), rtol=1e-5)
    np.testing.assert_allclose(pixels[1], np.broadcast_to(white, (3, 20, 20)), rtol=1e-5)
    flat = normalised(np.full((20, 20, 3), 77))
    np.testing.assert_allclose(pixels[2], flat, rtol=1e-5)


def test_no_image_is_refused() -> None:
    with pytest.raises(ContractError, match="there is no image to prepare"):
        preprocess([])


# The tower's weights


@pytest.mark.parametrize("prefix", ["", "module.", SAVED_PREFIX])
def test_a_tower_is_read_wherever_it_lies(prefix: str, tmp_path: Path) -> None:
    written, pixels = write_eva(tmp_path / "eva.safetensors", prefix=prefix), normal(1, 3, 64, 64)
    tower = load_tower([tmp_path / "eva.safetensors"], CPU, torch.float32, tiny_eva())
    assert torch.equal(tower(pixels), written(pixels))
    assert not tower.training
    assert not any(weight.requires_grad for weight in tower.parameters())
    half = load_tower([tmp_path / "eva.safetensors"], CPU, torch.bfloat16, tiny_eva())
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_a_tower_is_read_from_the_shards_of_a_whole_checkpoint(tmp_path: Path) -> None:
    written = write_eva(tmp_path / "all", prefix=SAVED_PREFIX)
    tensors = {
        **load_file(tmp_path / "all"),
        "model.norm.weight": normal(3),
        "visual.patch_embed.proj.weight": normal(4),
    }
    names = sorted(tensors)
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, file)
    tower = load_tower(files, CPU, torch.float32, tiny_eva())
    for name, weight in written.state_dict().items():
        assert torch.equal(tower.state_dict()[name], weight), name


def test_the_loaded_tower_outlives_its_file(tmp_path: Path) -> None:
    written = write_eva(tmp_path / "eva.safetensors")
    tower = load_tower([tmp_path / "eva.safetensors"], CPU, torch.float32, tiny_eva())
    with (tmp_path / "eva.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\x7f" * 4096)
    pixels = normal(1, 3, 64, 64)
    assert torch.equal(tower(pixels), written(pixels))


def test_weights_behind_the_last_block_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "eva.safetensors"
    written, pixels = write_eva(file), normal(1, 3, 64, 64)
    rewrite(file, lambda tensors: tensors.update({"norm.weight": normal(CHANNELS), "head.weight": normal(3, CHANNELS)}))
    assert torch.equal(load_tower([file], CPU, torch.float32, tiny_eva())(pixels), written(pixels))


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.bias"), r"\(1 problems\): blocks.1.mlp.fc1.bias is missing"),
        (lambda t: t.update({"blocks.2.norm1.bias": normal(2)}), "blocks.2.norm1.bias is unexpected"),
        (
            lambda t: t.update(pos_embed=normal(1, 256, CHANNELS)),
            r"pos_embed has shape \(1, 256, 16\), expected \(1, 257, 16\)",
        ),
        (lambda t: t.pop("cls_token"), "holds no EVA tower: exactly one weight must be named cls_token"),
        (lambda t: t.update({"other.cls_token": normal(2)}), "holds 2 EVA towers, under"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "eva.safetensors"
    write_eva(file)
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=message):
        load_tower([file], CPU, torch.float32, tiny_eva())


def test_a_pickled_or_absent_tower_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"EVA tower from pytorch_model.bin: pickles are not read"):
        load_tower([tmp_path / "pytorch_model.bin"], CPU, torch.float32, tiny_eva())
    with pytest.raises(CheckpointError, match="cannot read weights from"):
        load_tower([tmp_path / "absent.safetensors"], CPU, torch.float32, tiny_eva())
    with pytest.raises(CheckpointError, match="no file to read the EVA tower from"):
        load_tower([], CPU, torch.float32, tiny_eva())


# The decoder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    write_decoder(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def decoder(original: Path) -> PixelDecoder:
    return load_decoder(original, CHANNELS, CPU, torch.float32)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def inputs(count: int, height: int = 8, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(count, 64, CHANNELS, seed=seed),
        normal(1, 64, CHANNELS, seed=seed + 1),
        normal(count, 4, height, width, seed=seed + 2),
    )


def test_the_published_unet_has_the_published_size() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**PUBLISHED_UNET)
    assert sum(weight.numel() for weight in unet.parameters()) == 2_525_520_644


def test_the_published_schedule_starts_at_its_constants() -> None:
    schedule = make_schedule(SCHEDULER, 50)
    assert schedule.start == pytest.approx(13.1585, abs=5e-5)
    assert schedule.times == tuple(float(20 * step + 1) for step in reversed(range(50)))
    assert len(schedule.sigmas) == 51
    # Written out: at time t is kept the product of 1 - beta up to t, the betas being squares of an even row.
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    sigmas = [math.sqrt((1 - kept[int(time)]) / kept[int(time)]) for time in schedule.times]
    np.testing.assert_allclose(schedule.sigmas, [*sigmas, 0.0], rtol=1e-4)
    assert schedule.start == pytest.approx(math.sqrt(sigmas[0] ** 2 + 1), rel=1e-4)
    assert make_schedule(SCHEDULER, 50) == schedule
    assert (GUIDANCE, STEPS) == (3.0, 50)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int, decoder: PixelDecoder) -> None:
    features, negative, noise = inputs(1)
    with pytest.raises(ContractError, match=f"draws in 1 to 1000 steps, got {steps}"):
        decoder.decode(features, negative, noise, steps=steps)


def by_diffusers(
    decoder: PixelDecoder, features: Tensor, negative: Tensor, noise: Tensor, guidance: float, steps: int
) -> Tensor:
    """One image (1, ...) with diffusers' own steps and a forward for each branch, by blip3o.md 4.3."""
    scheduler: Any = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    height, width = 8 * noise.shape[2], 8 * noise.shape[3]

    def predicted(condition: Tensor, scaled: Tensor, time: Tensor) -> Tensor:
        told = {
            "text_embeds": condition.sum(dim=1) / condition.shape[1],
            "time_ids": torch.tensor([[height, width, 0, 0, height, width]]),
        }
        out: Tensor = decoder.unet(scaled, time, condition, added_cond_kwargs=told).sample
        return out

    with torch.no_grad():
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, time)
            to, away = predicted(features, scaled, time), predicted(negative, scaled, time)
            latents = scheduler.step(away + guidance * (to - away), time, latents).prev_sample
        pixels: Tensor = decoder.vae.decode(latents / 0.13025).sample
    return (pixels / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 10)])
@pytest.mark.parametrize(("guidance", "steps"), [(3.0, 4), (1.0, 3), (0.5, 1)])
def test_painting_equals_diffusers_step_by_step(
    decoder: PixelDecoder, height: int, width: int, guidance: float, steps: int
) -> None:
    features, negative, noise = inputs(2, height, width)
    painted = decoder.paint(features, negative, noise, guidance, steps)
    assert painted.shape == (2, 3, 8 * height, 8 * width)
    for image in range(2):
        one = slice(image, image + 1)
        expected = by_diffusers(decoder, features[one], negative, noise[one], guidance, steps)
        torch.testing.assert_close(painted[one], expected, rtol=0, atol=2e-5)


@settings(max_examples=15)
@given(count=st.integers(2, 5), guidance=st.sampled_from([1.0, 3.0]), seed=st.integers(0, 1000), data=st.data())
def test_an_image_does_not_depend_on_its_batch(
    decoder: PixelDecoder, count: int, guidance: float, seed: int, data: st.DataObject
) -> None:
    features, negative, noise = inputs(count, 4, 4, seed)
    together = decoder.paint(features, negative, noise, guidance, 2)
    some = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count))
    apart = decoder.paint(features[some], negative, noise[some], guidance, 2)
    torch.testing.assert_close(apart, together[some], rtol=0, atol=1e-5)


def test_images_have_negatives_of_their_own(decoder: PixelDecoder) -> None:
    features, _, noise = inputs(2)
    negatives = normal(2, 64, CHANNELS, seed=9)
    together = decoder.paint(features, negatives, noise, 3.0, 2)
    for image in range(2):
        one = slice(image, image + 1)
        apart = decoder.paint(features[one], negatives[one], noise[one], 3.0, 2)
        torch.testing.assert_close(apart, together[one], rtol=0, atol=1e-5)
    assert (together - decoder.paint(features, negatives.flip(0), noise, 3.0, 2)).abs().max() > 1e-3


def test_what_is_painted_follows_features_negative_and_noise(decoder: PixelDecoder) -> None:
    features, negative, noise = inputs(1)
    image = decoder.paint(features, negative, noise, 3.0, 3)
    assert image.std() > 0.01
    for changed in ((2 * features, negative, noise), (features, -negative, noise), (features, negative, -noise)):
        assert (decoder.paint(*changed, 3.0, 3) - image).abs().max() > 1e-3


def test_without_guidance_only_the_condition_is_computed(
    decoder: PixelDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, negative, noise = inputs(2)
    forward, seen = decoder.unet.forward, []

    def watched(sample: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(len(sample))
        return forward(sample, *rest, **named)

    monkeypatch.setattr(decoder.unet, "forward", watched)
    plain = decoder.paint(features, None, noise, 1.0, 3)
    assert seen == [2, 2, 2]
    assert torch.equal(decoder.paint(features, negative, noise, 1.0, 3), plain)
    seen.clear()
    nearly = decoder.paint(features, negative, noise, 1.0 + 1e-6, 3)
    assert seen == [4, 4, 4]
    torch.testing.assert_close(nearly, plain, rtol=0, atol=1e-4)


def test_decoding_rounds_what_is_painted(decoder: PixelDecoder) -> None:
    features, negative, noise = inputs(2, 4, 6)
    images, pixels = decoder.decode(features, negative, noise, 3.0, 2), decoder.paint(features, negative, noise, 3.0, 2)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 32, 48, 3)
    difference = images.double() / 255 - pixels.permute(0, 2, 3, 1).double()
    assert difference.abs().max() <= 0.5 / 255 + 1e-6
    assert difference.abs().max() > 0.4 / 255
    assert torch.equal(decoder.decode(features, negative, noise, 3.0, 2), images)


def test_a_call_leaves_the_next_one_alone(decoder: PixelDecoder) -> None:
    features, negative, noise = inputs(1)
    before = decoder.paint(features, negative, noise, 3.0, 3)
    decoder.paint(features, negative, noise, 3.0, 7)
    assert torch.equal(decoder.paint(features, negative, noise, 3.0, 3), before)


def test_the_autoencoder_is_given_a_few_images_at_a_time(
    decoder: PixelDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, negative, noise = inputs(5, 4, 4)
    expected = decoder.paint(features, negative, noise, 3.0, 1)
    decode, seen = decoder.vae.decode, []

    def watched(latents: Tensor) -> Any:
        seen.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(decoder.vae, "decode", watched)
    monkeypatch.setattr(decoder_module, "PIXELS_PER_CALL", 2 * 32 * 32 + 1)
    torch.testing.assert_close(decoder.paint(features, negative, noise, 3.0, 1), expected, rtol=0, atol=1e-5)
    assert seen == [2, 2, 1]
    monkeypatch.setattr(decoder_module, "PIXELS_PER_CALL", 1)
    decoder.paint(features, negative, noise, 3.0, 1)
    assert seen[3:] == [1] * 5


def test_latents_stay_in_float32_whatever_the_networks_are_in(
    original: Path, decoder: PixelDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, negative, noise = inputs(1)
    half = load_decoder(original, CHANNELS, CPU, torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    seen: list[Tensor] = []
    painted = half._pixels

    def watched(latents: Tensor) -> Tensor:
        seen.append(latents)
        return painted(latents)

    monkeypatch.setattr(half, "_pixels", watched)
    image = half.paint(features, negative, noise, 3.0, 4)
    assert seen[0].dtype == image.dtype == torch.float32
    assert not torch.equal(seen[0], seen[0].to(torch.bfloat16).float())
    assert (image - decoder.paint(features, negative, noise, 3.0, 4)).abs().mean() < 0.02
    monkeypatch.setattr(half.unet, "forward", lambda sample, *rest, **named: (torch.zeros_like(sample),))
    half.paint(features, negative, noise, 3.0, 4)
    assert torch.equal(seen[1], noise * make_schedule(SCHEDULER, 4).start)


def test_in_float16_the_autoencoder_stays_in_float32(original: Path) -> None:
    loaded = load_decoder(original, CHANNELS, CPU, torch.float16)
    assert {weight.dtype for weight in loaded.unet.parameters()} == {torch.float16}
    assert {weight.dtype for weight in loaded.vae.parameters()} == {torch.float32}


def test_a_decoder_says_what_it_needs(decoder: PixelDecoder, tmp_path: Path) -> None:
    assert (decoder.width, decoder.downsample, decoder.noise_shape) == (CHANNELS, 8, (4, 8, 8))
    other = write_decoder(tmp_path, channels=24, side=6)
    assert (other.width, other.noise_shape) == (24, (4, 6, 6))
    image = load_decoder(tmp_path, 24, CPU, torch.float32).decode(
        normal(1, 9, 24), None, normal(1, *other.noise_shape), 1.0, 1
    )
    assert image.shape == (1, 48, 48, 3)


@pytest.mark.parametrize(
    ("features", "negative", "noise", "guidance", "message"),
    [
        ((2, 64, 15), (1, 64, 16), (2, 4, 8, 8), 3.0, r"features \(B, N, 16\), got \(2, 64, 15\)"),
        ((0, 64, 16), (1, 64, 16), (0, 4, 8, 8), 3.0, r"features \(B, N, 16\), got \(0, 64, 16\)"),
        ((2, 16, 8, 8), (1, 64, 16), (2, 4, 8, 8), 3.0, r"features \(B, N, 16\), got \(2, 16, 8, 8\)"),
        ((3, 64, 16), (2, 64, 16), (3, 4, 8, 8), 3.0, r"negative features must have shape \(3, 64, 16\), or 1 in"),
        ((2, 64, 16), (1, 63, 16), (2, 4, 8, 8), 3.0, r"or 1 in its first place, got \(1, 63, 16\)"),
        ((2, 64, 16), (1, 64, 16), (1, 4, 8, 8), 3.0, r"noise must have shape \(2, 4, h, w\), got \(1, 4, 8, 8\)"),
        ((2, 64, 16), (1, 64, 16), (2, 3, 8, 8), 3.0, r"noise must have shape \(2, 4, h, w\), got \(2, 3, 8, 8\)"),
        ((2, 64, 16), (1, 64, 16), (2, 4, 8, 8), math.nan, "guidance must be a finite number, got nan"),
        ((2, 64, 16), None, (2, 4, 8, 8), 2.0, "guidance 2.0 needs negative features"),
    ],
)
def test_what_does_not_fit_is_refused(
    decoder: PixelDecoder,
    features: tuple[int, ...],
    negative: tuple[int, ...] | None,
    noise: tuple[int, ...],
    guidance: float,
    message: str,
) -> None:
    away = None if negative is None else torch.zeros(negative)
    with pytest.raises(ContractError, match=message):
        decoder.decode(torch.zeros(features), away, torch.zeros(noise), guidance, 1)


def test_pixels_that_are_not_finite_are_refused(decoder: PixelDecoder) -> None:
    features, negative, noise = inputs(1)
    features[0, 3, 2] = math.inf
    with pytest.raises(ContractError, match=r"values that are not finite, in torch.float32: check the features"):
        decoder.decode(features, negative, noise, 3.0, 1)


# The decoder's folder


def same(one: PixelDecoder, other: PixelDecoder) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("variant", ["bf16", None])
def test_a_folder_is_read_with_and_without_the_variant(variant: str | None, tmp_path: Path) -> None:
    written = write_decoder(tmp_path, seed=3, variant=variant)
    loaded = load_decoder(tmp_path, CHANNELS, CPU, torch.float32)
    assert same(loaded, written)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    features, negative, noise = inputs(1)
    assert torch.equal(
        loaded.decode(features, negative, noise, 3.0, 2), written.decode(features, negative, noise, 3.0, 2)
    )


def test_of_two_variants_bf16_is_read(folder: Path, decoder: PixelDecoder) -> None:
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    assert same(load_decoder(folder, CHANNELS, CPU, torch.float32), decoder)


@pytest.mark.parametrize("variant", ["bf16", None])
def test_shards_are_read_as_diffusers_writes_them(variant: str | None, tmp_path: Path) -> None:
    written = write_decoder(tmp_path, seed=4, variant=variant)
    shutil.rmtree(tmp_path / "unet")
    written.unet.save_pretrained(tmp_path / "unet", variant=variant, max_shard_size="60KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert same(load_decoder(tmp_path, CHANNELS, CPU, torch.float32), written)
    next((tmp_path / "unet").glob("*-00001-of-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"shards, of which 1 are missing: diffusion_pytorch_model.*00001-of"):
        load_decoder(tmp_path, CHANNELS, CPU, torch.float32)
    next((tmp_path / "unet").glob("*index*")).write_text("{}")
    with pytest.raises(CheckpointError, match="is no index of shards"):
        load_decoder(tmp_path, CHANNELS, CPU, torch.float32)


def test_an_autoencoder_with_old_names_is_read(folder: Path, decoder: PixelDecoder) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def age(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, before in old.items():
                if f"attentions.0.{new}." in name:
                    tensors[name.replace(new, before)] = tensors.pop(name)

    rewrite(folder / "vae" / WEIGHTS, age)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(folder / "vae" / WEIGHTS)
    assert same(load_decoder(folder, CHANNELS, CPU, torch.float32), decoder)
    assert current_name("decoder.mid_block.attentions.0.to_q.bias") == "decoder.mid_block.attentions.0.to_q.bias"


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", lambda t: t.pop("conv_in.bias"), r"unet.*\(1 problems\): conv_in.bias is missing"),
        ("unet", lambda t: t.update(extra=normal(2)), "unet.*extra is unexpected"),
        ("vae", lambda t: t.update({"decoder.conv_out.bias": normal(4)}), r"vae.*shape \(4,\), expected \(3,\)"),
        ("vae", lambda t: t.pop("post_quant_conv.weight"), "vae.*post_quant_conv.weight is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, part: str, change: Callable[[Any], Any], message: str
) -> None:
    rewrite(folder / part / WEIGHTS, change)
    with pytest.raises(CheckpointError, match=message):
        load_decoder(folder, CHANNELS, CPU, torch.float32)


def test_absent_damaged_and_pickled_files_are_refused(folder: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            load_decoder(folder, CHANNELS, CPU, torch.float32)

    weights = folder / "vae" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    refused("cannot read weights from .*vae")
    weights.unlink()
    refused(r"vae holds no diffusion_pytorch_model.bf16.safetensors or diffusion_pytorch_model.safetensors$")
    torch.save({}, folder / "vae" / "diffusion_pytorch_model.bin")
    refused("but diffusion_pytorch_model.bin: pickles are not read, because loading one runs whatever code")
    weights.write_bytes(whole)
    load_decoder(folder, CHANNELS, CPU, torch.float32)
    for file in ("scheduler/scheduler_config.json", "vae/config.json", "unet/config.json"):
        kept = (folder / file).read_text()
        (folder / file).write_text("{")
        refused(f"{file} is damaged")
        (folder / file).write_text("[]")
        refused(f"{file} is damaged: it holds no object")
        (folder / file).unlink()
        refused(f"{file.split('/')[0]} holds no {file.split('/')[1]}: it is no part of a diffusers pipeline")
        (folder / file).write_text(kept)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {"cross_attention_dim": 20}, "cross_attention_dim in unet is 20, must be 16"),
        ("unet", {"in_channels": 9}, "in_channels in unet is 9, must be 4"),
        ("unet", {"out_channels": 8}, "out_channels in unet is 8, must be 4"),
        ("unet", {"addition_time_embed_dim": 4}, "embeddings_input_dim in unet is 64, must be 40"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type in unet is None, must be 'text_time'"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type in unet is 'timestep', must be None"),
        ("unet", {"time_cond_proj_dim": 8}, "time_cond_proj_dim in unet is 8, must be None"),
        ("unet", {"sample_size": None}, "sample_size in unet is not set"),
        ("unet", {"_class_name": "UNet2DModel"}, "is of a UNet2DModel; the pixel decoder needs a UNet2DCondition"),
        ("unet", {"down_block_types": ["NoBlock"] * 2}, "cannot make a UNet2DConditionModel of the config in .*unet"),
        ("vae", {"latent_channels": 16}, "in_channels in unet is 4, must be 16; out_channels in unet is 4, must be 16"),
        ("vae", {"shift_factor": 0.1}, "shift_factor in vae is 0.1, must be None"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean in vae is"),
        ("vae", {"scaling_factor": 0}, "scaling_factor in vae is 0, must be positive"),
        ("vae", {"out_channels": 1}, "out_channels in vae is 1, must be 3"),
        ("scheduler", {"prediction_type": "v_prediction"}, "scheduler is 'v_prediction', must be 'epsilon'"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "is of a DDIMScheduler; the pixel decoder needs a EulerDisc"),
        ("scheduler", {"beta_schedule": "none"}, "cannot make a EulerDiscreteScheduler of the config in .*scheduler"),
    ],
)
def test_configs_that_the_decoder_cannot_follow_are_refused(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edit(folder / file / ("scheduler_config.json" if file == "scheduler" else "config.json"), **changes)
    with pytest.raises(CheckpointError, match=message):
        load_decoder(folder, CHANNELS, CPU, torch.float32)


def test_features_of_another_width_are_refused(original: Path) -> None:
    with pytest.raises(CheckpointError, match="no pixel decoder for features of 1792 channels: cross_attention_dim"):
        load_decoder(original, 1792, CPU, torch.float32)


def test_what_other_versions_of_diffusers_say_in_a_config_is_left_out(folder: Path, decoder: PixelDecoder) -> None:
    edit(folder / "unet" / "config.json", use_ema_warmup=True, power=0.75)
    edit(folder / "scheduler" / "scheduler_config.json", skip_prk_steps=True, clip_sample=False)
    loaded = load_decoder(folder, CHANNELS, CPU, torch.float32)
    assert same(loaded, decoder)
    features, negative, noise = inputs(1)
    assert torch.equal(
        loaded.decode(features, negative, noise, 3.0, 2), decoder.decode(features, negative, noise, 3.0, 2)
    )


def test_the_scheduler_of_the_folder_is_followed(folder: Path, decoder: PixelDecoder) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")
    loaded = load_decoder(folder, CHANNELS, CPU, torch.float32)
    features, negative, noise = inputs(1)
    changed = loaded.paint(features, negative, noise, 3.0, 2)
    assert (changed - decoder.paint(features, negative, noise, 3.0, 2)).abs().max() > 1e-3


# Both


def test_an_image_goes_through_the_tower_into_the_decoder(original: Path, decoder: PixelDecoder) -> None:
    tower = random_eva(tiny_eva())
    features = as_tokens(tower.encode([picture(90, 70), picture(64, 64, seed=1)]))
    negative = as_tokens(pooled(tower(torch.zeros(1, 3, 64, 64))))
    assert features.shape == (2, 64, decoder.width)
    images = decoder.decode(features, negative, normal(2, *decoder.noise_shape), steps=2)
    assert images.shape == (2, 64, 64, 3)
    assert not torch.equal(images[0], images[1])
