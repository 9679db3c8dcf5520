"""Typed records in fixed chunks: one JSONL part per chunk, images and tensors before the records that name them.

A chunk is done when its part exists. Chunks are independent of one another, so that after a kill only the missing
ones are made, and the files end up with the same bytes. Beside each part lie its sums, which list the files that its
records name and then the part itself: what is read is compared with them, so that nothing is used that has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from PIL import Image

from srum_plugins.errors import ContractError, DamagedError
from srum_plugins.records import from_json, to_json
from srum_plugins.runs.files import image_bytes, parse_image, parse_tensor, tensor_bytes, write_bytes, write_files
from srum_plugins.runs.sums import Sum, check_file, inside, read_checked, read_sums, refuse_odd, sums_text

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Attachment: TypeAlias = "Image.Image | Tensor"
"""What a record names by a path."""
NAMING = ("image", "latents")
"""The fields of records that name a file, by a path relative to the folder of their parts."""


class Shards(Generic[T]):
    """The records of one stage: ``total`` of them in chunks of ``chunk``, in ``folder``.

    What it has read of the sums it keeps: make one, and read all images through it.
    """

    def __init__(self, folder: Path, kind: type[T], total: int, chunk: int) -> None:
        self.folder, self.kind, self.total, self.chunk = folder, kind, total, chunk
        self._known: dict[str, Sum] = {}

    def __len__(self) -> int:
        """The number of chunks."""
        return -(-self.total // self.chunk)

    def part(self, index: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"part-{index:05d}.jsonl"

    def sums(self, index: int) -> Path:
        """The file with the sha256 sums of a chunk; ``sha256sum -c`` in the folder checks it too."""
        return self.folder / f"part-{index:05d}.sha256"

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
        """Write one chunk: its images and tensors (by path relative to the folder) and its sums, then its records.

        Raises:
            ContractError: the number of records is not that of the chunk; or one names a file that is not given, or
                that would lie outside the folder.
            StorageError: the disk is full, or may not be written.
        """
        if len(records) != len(self.items(index)):
            raise ContractError(f"chunk {index} needs {len(self.items(index))} records, got {len(records)}")
        files = files or {}
        refuse_odd(files)
        for name in (name for record in records for name in _names(record)):
            if name not in files:
                raise ContractError(f"a record of chunk {index} names {name!r}, which is not given with it")
        lines = [json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) for record in records]
        part = "".join(f"{line}\n" for line in lines).encode()
        digests: dict[str, str] = {}

        def contents() -> Iterator[tuple[Path, bytes]]:
            for name, content in files.items():
                data = image_bytes(content) if isinstance(content, Image.Image) else tensor_bytes(content)
                digests[name] = hashlib.sha256(data).hexdigest()
                yield inside(self.folder, name), data
            # Last, so that sums that are cut off are told by its absence.
            digests[self.part(index).name] = hashlib.sha256(part).hexdigest()
            yield self.sums(index), sums_text(digests).encode()

        write_files(contents())
        write_bytes(self.part(index), part)

    def read(self) -> list[T]:
        """All records in order.

        Raises:
            DamagedError: a part is missing, or not as its sums say, or names a file that they do not list.
        """
        records: list[T] = []
        for index in range(len(self)):
            records.extend(self._read(index))
        return records

    def check(self, name: str) -> None:
        """Raise DamagedError unless a file that a record names is there, as its sums say."""
        self._content(name)

    def image(self, name: str, size: tuple[int, int] | None = None) -> Image.Image:
        """The RGB image that a record names. ``size`` (width, height), if the record tells it.

        Raises:
            DamagedError: it is missing, or not as its sums say, or is of another size or of too many pixels.
        """
        return parse_image(self.folder / name, self._content(name), size)

    def tensor(self, name: str) -> Tensor:
        """The tensor that a record names. Raises DamagedError if it is missing, or not as its sums say."""
        return parse_tensor(self.folder / name, self._content(name))

    def damage(self, index: int, seen: Callable[[Path], None] = lambda path: None) -> Iterator[DamagedError]:
        """Everything in a chunk on disk that is not as it was written; ``seen`` is told each file before it is read."""
        whole = True
        seen(self.sums(index))
        try:
            sums = self._sums(index)
        except DamagedError as error:
            yield error
            return
        for name, expected in sums.items():
            seen(self.folder / name)
            try:
                check_file(self.folder, name, expected)
            except DamagedError as error:
                whole = False
                yield error
        if whole:
            try:
                self._read(index)
            except DamagedError as error:
                yield error

    def _content(self, name: str) -> bytes:
        if name not in self._known:
            for index in range(len(self)):
                if self.part(index).exists():
                    self._known.update(self._sums(index))
        return read_checked(self.folder, name, self._known)

    def _sums(self, index: int) -> dict[str, Sum]:
        path, part = self.sums(index), self.part(index).name
        sums = read_sums(path)
        if list(sums)[-1:] != [part]:
            raise DamagedError(path, f"it is cut off: it does not end with the line of {part}")
        return sums

    def _read(self, index: int) -> list[T]:
        path = self.part(index)
        if not path.exists():
            raise DamagedError(path, "it is missing: the stage is not complete")
        sums = self._sums(index)
        lines = read_checked(self.folder, path.name, sums).decode(errors="replace").split("\n")[:-1]
        expected = len(self.items(index))
        if len(lines) != expected:
            raise DamagedError(path, f"{len(lines)} records, expected {expected}")
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = from_json(self.kind, json.loads(line))
            except (ContractError, ValueError, RecursionError) as error:
                raise DamagedError(path, f"line {number}: {error}") from error
            for name in _names(record):
                if name not in sums:
                    raise DamagedError(path, f"line {number}: it names {name!r}, which {self.sums(index).name} lacks")
            records.append(record)
        self._known.update(sums)
        return records


def _names(record: Any) -> list[str]:
    """The files that a record names."""
    return [name for field in NAMING if (name := getattr(record, field, None))]
