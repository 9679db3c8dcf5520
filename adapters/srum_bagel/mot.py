"""The mixture-of-transformers: two sets of weights, one attention.

Tokens travel in two streams. ``und`` (text, markers, vision patches) uses the understanding expert, ``gen`` (latents)
the generation expert, which in checkpoints has the suffix ``_moe_gen``. Only attention joins them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
)

from srum_bagel.config import LanguageConfig


@dataclass
class Cache:
    """Keys and values of the contexts of several rows: per layer (B, C, Hk, hd), after norm and RoPE.

    ``valid`` (B, C) marks the entries in use; ``ends`` (B,) is the next position of each row.
    """

    valid: Tensor
    ends: Tensor
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Entries per row, padding included."""
        return int(self.valid.shape[1])


@dataclass(frozen=True)
class Layout:
    """Where the tokens of both streams sit in the padded attention layout (B, L), and what may see what.

    ``und_cells`` and ``gen_cells`` index the flattened layout; ``mask`` is (B, 1, L, K) with K = L, or cache length + L
    when keys of a cache come first.
    """

    batch: int
    length: int
    und_cells: Tensor
    gen_cells: Tensor
    mask: Tensor

    def scatter(self, tokens: Tensor) -> Tensor:
        """Tokens (Tu + Tg, ...) in cat(und, gen) order to (B, L, ...), zero where padded."""
        cells = torch.cat([self.und_cells, self.gen_cells])
        padded = tokens.new_zeros(self.batch * self.length, *tokens.shape[1:])
        filled = padded.index_copy(0, cells, tokens)
        return filled.reshape(self.batch, self.length, *tokens.shape[1:])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of queries (B, L, Hq, hd) over keys and values (B, K, Hk, hd) where ``mask`` (B, 1, L, K) is true."""
    # On a CPU, autocast must not reach it: its backward pass in bfloat16 takes several times as long as in float32.
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.to(q.dtype).transpose(1, 2),
            attn_mask=mask,
            enable_gqa=q.shape[2] != k.shape[2],
        )
    return out.transpose(1, 2)


class MoTAttention(nn.Module):
    """Joint attention with separate projections and q/k norms per expert; biases on q, k, v only."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        dim, eps = config.hidden_size, config.rms_norm_eps
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj, self.q_proj_moe_gen = nn.Linear(dim, queries), nn.Linear(dim, queries)
        self.k_proj, self.k_proj_moe_gen = nn.Linear(dim, keys), nn.Linear(dim, keys)
        self.v_proj, self.v_proj_moe_gen = nn.Linear(dim, keys), nn.Linear(dim, keys)
        self.o_proj, self.o_proj_moe_gen = nn.Linear(queries, dim, bias=False), nn.Linear(queries, dim, bias=False)
        self.q_norm, self.q_norm_moe_gen = Qwen2RMSNorm(config.head_dim, eps), Qwen2RMSNorm(config.head_dim, eps)
        self.k_norm, self.k_norm_moe_gen = Qwen2RMSNorm(config.head_dim, eps), Qwen2RMSNorm(config.head_dim, eps)

    def forward(
        self,
        und: Tensor,
        gen: Tensor,
        layout: Layout,
        rope: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both streams' outputs, and this call's keys and values (B, L, Hk, hd)."""
        parts = []
        if len(und):
            q, k, v = (self._heads(linear(und)) for linear in (self.q_proj, self.k_proj, self.v_proj))
            parts.append((self.q_norm(q), self.k_norm(k), v))
        if len(gen):
            projections = (self.q_proj_moe_gen, self.k_proj_moe_gen, self.v_proj_moe_gen)
            q, k, v = (self._heads(linear(gen)) for linear in projections)
            parts.append((self.q_norm_moe_gen(q), self.k_norm_moe_gen(k), v))
        q, k, v = (torch.cat(streams) for streams in zip(*parts, strict=True))
        q, k = apply_rotary_pos_emb(q, k, *rope)
        q, k, v = layout.scatter(q), layout.scatter(k), layout.scatter(v)
        if past is None:
            out = attend(q, k, v, layout.mask)
        else:
            out = attend(q, torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1), layout.mask)
        flat = out.flatten(0, 1).flatten(1)
        und_out = self.o_proj(flat.index_select(0, layout.und_cells)) if len(und) else und
        gen_out = self.o_proj_moe_gen(flat.index_select(0, layout.gen_cells)) if len(gen) else gen
        return und_out, gen_out, k, v

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.reshape(len(projected), -1, self.head_dim)


class MoTLayer(nn.Module):
    """Pre-norm attention and gated MLP, with one set of weights per stream."""

    def __init__(self, config: LanguageConfig, mlp: Qwen2Config) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = MoTAttention(config)
        self.mlp, self.mlp_moe_gen = Qwen2MLP(mlp), Qwen2MLP(mlp)
        self.input_layernorm, self.input_layernorm_moe_gen = Qwen2RMSNorm(dim, eps), Qwen2RMSNorm(dim, eps)
        self.post_attention_layernorm = Qwen2RMSNorm(dim, eps)
        self.post_attention_layernorm_moe_gen = Qwen2RMSNorm(dim, eps)

    def forward(
        self,
        und: Tensor,
        gen: Tensor,
        layout: Layout,
        rope: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both streams after this layer, and the keys and values it attended with."""
        und_norm = self.input_layernorm(und) if len(und) else und
        gen_norm = self.input_layernorm_moe_gen(gen) if len(gen) else gen
        und_out, gen_out, k, v = self.self_attn(und_norm, gen_norm, layout, rope, past)
        if len(und):
            und = und + und_out
            und = und + self.mlp(self.post_attention_layernorm(und))
        if len(gen):
            gen = gen + gen_out
            gen = gen + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen))
        return und, gen, k, v


class MoTModel(nn.Module):
    """Embedding, layers and the two final norms."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        qwen = Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MoTLayer(config, qwen) for _ in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Qwen2RotaryEmbedding(qwen)
        self.checkpointing = False
        """Whether a layer's activations are computed again in the backward pass, and only its inputs kept for it."""

    def forward(
        self,
        und: Tensor,
        gen: Tensor,
        positions: Tensor,
        layout: Layout,
        past: Cache | None = None,
        keep: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Final hidden states of both streams, (Tu, D) and (Tg, D).

        ``positions`` (Tu + Tg) are in cat(und, gen) order. ``past`` is read; the new keys and values are appended to
        ``keep`` if given.
        """
        rope = self.rotary(und if len(und) else gen, positions)
        for index, layer in enumerate(self.layers):
            cached = (past.keys[index], past.values[index]) if past is not None and past.length else None
            if self.checkpointing and torch.is_grad_enabled():
                und, gen, k, v = checkpoint(layer, und, gen, layout, rope, cached, use_reentrant=False)
            else:
                und, gen, k, v = layer(und, gen, layout, rope, cached)
            if keep is not None:
                keep.keys.append(k)
                keep.values.append(v)
        return self.norm(und) if len(und) else und, self.norm_moe_gen(gen) if len(gen) else gen


class MoTForCausalLM(nn.Module):
    """The transformer with its text head."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = MoTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
