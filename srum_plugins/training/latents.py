"""What candidates are trained as: their latents, kept or encoded when a step asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Latents(Mapping[str, Tensor]):
    """Latents (C, H, W), float32, on the CPU, of ``names``: made by ``make`` when asked for, and remembered up to
    ``most`` bytes, those longest unused forgotten first."""

    names: tuple[str, ...]
    make: Callable[[str], Tensor]
    most: float
    _held: OrderedDict[str, Tensor] = field(default_factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        found = self._held[name] = self.make(name).detach().to("cpu", torch.float32)
        self._bytes += found.nbytes
        while self._bytes > self.most and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
