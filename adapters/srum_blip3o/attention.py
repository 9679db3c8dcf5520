"""The framework's attention kernels in transformers' Qwen2.5-VL.

The language model asks transformers' registries for a function and for a mask, by one name: the mask that it gets is no
matrix but says how the rows of a batch are packed, and padding reaches no kernel (blip3o.md 6.1, engine.md 2). The
vision tower would call such a function once a window; its layers are given a forward of their own, which hands all
windows to the kernel at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2_5_VLConfig
from transformers.masking_utils import causal_mask_function
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from srum_plugins.attention.contract import Attention, Heads, Segments
from srum_plugins.errors import ContractError

NAME = "srum_segments"
"""In transformers' registries. It must hold neither ``flash`` nor ``sdpa``, which transformers takes for its own."""


@dataclass(frozen=True, eq=False)
class Packing:
    """How padded queries (B, Lq) and keys (B, Lk) become packed ones: the places of those that are real in the
    flattened rows, None where all are, and the segments that they make, one a row."""

    queries: Tensor | None
    keys: Tensor | None
    segments: Segments


def use_kernel(model: Any, kernel: Attention) -> None:
    """Have a ``Qwen2_5_VLForConditionalGeneration`` compute all its attention with a kernel. A second call changes the
    kernel. Other models, also of the same class, keep theirs."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packing)
    for layer in model.model.language_model.layers:
        layer.self_attn.kernel = kernel
    model.set_attn_implementation({"text_config": NAME})
    for block in model.model.visual.blocks:
        block.attn = WindowAttention(block.attn, kernel)


def attention_heads(config: Qwen2_5_VLConfig, dtype: str) -> tuple[Heads, Heads]:
    """The shapes of the attention of the language model and of the vision tower."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    heads, width = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    seeing = vision.num_heads
    return (
        Heads(heads, text.num_key_value_heads, width, dtype),
        Heads(seeing, seeing, vision.hidden_size // seeing, dtype),
    )


def packing(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: object = causal_mask_function,
    attention_mask: Tensor | None = None,
    device: torch.device | None = None,
    **_: object,
) -> Packing:
    """What transformers makes once a forward in place of a mask, from ``attention_mask`` (B, Lk), true where a column
    is no padding; the queries are its last columns. The names of the arguments are transformers'.

    Raises:
        ContractError: another mask than a causal one is asked for, or a row has no query.
    """
    if mask_function is not causal_mask_function:
        raise ContractError(f"attention {NAME!r} is causal: a mask of another kind cannot be added to it")
    if attention_mask is None or bool(attention_mask.all()):
        queries, keys = [q_length] * batch_size, [kv_length] * batch_size
        return Packing(None, None, Segments.of(queries, keys, True, device))
    if attention_mask.shape != (batch_size, kv_length):
        raise ContractError(
            f"the mask must have a row for each of {batch_size} texts and a column for each of {kv_length} keys, got "
            f"{tuple(attention_mask.shape)}"
        )
    asking = attention_mask[:, -q_length:]
    segments = Segments.of(asking.sum(dim=1).tolist(), attention_mask.sum(dim=1).tolist(), True, device)
    return Packing(_places(asking), _places(attention_mask), segments)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer of the language model: (B, Lq, Hq, D) from queries (B, Hq, Lq, D) and keys
    and values (B, Hk, Lk, D). The places of padding are 0. The names of the arguments are transformers'.

    Raises:
        ContractError: what comes as a mask is none of :func:`packing`, or a kernel cannot do what is asked.
    """
    if not isinstance(attention_mask, Packing):
        raise ContractError(
            f"attention {NAME!r} got a mask of type {type(attention_mask).__name__}: transformers' registry of masks "
            "holds no entry of this name, so padding would count. Call srum_blip3o.attention.use_kernel again"
        )
    batch, heads, length, width = query.shape
    if dropout or (scaling is not None and not math.isclose(scaling, width**-0.5)):
        raise ContractError(f"attention {NAME!r} has no dropout and scales by {width**-0.5}, got {dropout}, {scaling}")
    packed = _packed(query, attention_mask.queries)
    kernel: Attention = module.kernel
    out = kernel.attend(
        packed, _packed(key, attention_mask.keys), _packed(value, attention_mask.keys), attention_mask.segments
    )
    if attention_mask.queries is not None:
        out = out.new_zeros(batch * length, heads, width).index_copy(0, attention_mask.queries, out)
    return out.view(batch, length, heads, width), None


class WindowAttention(nn.Module):
    """A layer's attention of the vision tower, with the weights of transformers' own under the same names."""

    def __init__(self, stock: Any, kernel: Attention) -> None:
        super().__init__()
        self.qkv: nn.Module = stock.qkv
        self.proj: nn.Module = stock.proj
        self.num_heads: int = stock.num_heads
        self.kernel = kernel

    def forward(
        self, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Sequence[Tensor], **_: object
    ) -> Tensor:
        """Patches (P, C) of all images, each seeing those of its own window; ``cu_seqlens`` (W + 1,), on the host, is
        where windows begin, and the positions are cosine and sine (P, D). The names of the arguments are
        transformers'."""
        parts = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1))
        q, k, v = parts.unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        out = self.kernel.attend(q, k, v, _windows(cu_seqlens, q.device))
        projected: Tensor = self.proj(out.flatten(1))
        return projected


_latest: list[tuple[Tensor, Segments]] = []
"""Of the starts of windows that were asked for last: transformers gives the same two tensors to all layers."""


def _windows(starts: Tensor, device: torch.device) -> Segments:
    """Segments on a device of windows that begin at ``starts`` (W + 1,); the same ones for the same tensor."""
    for known, segments in _latest:
        if known is starts:
            return segments
    lengths = starts.diff().tolist()
    segments = Segments.of(lengths, lengths, False, device)
    _latest[:] = [(starts, segments), *_latest[:1]]
    return segments


def _places(mask: Tensor) -> Tensor:
    """Where a mask (B, L) is true in its flattened rows."""
    return mask.flatten().nonzero().flatten()


def _packed(part: Tensor, places: Tensor | None) -> Tensor:
    """Heads (B, H, L, D) as packed tokens (T, H, D)."""
    rows = part.transpose(1, 2).flatten(0, 1)
    return rows if places is None else rows.index_select(0, places)
