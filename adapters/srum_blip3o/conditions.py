"""What the language model makes of a prompt, computed once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from srum_plugins.errors import StageError, StorageError
from srum_plugins.runs.files import read_tensor, write_tensor

KEPT = 1024
"""Conditions in memory: of the 8B half a gigabyte."""
CACHE = "SRUM_CACHE"
"""The environment variable that names the folder of conditions; if it is empty, none are on the disk."""

_log = logging.getLogger(__name__)
_unwritable: set[Path] = set()
"""Folders that could not be written to: each is told of once."""


def cache_folder() -> Path | None:
    """Where conditions are kept for other runs: the folder that :data:`CACHE` names, or by default
    ``srum-plugins/conditions`` in the user's cache folder; None for nowhere."""
    named = os.environ.get(CACHE)
    if named == "":
        return None
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    default = (user if user.is_absolute() else Path("~/.cache")) / "srum-plugins" / "conditions"
    try:
        return (default if named is None else Path(named)).expanduser()
    except RuntimeError:  # there is no home, as in some containers
        return None


class Conditions:
    """Conditions (Q, H) by prompt: the latest in the host's memory and, with a folder, all on the disk for other
    processes.

    ``read`` gives those (B, Q, H) of prompts by queries (1, Q, H). Each prompt is read by itself, so that its condition
    is the same to the bit whatever else is asked for. A file is named by a hash of the prompt, of the queries and of
    ``identity``, which tells the language model, and how it is computed, from others. A folder that cannot be written
    to is warned of once in a process, and done without.
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
        file = self._file(text, told)
        condition = None if file is None else _stored(file, queries.shape[1:])
        if condition is None:
            condition = self._read([text], queries)[0].cpu()
            if file is not None:
                _store(file, condition)
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


def _stored(file: Path, shape: torch.Size) -> Tensor | None:
    """What a file holds; None if it is not there, damaged or of another shape: then it is written anew."""
    try:
        stored = read_tensor(file) if file.is_file() else None
    except (OSError, StageError):
        return None
    return stored if stored is not None and stored.shape == shape else None


def _store(file: Path, condition: Tensor) -> None:
    folder = file.parent
    if folder in _unwritable:
        return
    try:
        write_tensor(file, condition)
    except (OSError, StorageError) as error:
        _unwritable.add(folder)
        _log.warning(
            "what the language model makes of prompts cannot be kept in %s for other runs (%s); this run goes on "
            "without. %s names another folder; if it is empty, nothing is kept",
            folder,
            error.__cause__ or error,
            CACHE,
        )
