"""The reference: every score of a segment is computed and held, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from srum_plugins.attention.contract import Attention, Segments


class Dense(Attention):
    """Plain products and a softmax; memory grows with the square of the length."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """See :meth:`Attention.attend`."""
        padded, shared = segments.padded, q.shape[1] // k.shape[1]
        with torch.autocast(q.device.type, enabled=False):
            query = rows(q, padded.queries).float()
            key, value = (rows(part, padded.keys).float().repeat_interleave(shared, dim=1) for part in (k, v))
            scores = query @ key.transpose(2, 3) / q.shape[2] ** 0.5
            out = scores.masked_fill(~padded.mask, float("-inf")).softmax(dim=3) @ value
        return unpadded(out, padded.cells).to(q.dtype)


def rows(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows (S, L) of packed tokens (T, H, D), as (S, H, L, D)."""
    return tokens.index_select(0, index.flatten()).reshape(*index.shape, *tokens.shape[1:]).transpose(1, 2)


def unpadded(out: Tensor, cells: Tensor) -> Tensor:
    """The real rows (T, H, D) of an output (S, H, L, D)."""
    return out.transpose(1, 2).flatten(0, 1).index_select(0, cells)
