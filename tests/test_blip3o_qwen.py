"""Qwen2.5-VL of BLIP3o: read from a folder in the released layout, asked, and compared with transformers' own path."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from blip3o_qwen import QUERIES, WrittenQwen, add_weights, qwen_json, stored_name, write_qwen
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from srum_blip3o.condition import condition
from srum_blip3o.loading import empty_qwen, load_model, qwen_name
from srum_blip3o.qwen import Qwen, attention_heads, load_qwen
from srum_blip3o.qwen_config import Extras, language_config, read_extras
from srum_blip3o.tokenizer import SpecialTokens
from transformers import Qwen2_5_VLConfig

from srum_plugins.errors import CheckpointError, ContractError

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
    heads = attention_heads(release[0], "float32")
    assert (heads.queries, heads.keys, heads.width) == (4, 2, 8)


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
    assert "model.visual.merger.ln_q.weight is missing" in said
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


def full_layout() -> dict[str, tuple[int, ...]]:
    """The names and shapes of the 8B's Qwen (blip3o.md 1.4), written out by hand."""
    found: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14)}
    for block in range(32):
        at = f"visual.blocks.{block}."
        found |= {f"{at}norm{n}.weight": (1280,) for n in (1, 2)}
        found |= {f"{at}attn.qkv.weight": (3840, 1280), f"{at}attn.qkv.bias": (3840,)}
        found |= {f"{at}attn.proj.weight": (1280, 1280), f"{at}attn.proj.bias": (1280,)}
        for name in ("gate_proj", "up_proj"):
            found |= {f"{at}mlp.{name}.weight": (3420, 1280), f"{at}mlp.{name}.bias": (3420,)}
        found |= {f"{at}mlp.down_proj.weight": (1280, 3420), f"{at}mlp.down_proj.bias": (1280,)}
    found |= {"visual.merger.ln_q.weight": (1280,)}
    found |= {"visual.merger.mlp.0.weight": (5120, 5120), "visual.merger.mlp.0.bias": (5120,)}
    found |= {"visual.merger.mlp.2.weight": (3584, 5120), "visual.merger.mlp.2.bias": (3584,)}
    for layer in range(28):
        at = f"model.layers.{layer}."
        for name, wide in (("q", 3584), ("k", 512), ("v", 512)):
            found |= {f"{at}self_attn.{name}_proj.weight": (wide, 3584), f"{at}self_attn.{name}_proj.bias": (wide,)}
        found |= {f"{at}self_attn.o_proj.weight": (3584, 3584), f"{at}mlp.down_proj.weight": (3584, 18944)}
        found |= {f"{at}mlp.{name}_proj.weight": (18944, 3584) for name in ("gate", "up")}
        found |= {f"{at}{name}_layernorm.weight": (3584,) for name in ("input", "post_attention")}
    found |= {"model.norm.weight": (3584,)}
    return found | dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (151668, 3584))


def test_the_layout_of_the_8b_maps_name_by_name_and_shape_by_shape(tmp_path: Path) -> None:
    write_config(tmp_path)
    rewrite(
        tmp_path,
        vocab_size=151668,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=128000,
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
        vision_config={"hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "spatial_patch_size": 14},
    )
    model = empty_qwen(language_config(tmp_path))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {qwen_name(name): shape for name, shape in full_layout().items()} == expected
    assert {stored_name(name) for name in expected} == full_layout().keys()
    assert all(parameter.is_meta for parameter in model.parameters())
    others = ("model.dit.model.layers.0.gate", "model.latent_queries", "model.gen_vision_tower.x", "model.vae.y")
    assert [qwen_name(name) for name in others] == [None] * 4
    assert qwen_name("model.mm_projector.0.weight") == "model.mm_projector.0.weight"


# --- tokenizer -----------------------------------------------------------------------------------------------


def test_chats_are_the_whole_text_read_at_once(release: tuple[Path, WrittenQwen], qwen: Qwen) -> None:
    from transformers import Qwen2Tokenizer

    stock = Qwen2Tokenizer.from_pretrained(release[0])
    opened = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    closed = "<|im_end|>\n<|im_start|>assistant\n"
    drawing = f"{opened}Please generate image based on the following caption: a red circle{closed}[IMG]"
    assert qwen.tokenizer.drawing("a red circle") == stock(drawing)["input_ids"]
    asked = f"{opened}<|vision_start|><|image_pad|><|image_pad|><|vision_end|>What is it?{closed}"
    assert [*qwen.tokenizer.seeing(2), *qwen.tokenizer.asking("What is it?")] == stock(asked)["input_ids"]
    assert qwen.tokenizer.bare(" ") == stock(" [IMG]")["input_ids"]


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
    with pytest.raises(ContractError, match="more than the model's 512 positions: shorten it"):
        qwen.condition(["a", "1 2 3 " * 200], some_queries())
    with pytest.raises(ContractError, match="prompt 1 of the batch has no tokens"):
        condition(qwen.language, [[1], []], some_queries())
