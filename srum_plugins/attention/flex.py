"""torch's ``flex_attention``, compiled into a kernel for the segments at hand, on CUDA."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from srum_plugins.attention.contract import Attention, Segments

_compiled = torch.compile(flex_attention, dynamic=True)
_compiled_mask = torch.compile(create_block_mask)


class Flex(Attention):
    """The block mask of a batch is made once, outside of the layers, and forgotten with its segments, so that nothing
    of it may refer to them."""

    devices = ("cuda",)

    def __init__(self) -> None:
        self._masks: WeakKeyDictionary[Segments, BlockMask] = WeakKeyDictionary()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """See :meth:`Attention.attend`."""
        mask = self._masks.get(segments)
        if mask is None:
            mask = self._masks[segments] = block_mask(segments)
        # Uncompiled it holds all scores, and on a CPU it has no backward pass; that serves to compare it only.
        kernel: Any = _compiled if q.is_cuda else flex_attention
        parts = (part.transpose(0, 1)[None] for part in (q, k, v))
        out: Tensor = kernel(*parts, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1)


def block_mask(segments: Segments) -> BlockMask:
    """Which blocks of (query, key) are full, empty, or to be masked within."""
    device, causal = segments.cu_queries.device, segments.causal  # kept by the rule in their place: see Flex
    queries, keys = (torch.tensor(lengths, device=device) for lengths in (segments.queries, segments.keys))
    numbers = torch.arange(len(queries), device=device)
    of_query, of_key = numbers.repeat_interleave(queries), numbers.repeat_interleave(keys)
    # Counted from the end of its segment, where the last query is level with the last key.
    query_place = torch.arange(len(of_query), device=device) - segments.cu_queries[1:][of_query]
    key_place = torch.arange(len(of_key), device=device) - segments.cu_keys[1:][of_key]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = of_query[query] == of_key[key]
        return same & (key_place[key] <= query_place[query]) if causal else same

    make: Any = _compiled_mask if device.type == "cuda" else create_block_mask  # uncompiled it makes all pairs first
    mask: BlockMask = make(seen, None, None, len(of_query), len(of_key), device=str(device))
    return mask
