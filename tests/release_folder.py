"""A tiny checkpoint folder in the exact layout of the released BAGEL, tokenizer included."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from srum_bagel.autoencoder import KLAutoencoder
from srum_bagel.config import AutoencoderConfig, BagelConfig, LanguageConfig, SpecialTokens, VisionConfig
from srum_bagel.model import Bagel
from srum_bagel.release import SCALE, SHIFT, diffusers_name
from srum_bagel.tokenizer import SPECIAL
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "a red circle left of a blue square",
    "Find every green triangle in the image. Answer yes or no, left or right.",
    "[12, 40, 500, 1000] none of the 3 objects is there",
]
LEVELS = 4
CHANNELS = [32, 32, 64, 64]


def write_tokenizer(folder: Path) -> SpecialTokens:
    """A byte-level BPE of a few hundred tokens in the file format of Qwen2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.model.save(str(folder))
    size = tokenizer.get_vocab_size()
    names = ["<|endoftext|>", *SPECIAL.values()]
    added = {str(size + index): {"content": name, "special": True} for index, name in enumerate(names)}
    for entry in added.values():
        entry |= {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL.values()),
        "eos_token": SPECIAL["eos"],
        "pad_token": "<|endoftext|>",
        "model_max_length": 32768,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return SpecialTokens(**{role: size + 1 + index for index, role in enumerate(SPECIAL)})


def released_name(name: str) -> str:
    """The released autoencoder's name of a weight of diffusers': the inverse of ``diffusers_name``."""
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda found: f".up.{LEVELS - 1 - int(found[1])}.", name)
    for new, old in (
        (r"\.down_blocks\.(\d+)\.", r".down.\1."),
        (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
        (r"\.resnets\.(\d+)\.", r".block.\1."),
        (r"\.(down|up)samplers\.0\.conv\.", r".\1sample.conv."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
        (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
        (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.conv_norm_out\.", ".norm_out."),
    ):
        name = re.sub(new, old, name)
    return name


def write_release(
    folder: Path, weights: str = "ema.safetensors", seed: int = 0, width: int = 32
) -> tuple[Bagel, KLAutoencoder]:
    """Write the folder; returns the random model and autoencoder that are in it, in bfloat16 and float32. ``width`` is
    that of the language model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = write_tokenizer(folder)
    language = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "vocab_size": 352,
        "hidden_size": width,
        "intermediate_size": width * 3 // 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,  # one is left out
        "num_attention_heads": 2,
        "num_channels": 3,
        "image_size": 32,
        "patch_size": 4,
    }
    (folder / "llm_config.json").write_text(json.dumps(language))
    (folder / "vit_config.json").write_text(json.dumps(vision))
    config = BagelConfig(
        llm=LanguageConfig(**{key: language[key] for key in LanguageConfig.__annotations__ if key in language}),
        vit=VisionConfig(**{**vision, "num_hidden_layers": 1}),
        vae=AutoencoderConfig(
            kind="kl",
            downsample=8,
            z_channels=16,
            scale=SCALE,
            shift=SHIFT,
            arguments={
                "down_block_types": ["DownEncoderBlock2D"] * LEVELS,
                "up_block_types": ["UpDecoderBlock2D"] * LEVELS,
                "block_out_channels": CHANNELS,
                "layers_per_block": 1,
                "norm_num_groups": 32,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
            },
        ),
        tokens=tokens,
        latent_patch_size=2,
        max_latent_size=4,
        vit_max_num_patch_per_side=8,
    )
    torch.manual_seed(seed)
    model, autoencoder = Bagel(config).to(torch.bfloat16).eval(), KLAutoencoder(config.vae).eval()
    save_file(model.state_dict(), folder / weights)
    stored = {}
    for name, tensor in autoencoder.model.state_dict().items():
        old = released_name(name)
        assert diffusers_name(old, LEVELS) == name
        convolution = ".attn_1." in old and tensor.ndim == 2
        stored[old] = tensor[:, :, None, None].contiguous() if convolution else tensor.contiguous()
    save_file(stored, folder / "ae.safetensors")
    return model, autoencoder
