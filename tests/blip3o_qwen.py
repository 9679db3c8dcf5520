"""A tiny random Qwen2.5-VL in the exact file layout of BLIP3o, tokenizer included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from srum_blip3o.loading import stored_name
from srum_blip3o.qwen_config import language_config
from srum_blip3o.tokenizer import SpecialTokens, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

TEXT = [
    "system\nYou are a helpful assistant.",
    "user\nPlease generate image based on the following caption: a red circle left of a blue square",
    "assistant\nOutline the position of each green triangle and output all the coordinates in JSON format.",
    '```json\n[{"bbox_2d": [12, 40, 500, 1000], "label": "none of the 3 objects"}]\n```',
]
NAMES = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "[IMG]",
    "[/IMG]",
    "<image>",
)
HIDDEN, QUERIES = 32, 4
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class WrittenQwen:
    """What was written: the model in float32 whose weights are in the files in bfloat16, its config as JSON, the ids of
    its tokens, the names in the files, and its width."""

    model: Any
    config: dict[str, Any]
    tokens: SpecialTokens
    names: tuple[str, ...]
    hidden: int


def write_tokenizer(folder: Path, names: Sequence[str] = NAMES) -> int:
    """A byte-level BPE of a few hundred tokens in the file format of Qwen2, tokens of control last, which are BLIP3o's
    if no others are named; their number."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.model.save(str(folder))
    size = tokenizer.get_vocab_size()
    added: dict[str, dict[str, Any]] = {
        str(size + index): {"content": name, "special": True} for index, name in enumerate(names)
    }
    for entry in added.values():
        entry |= {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(names[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return size + len(names)


def qwen_json(vocab: int, tokens: SpecialTokens, tied: bool = False) -> dict[str, Any]:
    """A flat config as transformers 4.51 writes it, with BLIP3o's fields."""
    return {
        "_attn_implementation_autoset": True,
        "architectures": ["blip3oQwenForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": tokens.pad,
        "eos_token_id": tokens.end,
        "gen_hidden_size": 1792,
        "gen_pooling": "early_pool2d_4",
        "gen_vision_tower": "eva-clip-E-14-plus",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_aspect_ratio": "square",
        "image_token_id": tokens.image,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_position_embeddings": 1024,
        "max_window_layers": 2,
        "mm_use_im_start_end": False,
        "model_type": "blip3o_qwen",
        "n_query": QUERIES,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": tokens.pad,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "tokenizer_model_max_length": 512,
        "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": tokens.image + 1,
        "vision_config": {
            "_attn_implementation_autoset": True,
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_size": 32,
            "in_chans": 3,
            "intermediate_size": 40,
            "model_type": "qwen2_5_vl",
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "tokens_per_second": 2,
            "torch_dtype": "bfloat16",
            "window_size": 112,
        },
        "vision_end_token_id": tokens.vision_end,
        "vision_start_token_id": tokens.vision_start,
        "vision_token_id": tokens.vision_end + 1,
        "vocab_size": vocab,
    }


def full_layout(width: int, inner: int, layers: int, keys: int, tied: bool) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the Qwen of an 8B or a 4B (blip3o.md 1.4), written out by hand. ``keys`` is the width of
    all key heads."""
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
    found |= {"visual.merger.mlp.2.weight": (width, 5120), "visual.merger.mlp.2.bias": (width,)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, wide in (("q", width), ("k", keys), ("v", keys)):
            found |= {f"{at}self_attn.{name}_proj.weight": (wide, width), f"{at}self_attn.{name}_proj.bias": (wide,)}
        found |= {f"{at}self_attn.o_proj.weight": (width, width), f"{at}mlp.down_proj.weight": (width, inner)}
        found |= {f"{at}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        found |= {f"{at}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    found |= {"model.norm.weight": (width,)}
    tables = ("model.embed_tokens.weight",) if tied else ("model.embed_tokens.weight", "lm_head.weight")
    return found | dict.fromkeys(tables, (151668, width))


def add_weights(folder: Path, weights: dict[str, Tensor], shard: str) -> None:
    """Write one more shard, and its names into the index."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / shard)
    file = folder / INDEX
    index = json.loads(file.read_text()) if file.is_file() else {"metadata": {}, "weight_map": {}}
    index["weight_map"] |= dict.fromkeys(weights, shard)
    file.write_text(json.dumps(index))


def write_qwen(folder: Path, seed: int = 0, tied: bool = False) -> WrittenQwen:
    """Write config, tokenizer, image processor and two shards of bfloat16 weights. Tied embeddings leave out the head.
    Add the weights of other parts with :func:`add_weights`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(folder)
    tokens = Tokenizer(folder).special
    data = qwen_json(vocab, tokens, tied)
    (folder / "config.json").write_text(json.dumps(data))
    preprocessor = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    generator = torch.Generator().manual_seed(seed)
    config: Any = language_config(folder)
    model: Any = Qwen2_5_VLForConditionalGeneration(deepcopy(config)).eval()
    with torch.no_grad():
        # Wide enough for words, places and patches to matter, and of what bfloat16 can hold.
        for name, parameter in model.named_parameters():
            spread = (0.1 if "lm_head" in name else 0.3) * torch.randn(parameter.shape, generator=generator)
            parameter.copy_((1 + 0.3 * spread if "norm" in name or "ln_q" in name else spread).bfloat16())
    weights = {stored_name(name): tensor.bfloat16() for name, tensor in model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]
    names = tuple(weights)
    (folder / INDEX).unlink(missing_ok=True)
    half = len(names) // 2
    add_weights(folder, {name: weights[name] for name in names[:half]}, "model-00001-of-00002.safetensors")
    add_weights(folder, {name: weights[name] for name in names[half:]}, "model-00002-of-00002.safetensors")
    return WrittenQwen(model, data, tokens, names, HIDDEN)
