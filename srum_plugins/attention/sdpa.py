"""torch's ``scaled_dot_product_attention``, which picks a kernel by itself, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srum_plugins.attention.contract import Attention, Segments
from srum_plugins.attention.dense import rows, unpadded

SMALL = 2**24
"""Scores per head up to which segments of unequal lengths are padded and masked in one call rather than called one by
one: many short ones cost more in calls than in scores."""
MOST_PADDING = 4
"""Keys with padding, in terms of those without, up to which that is done."""


class SDPA(Attention):
    """Segments of equal lengths go in one call, which needs no mask unless a text goes on from a context: then its
    queries have one over their keys."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """See :meth:`Attention.attend`."""
        # On a CPU, autocast must not reach it: its backward pass in bfloat16 takes several times as long as in float32.
        with torch.autocast("cpu", enabled=False):
            if _is_padded(segments):
                padded = segments.padded
                out = _sdpa(rows(q, padded.queries), rows(k, padded.keys), rows(v, padded.keys), padded.mask)
                return unpadded(out, padded.cells)
            return _by_runs(q, k, v, segments)


def _is_padded(segments: Segments) -> bool:
    """Whether many short segments of unequal lengths go in one call."""
    count, query, key = len(segments.queries), max(segments.queries), max(segments.keys)
    small = count * query * key <= SMALL and count * key <= MOST_PADDING * sum(segments.keys)
    return len(segments.runs) > 1 and small


def _by_runs(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    parts, query, key = [], 0, 0
    for count, queries, keys in segments.runs:
        part_q = _batched(q, query, count, queries)
        part_k, part_v = _batched(k, key, count, keys), _batched(v, key, count, keys)
        # is_causal levels the first query with the first key: the same as the last with the last only if all are.
        square, mask = queries == keys, None
        if segments.causal and not square:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        out = _sdpa(part_q, part_k, part_v, mask, causal=segments.causal and square)
        parts.append(out.transpose(1, 2).flatten(0, 1))
        query, key = query + count * queries, key + count * keys
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _batched(tokens: Tensor, start: int, count: int, length: int) -> Tensor:
    """``count`` neighbouring segments of packed tokens (T, H, D) as (S, H, L, D), without a copy."""
    return tokens[start : start + count * length].view(count, length, *tokens.shape[1:]).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    shared = q.shape[1] // k.shape[1]
    if shared > 1 and q.is_cuda:
        capability = torch.cuda.get_device_capability(q.device)
        if not _shares_heads(q.dtype, capability, masked=mask is not None):
            k, v = (part.repeat_interleave(shared, dim=1) for part in (k, v))
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _shares_heads(dtype: torch.dtype, capability: tuple[int, int], *, masked: bool) -> bool:
    """Whether a CUDA kernel lets query heads share a key head. Where none does, torch computes all scores instead, in
    silence; keys repeated for each head cost far less."""
    return not masked and dtype != torch.float32 and capability >= (8, 0)
