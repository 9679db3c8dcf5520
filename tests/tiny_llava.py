"""A tiny vision-language model in a folder, with tokenizer and image processor, as `transformers serve` loads it.

Its weights are random, but for those that make it say ``LINES`` after any question: its layers add nothing, so that a
token's embedding alone decides the next token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

LINES = ("reason: a tile\nscore: 0.5", "\nR1 | a red tile | 0.25", "\nR2 | a blue tile | -1.0")
"""What it answers, each a token of its own."""
IMAGE_TOKENS = 5
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
HIDDEN = 16
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def write_llava(folder: Path, seed: int = 0) -> None:
    """Write config, weights, processor and tokenizer. A byte of text is a token."""
    tokenizer = _tokenizer()
    processor: Any = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    layers = {"hidden_size": HIDDEN, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(
            **layers,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=8192,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_id=3,
        vision_feature_select_strategy="full",
        image_seq_length=IMAGE_TOKENS,
    )
    torch.manual_seed(seed)
    model: Any = LlavaForConditionalGeneration(config)
    chain = [len(tokenizer) - len(LINES) + index for index in range(len(LINES))]
    with torch.no_grad():
        text = model.model.language_model
        for layer in text.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # Of each token one number says after what it comes: 0 after a question, n after the n-th line.
        text.embed_tokens.weight[:, : len(LINES) + 1] = 0
        text.embed_tokens.weight[:, 0] = 1
        for index, (token, after) in enumerate(zip(chain, [*chain[1:], 2], strict=True)):
            text.embed_tokens.weight[token, 0] = 0
            text.embed_tokens.weight[token, index + 1] = 1
            model.lm_head.weight[after, index + 1] = 100
        model.lm_head.weight[chain[0], 0] = 100
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([tokenizers.AddedToken(line, normalized=False) for line in LINES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
