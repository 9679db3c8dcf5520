"""The mixture-of-transformers: two sets of weights, one attention.

Tokens travel in two streams. ``und`` (text, markers, vision patches) uses the understanding expert, ``gen`` (latents)
the generation expert, which in checkpoints has the suffix ``_moe_gen``. Only attention joins them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
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
from srum_bagel.packing import Call
from srum_plugins.attention.contract import Attention


@dataclass
class Cache:
    """Keys and values of the contexts of several rows, one row after the other: per layer (C, Hk, hd), after norm and
    RoPE. ``lengths`` are each row's entries, ``ends`` its next position; without entries there are no layers."""

    lengths: tuple[int, ...]
    ends: tuple[int, ...]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """Entries of all rows."""
        return sum(self.lengths)

    def layer(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of a layer, or None if there are none."""
        return (self.keys[index], self.values[index]) if self.keys else None


@dataclass(frozen=True)
class Layout:
    """Who sees what, for all layers alike: the calls of attention, and how the keys that they see come together.

    ``memory`` are the rows of cat(past, und, gen) that keys and values are gathered from, in the order in which calls
    see them. ``places`` (C + T,), if every row is taken once, say the same from the other side, where each of them
    goes: then they are moved once. With ``in_place`` the past has room for the new ones, and ``memory`` says where in
    it they are written: nothing that is there is moved. ``back`` is :attr:`srum_bagel.packing.Packed.back`.
    """

    attention: Attention
    memory: Tensor
    calls: tuple[Call, ...]
    back: Tensor
    places: Tensor | None = None
    in_place: bool = False

    def remember(self, new: Tensor, past: Tensor | None) -> Tensor:
        """All keys (M, Hk, hd), or values, that are seen: those of the past and the new ones (T, Hk, hd)."""
        if past is None:
            return new.index_select(0, self.memory)
        if self.in_place:
            return past.index_copy_(0, self.memory, new)
        if self.places is not None:
            joined = new.new_empty(len(self.places), *new.shape[1:])
            return joined.index_copy_(0, self.places[: len(past)], past).index_copy_(0, self.places[len(past) :], new)
        return torch.cat([past, new]).index_select(0, self.memory)

    # Compiled with a layer, a call would be compiled anew for every mixture of lengths.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention (T, Hq, hd) of queries (T, Hq, hd) over what :meth:`remember` gave."""
        parts = []
        for call in self.calls:
            seen = (k, v) if call.keys is None else (k.index_select(0, call.keys), v.index_select(0, call.keys))
            parts.append(self.attention.attend(q.index_select(0, call.queries), *seen, call.segments))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.index_select(0, self.back)


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
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both streams' outputs, of the und stream only those of ``rows`` if given, and the keys and values (M, Hk, hd)
        that were seen."""
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
        k = layout.remember(k, None if past is None else past[0])
        v = layout.remember(v.to(q.dtype), None if past is None else past[1])
        flat = layout.attend(q, k, v).flatten(1)
        und_flat = flat[: len(und)] if rows is None else flat.index_select(0, rows)
        und_out = self.o_proj(und_flat) if len(und) else und
        gen_out = self.o_proj_moe_gen(flat[len(und) :]) if len(gen) else gen
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
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both streams after this layer, of the und stream only ``rows`` if given, and the keys and values that it
        attended with."""
        und_norm = self.input_layernorm(und) if len(und) else und
        gen_norm = self.input_layernorm_moe_gen(gen) if len(gen) else gen
        und_out, gen_out, k, v = self.self_attn(und_norm, gen_norm, layout, rope, past, rows)
        und = und if rows is None else und.index_select(0, rows)
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
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Final hidden states of both streams, (Tu, D) and (Tg, D).

        ``positions`` (Tu + Tg) are in cat(und, gen) order. ``past`` is what the layout says that tokens go on from; the
        keys and values that were seen are appended to ``keep`` if given. Where only some ``rows`` (R,) of the und
        stream are wanted, (R, D) of it is given, and the last layer computes no others but for their keys and values.
        """
        rope = self.rotary(und if len(und) else gen, positions)
        for index, layer in enumerate(self.layers):
            cached = None if past is None else past.layer(index)
            wanted = rows if index == len(self.layers) - 1 else None
            if self.checkpointing and torch.is_grad_enabled():
                und, gen, k, v = checkpoint(layer, und, gen, layout, rope, cached, wanted, use_reentrant=False)
            else:
                und, gen, k, v = layer(und, gen, layout, rope, cached, wanted)
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
