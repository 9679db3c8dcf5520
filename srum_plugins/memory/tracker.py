"""Counting the bytes that tensors hold, for tensors with memory and without (torch's ``meta`` device)."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.library import Library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class ValueNeededError(Exception):
    """A value was asked of a tensor that has a shape, but no memory."""


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """While active, counts the bytes of all storages that operations make on devices of these types.

    ``live`` are the bytes held now, ``peak`` the most that were held at once since the last :meth:`restart`. What a
    kernel needs for itself while it runs is not seen. Where a value of a tensor without memory is needed,
    ValueNeededError is raised.
    """

    def __init__(self, *devices: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._devices = devices
        self._known: set[int] = set()
        self.live = 0
        self.peak = 0

    def restart(self) -> None:
        """Forget the peak: from here on it is what is held now, or more."""
        self.peak = self.live

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors that were made before, until they are freed."""
        for tensor in tensors:
            if tensor.device.type in self._devices:
                self._count(tensor.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        kwargs = kwargs or {}
        if _reads_values(func, args, kwargs):
            raise ValueNeededError(f"{func} needs the values of a tensor")
        out = func(*args, **kwargs)
        self.hold(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.layout is torch.strided)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _reads_values(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation brings a value of a tensor without memory to the host."""
    if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
        return False
    moves = func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type != "meta"
    return moves or func is aten._local_scalar_dense.default


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within it, attention over tensors without memory is one kernel that keeps its output and a number per query.

    Without it torch takes the way that holds the scores of all pairs, because it has no kernel for such tensors. A CPU
    and current GPUs have one; the CPU's stands for all.
    """
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    # Of autograd, because there the operation is still whole; in a function mode it would not be seen when a backward
    # pass computes a layer again.
    library.impl("scaled_dot_product_attention", _fused, "AutogradMeta")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del library


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What ``scaled_dot_product_attention`` gives; the mask is brought to the queries' dtype, as kernels want it."""
    mask = None if attn_mask is None else attn_mask.to(query.dtype)
    out: Tensor = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
    )[0]
    return out
