"""torch's own kernel for packed sequences (``torch.nn.attention.varlen``), on CUDA in half precision."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from torch.nn.attention import varlen

from srum_plugins.attention.contract import Attention, Segments


class Varlen(Attention):
    """Both calls in one kernel each. Its signature changed from release to release (engine.md 1.3), so it is read."""

    def __init__(self) -> None:
        self._known = inspect.signature(varlen.varlen_attn).parameters

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """See :meth:`Attention.attend`."""
        more: dict[str, Any] = {}
        if segments.causal:
            more = {"window_size": (-1, 0)} if "window_size" in self._known else {"is_causal": True}
        if q.shape[1] != k.shape[1] and "enable_gqa" in self._known:
            more["enable_gqa"] = True
        longest = max(segments.queries), max(segments.keys)
        kernel: Any = varlen.varlen_attn  # gives a tensor alone where nothing else is asked for
        out: Tensor = kernel(q, k, v, segments.cu_queries, segments.cu_keys, *longest, **more)
        return out
