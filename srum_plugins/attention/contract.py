"""What an attention kernel is asked: packed queries and keys, cut into segments.

Text that is causal and images that see all before them and themselves are two such calls, one causal and one full, and
no mask over a whole sequence is handed to a kernel (engine.md 1.4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from srum_plugins.errors import ContractError

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """The shapes and the dtype (``bfloat16``, ``float32``) of an adapter's attention: heads of the queries, of the keys
    and values, and the numbers in each."""

    queries: int
    keys: int
    width: int
    dtype: str


@dataclass(frozen=True)
class Padded:
    """Segments brought to one length: rows of the queries (S, Lq) and of the keys (S, Lk), of short segments the last
    one again; ``mask`` (S, 1, Lq or 1, Lk), true where a query sees a key; ``cells`` (Tq,), the places of the real
    queries in the flattened (S, Lq)."""

    queries: Tensor
    keys: Tensor
    mask: Tensor
    cells: Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """How packed queries (Tq, ...) and keys (Tk, ...) are cut: a query sees the keys of its own segment.

    It sees all of them or, if ``causal``, those up to its own place, where the last query of a segment is level with
    its last key: a text that goes on from a context. ``queries`` and ``keys`` are lengths; ``cu_queries`` and
    ``cu_keys`` (S + 1,) int32 are where segments begin, on the device, one tensor where the lengths are the same.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool
    cu_queries: Tensor
    cu_keys: Tensor

    @classmethod
    def of(
        cls, queries: Sequence[int], keys: Sequence[int], causal: bool, device: torch.device | None = None
    ) -> Segments:
        """Segments of these lengths.

        Raises:
            ContractError: a segment has no query, no key, or more queries than keys although it is causal.
        """
        import torch

        pairs = list(zip(queries, keys, strict=True))
        if bad := [pair for pair in pairs if min(pair) < 1 or (causal and pair[0] > pair[1])]:
            raise ContractError(f"no attention is defined for {bad[0][0]} queries on {bad[0][1]} keys, causal={causal}")

        def starts(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)

        begins = starts(queries)
        same = list(queries) == list(keys)
        return cls(tuple(queries), tuple(keys), causal, begins, begins if same else starts(keys))

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Neighbours of equal lengths: (segments, queries of each, keys of each)."""
        pairs = zip(self.queries, self.keys, strict=True)
        return tuple((len(list(run)), *lengths) for lengths, run in groupby(pairs))

    @cached_property
    def padded(self) -> Padded:
        """The same, brought to one length."""
        import torch

        device = self.cu_queries.device
        queries, keys = torch.tensor(self.queries)[:, None], torch.tensor(self.keys)[:, None]
        query, key = torch.arange(max(self.queries)), torch.arange(max(self.keys))
        query_starts, key_starts = queries.cumsum(0) - queries, keys.cumsum(0) - keys
        mask = (key < keys)[:, None, None, :]
        if self.causal:
            mask = mask & (key <= query[:, None] + (keys - queries)[:, :, None])[:, None]
        return Padded(
            queries=(query_starts + query.minimum(queries - 1)).to(device),
            keys=(key_starts + key.minimum(keys - 1)).to(device),
            mask=mask.to(device),
            cells=torch.nonzero((query < queries).flatten()).flatten().to(device),
        )


class Attention(ABC):
    """A kernel. Instances are made by a provider's factory, which imports what it needs, and are probed on the device
    before any weight is loaded."""

    devices: tuple[str, ...] = ()
    """The types of device that it can run on at all, such as ``cuda``; empty if it is to be tried on any."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """softmax(q kᵀ / sqrt(D)) v, segment by segment, with gradients: (Tq, Hq, D) from queries (Tq, Hq, D) and keys
        and values (Tk, Hk, D) of one dtype. Hq is a multiple of Hk: neighbouring query heads share a key head."""


@dataclass(frozen=True)
class FirstOf:
    """What a provider's factory may give in place of a kernel: the first of these providers that works is taken."""

    names: tuple[str, ...]
