"""What the language model makes of a prompt, computed once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from srum_plugins.errors import StageError
from srum_plugins.runs.files import read_tensor, write_tensor

KEPT = 1024
"""Conditions in memory: of the 8B half a gigabyte."""


class Conditions:
    """Conditions (Q, H) by prompt: the latest in the host's memory and, with a folder, all on the disk for other
    processes.

    ``read`` gives those (B, Q, H) of prompts by queries (1, Q, H). Each prompt is read by itself, so that its condition
    is the same to the bit whatever else is asked for. A file is named by a hash of the prompt, of the queries and of
    ``identity``, which tells the language model, and how it is computed, from others.
    """

    def __init__(self, read: Callable[[Sequence[str], Tensor], Tensor], identity: str, folder: Path | None) -> None:
        self._read, self._identity, self._folder = read, identity, folder
        self._known: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._told: list[tuple[Tensor, int, str]] = []

    @torch.no_grad()
    def of(self, texts: Sequence[str], queries: Tensor) -> Tensor:
        """Conditions (B, Q, H) on the device of the queries, without a graph."""
        told = self._hash(queries)
        wanted = {text: self._one(text, queries, told) for text in dict.fromkeys(texts)}
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return torch.stack([wanted[text] for text in texts]).to(queries.device)

    def _one(self, text: str, queries: Tensor, told: str) -> Tensor:
        key = (told, text)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        file, condition = self._file(text, told), None
        if file is not None and file.is_file():
            with suppress(StageError):  # damaged: it is written anew
                stored = read_tensor(file)
                condition = stored if stored.shape == queries.shape[1:] else None
        if condition is None:
            condition = self._read([text], queries)[0].cpu()
            if file is not None:
                write_tensor(file, condition)
        self._known[key] = condition
        return condition

    def _hash(self, queries: Tensor) -> str:
        """Tells queries from others; computed again when they have changed. Those of the model and of its base are
        asked for in turn."""
        for known, version, told in self._told:
            if known is queries and version == queries._version:
                return told
        told = hashlib.sha256(queries.detach().float().cpu().numpy().tobytes()).hexdigest()
        self._told = [(queries, queries._version, told), *self._told[:1]]
        return told

    def _file(self, text: str, told: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256("\0".join([self._identity, told, text]).encode()).hexdigest()
        return self._folder / f"{name}.safetensors"
