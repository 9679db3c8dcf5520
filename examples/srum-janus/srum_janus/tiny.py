"""Writes a tiny random Janus in the layout of the released ones: to see the loop run without weights, and for tests.

    python -m srum_janus.tiny FOLDER

It draws noise of 32 x 32 pixels and understands nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from srum_janus.chat import CONTROL, FILE

PLACEHOLDER = "<image_placeholder>"
WIDTH = 32


def write_tokenizer(folder: Path) -> Tokenizer:
    """Every byte is a token, and every control token of Janus."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (*CONTROL.values(), PLACEHOLDER)])
    tokenizer.save(str(folder / FILE))
    return tokenizer


def tiny_config(tokenizer: Tokenizer) -> Any:
    """A grid of 4 x 4 tokens of 64 kinds."""
    ids = {role: tokenizer.token_to_id(text) for role, text in CONTROL.items()}
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            bos_token_id=ids["start"],
            eos_token_id=ids["end"],
            pad_token_id=ids["pad"],
        ),
        vision_config=JanusVisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=WIDTH,
            num_image_tokens=16,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=64,
            latent_channels=16,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
            projection_dim=WIDTH,
            image_token_embed_dim=WIDTH,
        ),
        image_token_id=tokenizer.token_to_id(PLACEHOLDER),
    )


def write_tiny(folder: Path, seed: int = 0) -> Any:
    """Write the folder; returns the model that is in it, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(write_tokenizer(folder))
    model: Any = JanusForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # as wide as needed for words, places and tokens to matter
            if parameter.dim() > 1:
                spread = parameter[0].numel() ** -0.5 if "vqmodel" in name and "embedding" not in name else 0.3
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
            if name.endswith(("conv2.weight", "attn_1.proj_out.weight", "attn.0.proj_out.weight")):
                parameter.zero_()  # else noise from everywhere would reach a token, which is of its own part
            elif parameter.shape[2:] == (3, 3):
                parameter *= 0.1 + 2.7 * torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"height": 32, "width": 32}
    preparation = {"image_processor_type": "JanusImageProcessor", "image_mean": half, "image_std": half, "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m srum_janus.tiny FOLDER")
    write_tiny(Path(sys.argv[1]))
