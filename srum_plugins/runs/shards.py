"""Typed records in fixed chunks: one JSONL part per chunk, images and tensors before the records that name them.

A chunk is done when its part exists. Chunks are independent of one another, so that after a kill only the missing
ones are made, and the files end up with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from PIL import Image

from srum_plugins.errors import ContractError, StageError
from srum_plugins.records import from_json, to_json
from srum_plugins.runs.files import MEND, write_bytes, write_image, write_tensor

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Attachment: TypeAlias = "Image.Image | Tensor"
"""What a record names by a path."""


class Shards(Generic[T]):
    """The records of one stage: ``total`` of them in chunks of ``chunk``, in ``folder``."""

    def __init__(self, folder: Path, kind: type[T], total: int, chunk: int) -> None:
        self.folder, self.kind, self.total, self.chunk = folder, kind, total, chunk

    def __len__(self) -> int:
        """The number of chunks."""
        return -(-self.total // self.chunk)

    def part(self, index: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"part-{index:05d}.jsonl"

    def items(self, index: int) -> range:
        """The positions of a chunk's records among all."""
        return range(index * self.chunk, min((index + 1) * self.chunk, self.total))

    def missing(self) -> list[int]:
        """The chunks that are not on disk yet, in order."""
        return [index for index in range(len(self)) if not self.part(index).exists()]

    def done(self) -> int:
        """The number of records on disk."""
        return sum(len(self.items(index)) for index in range(len(self)) if self.part(index).exists())

    def write(self, index: int, records: Sequence[T], files: Mapping[str, Attachment] | None = None) -> None:
        """Write one chunk: its images and tensors first (by path relative to the folder), then its records.

        Raises:
            ContractError: the number of records is not that of the chunk.
        """
        if len(records) != len(self.items(index)):
            raise ContractError(f"chunk {index} needs {len(self.items(index))} records, got {len(records)}")
        for name, content in (files or {}).items():
            write = write_image if isinstance(content, Image.Image) else write_tensor
            write(self.folder / name, content)  # type: ignore[arg-type]  # each gets its own
        lines = [json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) for record in records]
        write_bytes(self.part(index), "".join(f"{line}\n" for line in lines).encode())

    def read(self) -> list[T]:
        """All records in order. Raises StageError with file and line for what is missing or malformed."""
        records: list[T] = []
        for index in range(len(self)):
            records.extend(self._read(index))
        return records

    def _read(self, index: int) -> list[T]:
        path = self.part(index)
        if not path.exists():
            raise StageError(f"{path} is missing: the stage is not complete. {MEND}")
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        expected = len(self.items(index))
        if len(lines) != expected:
            raise StageError(f"{path}: {len(lines)} records, expected {expected}. {MEND}")
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(from_json(self.kind, json.loads(line)))
            except (ContractError, ValueError) as error:
                raise StageError(f"{path}:{number}: {error}. {MEND}") from error
        return records
