"""Qwen2.5-VL of BLIP3o: read from a folder in the released layout, asked, and compared with transformers' own path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blip3o_qwen import NAMES, QUERIES, WrittenQwen, add_weights, full_layout, qwen_json, write_qwen, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from srum_blip3o.attention import NAME, attention_heads, packed_attention, packing, use_kernel
from srum_blip3o.boxes import Read, about, read_boxes
from srum_blip3o.condition import condition
from srum_blip3o.images import DEVIATION, MEAN, Preparation
from srum_blip3o.loading import empty_qwen, load_model, qwen_name, stored_name
from srum_blip3o.qwen import Qwen, load_qwen
from srum_blip3o.qwen_config import Extras, language_config, read_extras
from srum_blip3o.reading import image_positions, read_images, read_texts
from srum_blip3o.tokenizer import SpecialTokens
from srum_blip3o.understanding import Understanding
from transformers import AttentionMaskInterface, Qwen2_5_VLConfig, Qwen2Tokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from srum_plugins.attention.contract import Attention, Heads, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.contracts import Answer, Decoding, Question
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.memory.tracker import Tracker
from srum_plugins.records import Box, Failure, Region

CPU, PIXELS = torch.device("cpu"), (28 * 28, 200 * 200)
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenQwen]:
    folder = tmp_path_factory.mktemp("blip3o")
    written = write_qwen(folder)
    others = {"model.dit.model.norm.weight": torch.ones(2), "model.latent_queries": torch.ones(1, 4, 32)}
    add_weights(folder, {**others, "model.vae.decoder.weight": torch.ones(1)}, "model-others.safetensors")
    return folder, written


@pytest.fixture(scope="module")
def qwen(release: tuple[Path, WrittenQwen]) -> Qwen:
    return load_qwen(release[0], CPU, torch.float32, PIXELS)


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- config --------------------------------------------------------------------------------------------------


def test_the_flat_config_is_read_where_transformers_own_loader_is_wrong_in_silence(
    release: tuple[Path, WrittenQwen],
) -> None:
    folder, written = release
    config: Any = language_config(folder)
    assert config.text_config.num_hidden_layers == 2
    assert config.text_config.hidden_size == written.hidden
    assert config.text_config.rope_parameters["mrope_section"] == [1, 1, 2]
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert config.vision_config.depth == 2
    assert config.vision_config.spatial_merge_size == 2  # left out of the file: the library's default
    assert config.tie_word_embeddings is False
    stock: Any = Qwen2_5_VLConfig.from_pretrained(folder)
    assert stock.text_config.num_hidden_layers == 80


def test_the_extras_are_read(release: tuple[Path, WrittenQwen]) -> None:
    assert read_extras(release[0]) == Extras(n_query=QUERIES, pool_stride=4, gen_hidden_size=1792)
    assert attention_heads(language_config(release[0]), "float32") == (
        Heads(4, 2, 8, "float32"),
        Heads(2, 2, 16, "float32"),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "qwen2_5_vl"}, "model_type 'qwen2_5_vl', not 'blip3o_qwen'"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a positive number, got 'small'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True, not False"),
        ({"num_attention_heads": 5}, "5 attention heads must divide the width 32"),
        ({"rope_scaling": None}, "mrope_section must be three parts of 4"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}, "mrope_section must be three parts of 4"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [1, 1, 2]}}, "type 'yarn', not 'mrope'"),
        ({"text_config": {}}, "holds a text_config, so a later library wrote it"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, got None"),
        ({"vision_config": {"hidden_size": 32, "fullatt_block_indexes": 1}}, "must be a list of integers, got 1"),
        (
            {"vision_config": {"hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "depth": 9}},
            "fullatt_block_indexes must be among its 9 layers, got [7, 15, 23, 31]",
        ),
        ({"vision_config": {"depth": 2}}, "no vision_config with a hidden_size"),
        ({"vision_config": {"hidden_size": 32, "num_heads": 2, "in_chans": 4}}, "vision_config.in_chans is 4, not 3"),
        ({"vision_config": {"hidden_size": 32, "num_heads": 2}}, "out_hidden_size is 3584, and hidden_size 32"),
        (
            {"vision_config": {"hidden_size": 30, "num_heads": 4, "out_hidden_size": 32}},
            "4 heads must divide the width 30",
        ),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_config(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(CheckpointError, match=r"config.json") as error:
        language_config(tmp_path)
    assert words in str(error.value)


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(qwen_json(360, SpecialTokens(1, 2, 3, 4, 5, 6, 7))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_query": -1}, "n_query must be a positive integer, got -1"),
        ({"gen_pooling": "late_pool2d_4"}, "gen_pooling must be early_pool2d_ and a stride, got 'late_pool2d_4'"),
        ({"gen_pooling": "early_pool2d_0"}, "gen_pooling must be"),
        ({"gen_hidden_size": None}, "gen_hidden_size must be a positive integer, got None"),
    ],
)
def test_extras_of_another_kind_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_config(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(CheckpointError) as error:
        read_extras(tmp_path)
    assert words in str(error.value)


def test_a_missing_or_damaged_config_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        language_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        language_config(tmp_path)


# --- weights -------------------------------------------------------------------------------------------------


def test_the_loaded_model_is_the_written_one_tables_of_rotation_included(
    release: tuple[Path, WrittenQwen], qwen: Qwen
) -> None:
    written = release[1].model
    loaded = qwen.model
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in written.named_parameters()]
    for (name, ours), (_, theirs) in zip(loaded.named_parameters(), written.named_parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs), name
    buffers = dict(written.named_buffers())
    assert len(buffers) == 4
    for name, ours in loaded.named_buffers():
        assert not ours.is_meta and torch.equal(ours, buffers[name]), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, written(input_ids=ids).logits)


def test_weights_in_half_precision_leave_the_tables_of_rotation_in_float32(release: tuple[Path, WrittenQwen]) -> None:
    half = load_model(release[0], language_config(release[0]), CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}


def test_two_models_of_one_config_do_not_share_their_choice_of_attention(release: tuple[Path, WrittenQwen]) -> None:
    config = language_config(release[0])
    one, other = empty_qwen(config), empty_qwen(config)
    one.set_attn_implementation("eager")
    assert other.config._attn_implementation == "sdpa"


def test_all_that_does_not_fit_is_one_error_with_the_first_ten_and_the_count(tmp_path: Path) -> None:
    write_qwen(tmp_path)
    add_weights(tmp_path, {f"model.mm_projector.{n}.weight": torch.ones(1) for n in range(12)}, "more.safetensors")
    weights = load_file(tmp_path / FIRST)
    del weights["visual.merger.ln_q.weight"]
    save_file(weights, tmp_path / FIRST)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)
    said = str(error.value)
    assert "(13 problems)" in said
    assert ": visual.merger.ln_q.weight is missing" in said
    assert said.count("model.mm_projector.") == 9


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    write_qwen(tmp_path)
    weights = load_file(tmp_path / FIRST) | load_file(tmp_path / SECOND)
    rewrite(tmp_path, vocab_size=weights["lm_head.weight"].shape[0] + 4)
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight has shape \(\d+, 32\), expected"):
        load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)


def test_tied_embeddings_need_no_head_and_one_that_differs_is_refused(tmp_path: Path) -> None:
    written = write_qwen(tmp_path, tied=True)
    assert "lm_head.weight" not in written.names
    loaded = load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)
    table = loaded.model.language_model.embed_tokens.weight
    assert loaded.lm_head.weight is table and not table.is_meta
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, written.model(input_ids=ids).logits)
    add_weights(tmp_path, {"lm_head.weight": table.detach().bfloat16()}, "head.safetensors")
    load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)
    add_weights(tmp_path, {"lm_head.weight": table.detach().bfloat16() + 1}, "head.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)


def test_a_missing_head_is_told_where_embeddings_are_not_tied(tmp_path: Path) -> None:
    write_qwen(tmp_path, tied=True)
    rewrite(tmp_path, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is missing"):
        load_model(tmp_path, language_config(tmp_path), CPU, torch.float32)


@pytest.mark.parametrize(
    ("width", "inner", "layers", "heads", "keys", "tied"),
    [(3584, 18944, 28, 28, 4, False), (2048, 11008, 36, 16, 2, True)],
    ids=["8B", "4B"],
)
def test_the_full_layout_maps_name_by_name_and_shape_by_shape(
    tmp_path: Path, width: int, inner: int, layers: int, heads: int, keys: int, tied: bool
) -> None:
    write_config(tmp_path)
    vision = {"hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "spatial_patch_size": 14}
    rewrite(
        tmp_path,
        vocab_size=151668,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=128000,
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
        tie_word_embeddings=tied,
        vision_config={**vision, "out_hidden_size": width},
    )
    model = empty_qwen(language_config(tmp_path))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        del expected["lm_head.weight"]
    layout = full_layout(width, inner, layers, keys * 128, tied)
    assert {qwen_name(name): shape for name, shape in layout.items()} == expected
    assert {stored_name(name) for name in expected} == layout.keys()
    assert all(parameter.is_meta for parameter in model.parameters())


def test_other_parts_are_passed_over_and_what_is_unknown_is_not() -> None:
    others = ("model.dit.model.layers.0.gate", "model.latent_queries", "model.gen_vision_tower.x", "model.vae.y")
    assert [qwen_name(name) for name in others] == [None] * 4
    assert qwen_name("model.mm_projector.0.weight") == "model.mm_projector.0.weight"


# --- tokenizer -----------------------------------------------------------------------------------------------


def test_chats_are_the_whole_text_read_at_once(release: tuple[Path, WrittenQwen], qwen: Qwen) -> None:
    stock = Qwen2Tokenizer.from_pretrained(release[0])
    opened = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    closed = "<|im_end|>\n<|im_start|>assistant\n"
    drawing = f"{opened}Please generate image based on the following caption: a red circle{closed}[IMG]"
    assert qwen.tokenizer.drawing("a red circle") == stock(drawing)["input_ids"]
    asked = f"{opened}<|vision_start|><|image_pad|><|image_pad|><|vision_end|>What is it?{closed}"
    assert [*qwen.tokenizer.seeing(2), *qwen.tokenizer.asking("What is it?")] == stock(asked)["input_ids"]
    assert qwen.tokenizer.bare(" ") == stock(" [IMG]")["input_ids"]
    for text in ("What is it?", "\nWhat is it?"):
        alone = [*qwen.tokenizer.opening(), *qwen.tokenizer.asking_alone(text)]
        assert alone == stock(f"{opened}{text}{closed}")["input_ids"]


def test_tokens_of_control_in_a_caption_are_text(qwen: Qwen) -> None:
    ids = qwen.tokenizer.drawing("a sign <|im_end|> [IMG]")
    special = qwen.tokenizer.special
    assert ids.count(special.end) == 2 and ids.count(special.marker) == 1
    assert "<|im_end|> [IMG]" in qwen.tokenizer.decode(ids)


def test_a_tokenizer_without_the_marker_is_refused(tmp_path: Path) -> None:
    write_qwen(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(file.read_text().replace("[IMG]", "[PIC]"))
    with pytest.raises(CheckpointError, match=r"lacks \[IMG\]: it is not BLIP3o's"):
        load_qwen(tmp_path, CPU, torch.float32)


@pytest.fixture
def bare(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint folder without tokenizer and preprocessor, and a folder of Qwen's own tokenizer."""
    write_qwen(tmp_path / "bare")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / "bare" / name).unlink()
    (tmp_path / "own").mkdir()
    write_tokenizer(tmp_path / "own", NAMES[:-3])
    return tmp_path / "bare", tmp_path / "own"


@pytest.mark.parametrize("whole", [False, True], ids=["vocab.json", "tokenizer.json"])
def test_a_folder_without_the_processors_files_reads_as_one_with_them(
    bare: tuple[Path, Path], qwen: Qwen, whole: bool
) -> None:
    folder, own = bare
    if whole:
        Qwen2Tokenizer.from_pretrained(own).save_pretrained(own)
        (own / "vocab.json").unlink()
        assert (own / "tokenizer.json").is_file()
    found = load_qwen(folder, CPU, torch.float32, PIXELS, tokenizer_folder=own)
    assert found.tokenizer.special == qwen.tokenizer.special
    for text in (*CAPTIONS, "a sign <|im_end|> [IMG] <image>"):
        assert found.tokenizer.drawing(text) == qwen.tokenizer.drawing(text)
        ids = found.tokenizer.encode(text)
        assert found.tokenizer.decode(ids) == text and not set(ids) & set(found.tokenizer.added)
    assert found.tokenizer.decode([*found.tokenizer.encode("x"), *found.tokenizer.added]) == "x"
    questions = QUESTIONS[:2]
    assert Understanding(found).answer(questions, SHORT) == Understanding(qwen).answer(questions, SHORT)
    assert (tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)) == (MEAN, DEVIATION)


@pytest.mark.parametrize("names", [NAMES[:-4], (*NAMES[:-3], "<|other|>"), (*NAMES[:-3], "<image>", "[IMG]", "[/IMG]")])
def test_a_tokenizer_whose_added_tokens_get_other_ids_is_refused(bare: tuple[Path, Path], names: Sequence[str]) -> None:
    folder, own = bare
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    write_tokenizer(own, names)
    with pytest.raises(CheckpointError, match=rf"\[IMG\].*come to be \d+.*must be the last of {size} tokens"):
        load_qwen(folder, CPU, torch.float32, tokenizer_folder=own)


def test_a_tokenizer_that_has_the_added_tokens_already_is_taken(bare: tuple[Path, Path], qwen: Qwen) -> None:
    folder, own = bare
    write_tokenizer(own)
    found = load_qwen(folder, CPU, torch.float32, PIXELS, tokenizer_folder=own)
    assert found.tokenizer.special == qwen.tokenizer.special


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    written = write_qwen(tmp_path)
    rewrite(tmp_path, image_token_id=3)
    with pytest.raises(CheckpointError, match=r"config.json has image_token_id 3, and the tokenizer"):
        load_qwen(tmp_path, CPU, torch.float32)
    rewrite(tmp_path, image_token_id=written.tokens.image, vocab_size=8)
    with pytest.raises(CheckpointError, match=r"beyond config.json's vocab_size 8"):
        load_qwen(tmp_path, CPU, torch.float32)
    rewrite(tmp_path, vocab_size=written.config["vocab_size"])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"patch_size": 16, "image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(CheckpointError, match=r"patch_size is 16, not 14; image_mean is"):
        load_qwen(tmp_path, CPU, torch.float32)


# --- condition -----------------------------------------------------------------------------------------------

CAPTIONS = ("a red circle", "", "a blue square left of a green triangle, none of the 3 objects is there", "x", "zwölf")


def some_queries(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, QUERIES, 32, generator=torch.Generator().manual_seed(seed))


def by_hand(model: Any, ids: list[int], queries: torch.Tensor) -> torch.Tensor:
    """One prompt through a stock model of its own."""
    words = model.get_input_embeddings()(torch.tensor([ids]))
    stock = deepcopy(model.model)
    embeddings = torch.cat([words, queries], dim=1)
    mask = torch.ones(1, embeddings.shape[1], dtype=torch.long)
    return stock(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state[:, -queries.shape[1] :]


@torch.no_grad()
def test_a_condition_is_the_stock_models_state_at_the_queries(release: tuple[Path, WrittenQwen], qwen: Qwen) -> None:
    queries = some_queries()
    conditions = qwen.condition(CAPTIONS, queries)
    assert conditions.shape == (len(CAPTIONS), QUERIES, 32)
    for caption, ours in zip(CAPTIONS, conditions, strict=True):
        ids = qwen.tokenizer.drawing(caption)
        assert torch.allclose(ours, by_hand(release[1].model, ids, queries)[0], atol=1e-5), caption
    bare = qwen.bare_condition([" "], queries)
    assert torch.allclose(bare, by_hand(release[1].model, qwen.tokenizer.bare(" "), queries), atol=1e-5)
    assert not torch.allclose(bare, qwen.condition([" "], queries), atol=1e-2)


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_a_prompt_has_one_condition_in_every_batch(qwen: Qwen, texts: list[str], seed: int) -> None:
    queries = some_queries(seed)
    with torch.no_grad():
        together = qwen.condition(texts, queries)
        for text, ours in zip(texts, together, strict=True):
            assert torch.allclose(ours, qwen.condition([text], queries)[0], atol=1e-5)


@torch.no_grad()
def test_padding_before_the_queries_would_give_another_condition(qwen: Qwen) -> None:
    queries = some_queries()
    ids = qwen.tokenizer.drawing("a red circle")
    padded = [*ids, *[qwen.tokenizer.special.pad] * 5]
    right, wrong = condition(qwen.language, [ids], queries), condition(qwen.language, [padded], queries)
    assert (right - wrong).abs().max() > 1e-2


@torch.no_grad()
def test_a_condition_does_not_depend_on_what_was_generated_before(
    release: tuple[Path, WrittenQwen], qwen: Qwen
) -> None:
    queries = some_queries()
    before = qwen.condition(["a", "b"], queries)
    qwen.model.generate(input_ids=torch.tensor([[5, 6], [7, 8], [9, 9]]), max_new_tokens=2, do_sample=False)
    assert qwen.model.model.rope_deltas is not None
    with pytest.raises(RuntimeError):  # what transformers does on the way that is not taken
        qwen.model.model(inputs_embeds=torch.zeros(2, 4, 32))
    assert torch.equal(qwen.condition(["a", "b"], queries), before)
    qwen.model.model.rope_deltas = None


def test_gradients_reach_the_queries_and_nothing_else(qwen: Qwen) -> None:
    queries = some_queries().requires_grad_()
    qwen.condition(["a", "a red circle"], queries).square().sum().backward()
    assert queries.grad is not None and queries.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in qwen.model.parameters())


def test_a_prompt_that_is_too_long_is_refused(qwen: Qwen) -> None:
    with pytest.raises(ContractError, match="more than the model's 1024 positions: shorten it"):
        qwen.condition(["a", "1 2 3 " * 400], some_queries())
    with pytest.raises(ContractError, match="prompt 1 of the batch has no tokens"):
        condition(qwen.language, [[1], []], some_queries())


# --- images --------------------------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(
    ("side", "most", "seen"), [(1024, 12845056, 1036), (1024, 1003520, 980), (512, 1605632, 504), (448, 1605632, 448)]
)
def test_an_image_is_resized_to_whole_tokens(side: int, most: int, seen: int) -> None:
    prepared = Preparation(14, 2, 2, (3136, most))
    done = prepared.prepare([Image.new("L", (side, side))])
    assert done.grids.tolist() == [[1, seen // 14, seen // 14]]
    assert done.patches.shape == ((seen // 14) ** 2, 1176)
    assert prepared.seen_size(done.grids[0]) == (seen, seen)


def test_patches_are_normalised_pixels() -> None:
    done = Preparation(14, 2, 2, (784, 40000)).prepare([Image.new("RGB", (28, 28), (255, 0, 51))])
    channels = done.patches.reshape(4, 3, -1)
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = (value - MEAN[channel]) / DEVIATION[channel]
        assert torch.allclose(channels[:, channel], torch.tensor(expected), atol=1e-5)


def test_images_that_cannot_be_seen_are_refused() -> None:
    with pytest.raises(ContractError, match="201 x 1 pixels is too narrow"):
        Preparation(14, 2, 2, (784, 40000)).prepare([Image.new("RGB", (201, 1))])
    for pixels in ((0, 4000), (800, 700), (1, 783)):
        with pytest.raises(ContractError, match="pixels must be the fewest and the most"):
            Preparation(14, 2, 2, pixels)


# --- answers -------------------------------------------------------------------------------------------------

IMAGES = (picture(60, 90), picture(150, 40, 1), picture(170, 200, 2))
YES_NO = ("yes", "no", "it is neither of the two")
QUESTIONS = (
    Question(IMAGES[0], "Is it red?", YES_NO, seed=3),
    Question(IMAGES[1], "Where is the blue square, and how many of the others are there?", ("left", "right"), seed=4),
    Question(IMAGES[0], "What?", ("a", "b", "zwei drei"), Box(10, 20, 50, 80), seed=5),
    Question(IMAGES[2], "x", YES_NO, seed=6),
    Question(None, "Is a red circle round?", YES_NO, seed=7),
    Question(None, "Write a number.", ("three", "4"), seed=8),
)
SHORT = Decoding(max_tokens=8)
WARM = Decoding(temperature=1.0, top_p=0.9, max_tokens=8)


@pytest.fixture(scope="module")
def understanding(qwen: Qwen) -> Understanding:
    return Understanding(qwen, answer_tokens=8)


def stock_inputs(qwen: Qwen, question: Question, said: Sequence[int] = ()) -> dict[str, Any]:
    """What transformers' processor would give for one question, and for the beginning of its answer."""
    if question.image is None:
        alone = [*qwen.tokenizer.opening(), *qwen.tokenizer.asking_alone(question.text), *said]
        ids = torch.tensor([alone])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prepared = qwen.preparation.prepare([question.image])
    seen = qwen.preparation.seen_size(prepared.grids[0])
    count = int(prepared.grids[0].prod()) // 4
    text = about(question.text, question.box, seen, question.image.size)
    ids = torch.tensor([[*qwen.tokenizer.seeing(count), *qwen.tokenizer.asking(text), *said]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": prepared.patches,
        "image_grid_thw": prepared.grids,
        "mm_token_type_ids": (ids == qwen.tokenizer.special.image).int(),
    }


@torch.no_grad()
def stock_answer(qwen: Qwen, model: Any, question: Question, limit: int) -> list[int]:
    special, inputs = qwen.tokenizer.special, stock_inputs(qwen, question)
    ids = model.generate(
        **inputs,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=[special.end, special.pad],
        pad_token_id=special.pad,
    )
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(("height", "width"), [(2, 3), (3, 1), (1, 5)])
def test_positions_are_those_of_transformers(qwen: Qwen, height: int, width: int) -> None:
    special = qwen.tokenizer.special
    ids = torch.tensor([[9, 9, 9, *[special.image] * (height * width), 9]])
    grid = torch.tensor([[1, height * 2, width * 2]])
    stock, _ = qwen.model.model.get_rope_index(ids, (ids == special.image).int(), image_grid_thw=grid)
    assert torch.equal(stock[:, 0, 3:-1], image_positions(3, height, width))
    assert stock[:, 0, -1].tolist() == [3 + max(height, width)] * 3


def test_greedy_answers_are_those_of_transformers_one_by_one(
    release: tuple[Path, WrittenQwen], qwen: Qwen, understanding: Understanding
) -> None:
    answers = understanding.answer(QUESTIONS, SHORT)
    model = deepcopy(release[1].model)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        model.model.rope_deltas = None
        assert answer == Answer(qwen.tokenizer.decode(stock_answer(qwen, model, question, 8)), truncated=True)
        assert answer.tokens == 8


@torch.no_grad()
def test_without_the_image_tokens_kind_transformers_falls_back_in_silence_and_differs(qwen: Qwen) -> None:
    model, inputs = deepcopy(qwen.model), stock_inputs(qwen, QUESTIONS[0])
    right = model(**inputs).logits[0, -1]
    ours, seen = [], qwen.preparation.prepare([QUESTIONS[0].image])
    read = read_images(qwen, qwen.see(seen.patches, seen.grids), seen.grids)
    ours = read_texts(qwen, read, [0], [qwen.tokenizer.asking(QUESTIONS[0].text)])[1][0, -1]
    assert torch.allclose(qwen.model.lm_head(ours), right, atol=1e-4)
    model.model.rope_deltas = None
    del inputs["mm_token_type_ids"]
    assert (model(**inputs).logits[0, -1] - right).abs().max() > 1e-2


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)), count=st.integers(1, 6), rows=st.integers(1, 4), warm=st.booleans())
def test_a_question_has_one_answer_in_every_batch(
    qwen: Qwen, order: list[int], count: int, rows: int, warm: bool
) -> None:
    chosen, decoding = order[:count], WARM if warm else SHORT
    asked = Understanding(qwen, rows_per_call=rows).answer([QUESTIONS[index] for index in chosen], decoding)
    for index, answer in zip(chosen, asked, strict=True):
        assert answer == Understanding(qwen).answer([QUESTIONS[index]], decoding)[0]


def test_a_drawn_answer_follows_its_seed(understanding: Understanding) -> None:
    seeds = [replace(QUESTIONS[0], seed=seed) for seed in (1, 2, 3, 1)]
    answers = understanding.answer(seeds, Decoding(temperature=2.0, max_tokens=6))
    assert answers[0] == answers[3] and len({answer.text for answer in answers}) > 1


def test_the_model_ends_its_answer(release: tuple[Path, WrittenQwen], qwen: Qwen) -> None:
    """With a head that says the end token after everything."""
    for ending in (qwen.tokenizer.special.end, qwen.tokenizer.special.pad):
        model = deepcopy(qwen.model)
        model.lm_head = torch.nn.Linear(32, model.lm_head.out_features)
        torch.nn.init.zeros_(model.lm_head.weight)
        torch.nn.init.zeros_(model.lm_head.bias)
        model.lm_head.bias.data[ending] = 1.0
        assert Understanding(replace(qwen, model=model)).answer(QUESTIONS[:2]) == [Answer("")] * 2


def test_a_stop_text_ends_an_answer_and_is_left_out(understanding: Understanding) -> None:
    whole = understanding.answer(QUESTIONS[:1], SHORT)[0].text
    stop = whole[3]
    cut = understanding.answer(QUESTIONS[:1], Decoding(max_tokens=8, stop=(stop,)))[0]
    assert cut == Answer(whole[: whole.index(stop)], truncated=False)


def test_an_image_is_seen_once_for_all_its_questions(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[int] = []
    see = Qwen.see

    def counted(self: Qwen, pixels: torch.Tensor, shapes: torch.Tensor) -> list[torch.Tensor]:
        grids.append(len(shapes))
        return see(self, pixels, shapes)

    monkeypatch.setattr(Qwen, "see", counted)
    Understanding(qwen).answer(QUESTIONS, SHORT)
    assert grids == [3]


@pytest.mark.parametrize("choices", [False, True])
def test_images_that_were_asked_about_are_let_go_before_the_next_are_read(qwen: Qwen, choices: bool) -> None:
    understanding, peaks = Understanding(qwen, answer_tokens=2, rows_per_call=1), []
    asked = [Question(picture(200, 200, seed), "Is it red?", YES_NO) for seed in range(3)]
    for count in (1, 3):
        with Tracker("cpu") as tracker:
            tracker.hold([*qwen.model.parameters(), *qwen.model.buffers()])
            held = tracker.live
            if choices:
                understanding.choice_logprobs(asked[:count])
            else:
                understanding.answer(asked[:count])
            peaks.append(tracker.peak - held)
    assert peaks[1] < 1.02 * peaks[0]


def test_a_question_that_is_too_long_is_refused(understanding: Understanding) -> None:
    with pytest.raises(ContractError, match=r"takes \d+ positions of the model's 1024: shorten it"):
        understanding.answer([Question(IMAGES[0], "Where? " * 400)])
    with pytest.raises(ContractError, match="an answer of 1000 tokens"):
        understanding.answer(QUESTIONS[:1], Decoding(max_tokens=1000))


@torch.no_grad()
def test_choices_are_the_stock_models_sums_normalised(qwen: Qwen, understanding: Understanding) -> None:
    found = understanding.choice_logprobs(QUESTIONS)
    model, end = deepcopy(qwen.model), qwen.tokenizer.special.end
    for question, ours in zip(QUESTIONS, found, strict=True):
        sums = []
        for choice in question.choices:
            ids = [*qwen.tokenizer.encode(choice), end]
            model.model.rope_deltas = None
            steps = model(**stock_inputs(qwen, question, ids)).logits[0, -len(ids) - 1 : -1].log_softmax(dim=1)
            sums.append(steps[range(len(ids)), ids].sum())
        assert torch.allclose(torch.tensor(ours), torch.stack(sums).log_softmax(dim=0), atol=1e-4)
        assert abs(sum(np.exp(ours)) - 1) < 1e-6


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)), count=st.integers(1, 6), rows=st.integers(1, 5))
def test_choices_do_not_depend_on_the_batch(qwen: Qwen, order: list[int], count: int, rows: int) -> None:
    chosen = [QUESTIONS[index] for index in order[:count]]
    for question, ours in zip(chosen, Understanding(qwen, rows_per_call=rows).choice_logprobs(chosen), strict=True):
        alone = Understanding(qwen).choice_logprobs([question])[0]
        assert np.allclose(ours, alone, atol=1e-4)


def test_questions_without_choices_are_refused(understanding: Understanding) -> None:
    for choices in ((), ("yes", "")):
        with pytest.raises(ContractError, match="needs choices, none of them empty"):
            understanding.choice_logprobs([Question(IMAGES[0], "Is it?", choices)])
    assert understanding.choice_logprobs([]) == [] and understanding.answer([]) == []


# --- boxes ---------------------------------------------------------------------------------------------------

SEEN, SIZE = (280, 140), (560, 70)
ONE = '{"bbox_2d": [28, 14, 140, 70], "label": "a cat"}'
BOX = Box(56, 7, 280, 35)


@pytest.mark.parametrize(
    ("answer", "mended"),
    [
        (f"```json\n[{ONE}]\n```", {}),
        (f"Here it is:\n```json\n[\n\t{ONE}\n]\n``` I hope that it helps [1].", {}),
        (f"```\n{ONE}\n```", {}),
        (f"[{ONE}]", {}),
        (ONE, {}),
        (f"The cat is here: [{ONE}].", {}),
        (ONE.replace('"', "'"), {}),
        (f"```json\n[{ONE}", {"cut off": 1}),
        (f'```json\n[{ONE},\n{{"bbox_2d": [1, 2', {"cut off": 1}),
        (f'[{ONE}, {{"bbox_2d": [1, 2, 3, 4], "lab', {"cut off": 1}),
        (ONE.replace("28, 14, 140, 70", "140, 14, 28, 70"), {"sorted": 1}),
        (ONE.replace("28, 14, 140, 70", "140, 70, 28, 14"), {"sorted": 1}),
        (f'[{ONE}, {{"bbox_2d": [5, 5, 5, 9]}}]', {"dropped": 1}),
        (f'[{ONE}, {{"bbox_2d": [300, 5, 900, 9]}}]', {"dropped": 1}),
        (f'[{ONE}, {{"bbox_2d": [1e300, 5, -3, 1{"0" * 300}]}}]', {"sorted": 1, "clamped": 1}),
    ],
)
def test_a_box_is_read_and_what_was_mended_is_counted(answer: str, mended: dict[str, int]) -> None:
    read = read_boxes(answer, SEEN, SIZE)
    assert isinstance(read, Read), read
    assert read.boxes[0] == BOX and read.mended == mended
    assert all(box.inside(*SIZE) for box in read.boxes)


def test_a_box_that_leaves_the_image_is_clamped() -> None:
    read = read_boxes('[{"bbox_2d": [-10, 14, 300.5, 150]}]', SEEN, SIZE)
    assert read == Read((Box(0, 7, 560, 70),), {"clamped": 1}, (("clamped",),), ("",))


def test_what_was_mended_is_told_of_each_box_and_what_was_lost_is_a_failure(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '[{"bbox_2d": [60, 14, 20, 28]}, {"bbox_2d": [5, 5, 5, 9]}, {"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [1,'
    read = read_boxes(answer, (112, 56), (112, 56))
    assert isinstance(read, Read) and read.mended == {"cut off": 1, "sorted": 1, "dropped": 1}
    assert read.notes == (("cut off", "sorted"), ("cut off",))
    understanding = Understanding(qwen)
    monkeypatch.setattr(understanding, "_continued", lambda *given: [Answer(answer)])
    (found,) = understanding.locate([picture(112, 56)], [["cat"]])
    assert [one.mended for one in found if isinstance(one, Region)] == list(read.notes)
    assert [one.cause for one in found if isinstance(one, Failure)] == ["empty box"]


@pytest.mark.parametrize("answer", ["[]", "```json\n[]\n```", "There is none: []."])
def test_an_empty_list_is_a_phrase_that_is_absent(answer: str) -> None:
    assert read_boxes(answer, SEEN, SIZE) == Read(())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "no JSON: ''"),
        ("There is no cat in the image.", "no JSON"),
        ("```json\n```", "no JSON"),
        ("[", "no JSON that can be read"),
        ('[{"bbox_2d": [1, 2', "no JSON that can be read"),
        ("[12, 14, 28, 70]", "no bbox_2d of four numbers: '12'"),
        ('[{"label": "a cat"}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [1, 2, 3]}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [1, 2, 3, "4"]}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [1, 2, 3, NaN]}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [1, 2, 3, Infinity]}]', "no bbox_2d of four numbers"),
        (f'[{{"bbox_2d": [1, 2, 3, 1{"0" * 400}]}}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [1, 2, 3, true]}]', "no bbox_2d of four numbers"),
        (f'[{ONE}, {{"label": "a cat"}}]', "no bbox_2d of four numbers"),
        ('[{"bbox_2d": [5, 5, 5, 9]}]', "none of the 1 boxes has an area within the image"),
        ("[" * 100000, "no JSON that can be read"),
        ("{1, 2}", "no JSON that can be read"),
    ],
)
def test_what_holds_no_box_is_a_failure_and_never_a_guess(answer: str, words: str) -> None:
    failed = read_boxes(answer, SEEN, SIZE)
    assert isinstance(failed, Failure) and failed.cause == "malformed boxes"
    assert words in failed.detail


sides = st.integers(1, 4000)


@given(st.data(), sides, sides, st.integers(1, 100), st.integers(1, 100))
def test_a_box_told_in_the_seen_pixels_comes_back(data: st.DataObject, w: int, h: int, tw: int, th: int) -> None:
    seen, size = (28 * tw, 28 * th), (w, h)
    x0, y0 = data.draw(st.floats(0, w * 0.9)), data.draw(st.floats(0, h * 0.9))
    box = Box(x0, y0, data.draw(st.floats(x0 + w * 0.01, w)), data.draw(st.floats(y0 + h * 0.01, h)))
    told = [box.x0 * seen[0] / w, box.y0 * seen[1] / h, box.x1 * seen[0] / w, box.y1 * seen[1] / h]
    read = read_boxes(json.dumps([{"bbox_2d": told, "label": "x"}]), seen, size)
    assert isinstance(read, Read) and read.mended == {}
    back = read.boxes[0]
    assert np.allclose([back.x0, back.y0, back.x1, back.y1], [box.x0, box.y0, box.x1, box.y1], atol=1e-6 * max(w, h))


@given(st.text(max_size=60), st.lists(st.lists(st.floats() | st.integers(), min_size=4, max_size=4), max_size=4))
def test_any_answer_is_boxes_inside_the_image_or_a_failure(prose: str, corners: list[list[float]]) -> None:
    for answer in (prose, prose + json.dumps([{"bbox_2d": one} for one in corners])):
        read = read_boxes(answer, SEEN, SIZE)
        assert isinstance(read, Failure) or all(box.inside(*SIZE) for box in read.boxes)


def test_a_question_tells_its_box_in_the_seen_pixels() -> None:
    assert about("Is it red?", BOX, SEEN, SIZE).startswith(
        'Look only at the part of the image with "bbox_2d": [28, 14,'
    )
    assert about("Is it red?", None, SEEN, SIZE) == "Is it red?"


def test_boxes_are_located_in_each_images_own_pixels(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    understanding = Understanding(qwen)
    asked: list[str] = []

    def scripted(context: Any, first: Any, questions: Sequence[Question], *_: Any) -> list[Answer]:
        texts = [question.text for question in questions]
        asked.extend(texts)
        return [Answer("[]") if "dog" in text else Answer(f"[{ONE}]", "bird" in text) for text in texts]

    monkeypatch.setattr(understanding, "_continued", scripted)
    image, other = picture(100, 50), picture(280, 140)
    located = understanding.locate([image, other], [["cat", "dog", "bird"], ["cat"]])
    width, height = qwen.preparation.seen_size(qwen.preparation.prepare([image]).grids[0])
    assert (width, height) == (112, 56)
    first = located[0][0]
    assert isinstance(first, Region) and first.phrase == "cat" and first.score is None
    # 140 lies beyond the 112 pixels that were seen, and 70 beyond the 56.
    assert first.box == Box(28 * 100 / 112, 14 * 50 / 56, 100, 50)
    assert isinstance(located[0][1], Failure) and located[0][1].cause == "truncated answer"
    assert len(located[0]) == 2 and located[1] == [Region(Box(28, 14, 140, 70), "cat")]
    assert first.mended == ("clamped",)
    assert asked[0].startswith("Outline the position of each cat and output all the coordinates in JSON format.")


def test_all_phrases_of_an_image_are_asked_for_at_once(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    understanding = Understanding(qwen)
    asked: list[str] = []
    said = f'[{ONE}, {{"bbox_2d": [9, 9, 1, 1], "label": "Dogs"}}, {{"bbox_2d": [1, 1, 9, 9], "label": "a bird"}}, '
    said += '{"bbox_2d": [1, 1, 9, 9], "label": 3}, {"bbox_2d": [3, 3, 3, 9], "label": "cat"}]'

    def scripted(context: Any, first: Any, questions: Sequence[Question], *_: Any) -> list[Answer]:
        asked.extend(question.text for question in questions)
        return [Answer(said, "sofa" in question.text) for question in questions]

    monkeypatch.setattr(understanding, "_continued", scripted)
    image, other, empty = picture(112, 56), picture(280, 140), picture(56, 56)
    first, second, third = understanding.locate_all([image, empty, other], [["cat", "dog"], [], ["sofa"]])
    assert second == [] and len(asked) == 2  # one question an image, and none where nothing is looked for
    assert asked[0].startswith("Outline the position of each of these: cat; dog. Output all the coordinates in JSON")
    assert first[:2] == [
        Region(Box(28, 14, 112, 56), "cat", mended=("clamped",)),
        Region(Box(1, 1, 9, 9), "dog", mended=("sorted",)),
    ]
    assert [one.cause for one in first[2:] if isinstance(one, Failure)] == ["unknown label"] * 2 + ["empty box"]
    assert [one.cause for one in third if isinstance(one, Failure)] == ["truncated answer"]


# --- attention -----------------------------------------------------------------------------------------------


class Counted(Attention):
    """A kernel that keeps the lengths of what it was asked."""

    def __init__(self, kernel: Attention) -> None:
        self.kernel = kernel
        self.calls: list[Segments] = []

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
        assert len(q) == sum(segments.queries) and len(k) == len(v) == sum(segments.keys)
        self.calls.append(segments)
        return self.kernel.attend(q, k, v, segments)


@pytest.fixture(params=[Dense, SDPA])
def counted(request: pytest.FixtureRequest) -> Counted:
    return Counted(request.param())


@pytest.fixture
def ours(qwen: Qwen, counted: Counted) -> Qwen:
    model = deepcopy(qwen.model)
    use_kernel(model, counted)
    return replace(qwen, model=model)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_the_kernel_runs_in_every_layer_and_never_sees_padding(
    qwen: Qwen, ours: Qwen, counted: Counted, side: str
) -> None:
    lengths = (6, 6, 6) if side == "none" else (6, 2, 4)
    mask = torch.stack([(torch.arange(6) < n) if side == "right" else (torch.arange(6) >= 6 - n) for n in lengths])
    ids = torch.randint(0, 200, (3, 6), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": torch.arange(6).expand(3, 3, 6)}
    found = ours.language(**inputs).last_hidden_state
    assert [(call.queries, call.keys, call.causal) for call in counted.calls] == [(lengths, lengths, True)] * 2
    assert len({id(call) for call in counted.calls}) == 1  # one packing serves all layers
    assert torch.allclose(found[mask], qwen.language(**inputs).last_hidden_state[mask], atol=1e-4)


@torch.no_grad()
def test_the_kernel_runs_in_every_layer_of_the_tower_once_for_all_windows(
    qwen: Qwen, ours: Qwen, counted: Counted
) -> None:
    done = qwen.preparation.prepare([picture(170, 130), picture(40, 60, 1)])
    for one, other in zip(ours.see(done.patches, done.grids), qwen.see(done.patches, done.grids), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    windows, whole = counted.calls
    patches = [int(grid.prod()) for grid in done.grids]
    assert list(whole.queries) == patches and not whole.causal
    assert sum(windows.queries) == sum(patches) and max(windows.queries) == 64 and len(windows.queries) > 3
    assert windows.queries == windows.keys and not windows.causal


def test_everything_is_the_same_with_a_kernel(qwen: Qwen, ours: Qwen, counted: Counted) -> None:
    stock, kernel = Understanding(qwen, answer_tokens=8), Understanding(ours, answer_tokens=8)
    assert kernel.answer(QUESTIONS) == stock.answer(QUESTIONS)
    pairs = zip(kernel.choice_logprobs(QUESTIONS), stock.choice_logprobs(QUESTIONS), strict=True)
    assert all(np.allclose(one, other, atol=1e-4) for one, other in pairs)
    steps = [call for call in counted.calls if set(call.queries) == {1} and call.causal]
    assert steps and all(max(call.keys) > 30 for call in steps)


def test_conditions_and_their_gradients_are_the_same_with_a_kernel(qwen: Qwen, ours: Qwen, counted: Counted) -> None:
    found = []
    for one in (qwen, ours):
        queries = some_queries().requires_grad_()
        conditions = one.condition(CAPTIONS, queries)
        conditions.square().sum().backward()
        found.append((conditions.detach(), queries.grad))
    assert len(counted.calls) == 2
    for stock, kernel in zip(*found, strict=True):
        assert stock is not None and kernel is not None
        assert torch.allclose(stock, kernel, rtol=1e-4, atol=1e-4)


def test_checkpointing_changes_no_gradient_of_the_queries_and_holds_less(ours: Qwen, counted: Counted) -> None:
    held, gradients, calls = [], [], []
    for checkpointing in (False, True):
        queries = some_queries().requires_grad_()
        counted.calls.clear()
        with Tracker("cpu") as tracker:
            tracker.hold([*ours.model.parameters(), *ours.model.buffers()])
            before = tracker.live
            conditions = ours.condition(CAPTIONS, queries, checkpointing)
            held.append(tracker.live - before)
            conditions.square().sum().backward()
        assert queries.grad is not None
        gradients.append(queries.grad)
        calls.append(len(counted.calls))
        assert all("forward" not in vars(layer) for layer in ours.language.layers)
    assert torch.equal(*gradients)
    assert held[1] < held[0] / 3
    assert calls == [2, 4]  # of two layers


@torch.no_grad()
def test_without_a_registered_mask_the_kernel_refuses_where_transformers_is_silent(
    qwen: Qwen, ours: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"input_ids": torch.tensor([[1, 2, 3], [1, 2, 3]]), "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])}
    ours.language(**inputs)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, NAME)
    with pytest.raises(ContractError, match="got a mask of type NoneType"):
        ours.language(**inputs)


def test_a_kernel_of_one_model_is_not_that_of_another(release: tuple[Path, WrittenQwen], counted: Counted) -> None:
    one = load_qwen(release[0], CPU, torch.float32, PIXELS, kernel=counted)
    other = load_qwen(release[0], CPU, torch.float32, PIXELS, kernel=(second := Counted(SDPA())))
    names = {name for name, _ in one.model.named_parameters()}
    assert names == {name for name, _ in release[1].model.named_parameters()}
    with torch.no_grad():
        one.condition(["a"], some_queries())
        assert len(counted.calls) == 2 and not second.calls
        use_kernel(one.model, second)
        one.condition(["a"], some_queries())
        assert len(counted.calls) == 2 and len(second.calls) == 2
        other.condition(["a"], some_queries())
    assert len(second.calls) == 4


def test_what_a_kernel_cannot_do_is_refused() -> None:
    with pytest.raises(ContractError, match="is causal: a mask of another kind"):
        packing(1, 2, 2, mask_function=lambda *_: True)
    with pytest.raises(ContractError, match=r"a row for each of 2 texts and a column for each of 3 keys, got \(2, 2\)"):
        packing(2, 2, 3, attention_mask=torch.tensor([[True, True], [False, True]]))
    with pytest.raises(ContractError, match="0 queries on 2 keys"):
        packing(1, 1, 3, attention_mask=torch.tensor([[True, True, False]]))
    tokens = torch.zeros(1, 1, 2, 4)
    for settings_of in ({"dropout": 0.1}, {"scaling": 1.0}):
        with pytest.raises(ContractError, match=r"has no dropout and scales by 0\.5"):
            packed_attention(None, tokens, tokens, tokens, packing(1, 2, 2), **settings_of)
