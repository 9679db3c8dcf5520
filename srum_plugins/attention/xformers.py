"""xformers' ``memory_efficient_attention``, on CUDA; for cards and dtypes that torch's packed kernel does not serve."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from srum_plugins.attention.contract import Attention, Segments


class XFormers(Attention):
    """One block-diagonal bias per batch. Keys and values are repeated for the query heads that share them: its backward
    pass knows no shared ones (engine.md 1.7)."""

    def __init__(self) -> None:
        from xformers.ops import fmha  # here, because a wheel that does not fit the installed torch fails at its import

        self._kernel: Any = fmha
        self._biases: WeakKeyDictionary[Segments, Any] = WeakKeyDictionary()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """See :meth:`Attention.attend`."""
        bias = self._biases.get(segments)
        if bias is None:
            bias = self._biases[segments] = self._bias(segments)
        shared = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(shared, dim=1) if shared > 1 else part for part in (k, v))
        out: Tensor = self._kernel.memory_efficient_attention(q[None], k[None], v[None], attn_bias=bias)
        return out[0]

    def _bias(self, segments: Segments) -> Any:
        """What keeps segments apart."""
        biases = self._kernel.attn_bias
        kind = biases.BlockDiagonalCausalFromBottomRightMask if segments.causal else biases.BlockDiagonalMask
        return kind.from_seqlens(list(segments.queries), list(segments.keys))
