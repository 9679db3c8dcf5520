"""Checksums of files, in the format of ``sha256sum``, and names that must not leave a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srum_plugins.errors import ContractError, DamagedError, StorageError

SUMS = "SHA256SUMS"  # the sums of a whole folder
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_ODD = re.compile(r"[\\\n\r\0]")


@dataclass(frozen=True)
class Sum:
    """The sha256 that a file was written with, 64 hex digits, and the file that says so."""

    sha256: str
    source: Path


def inside(folder: Path, name: str) -> Path:
    """The path of a name that was read from disk, such as ``images/p0-1.png``.

    Raises:
        DamagedError: the name is not a plain relative path, or a link on its way leads out of the folder.
    """
    path = folder / name
    if not _is_plain(name):
        raise DamagedError(path, f"the name {name!r} may lead out of its folder, and is not opened")
    # Not Path.resolve, which raises on a loop of links.
    if _is_linked(folder, name) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DamagedError(path, "it is a link out of its folder, and is not opened")
    return path


def sums_text(digests: Mapping[str, str]) -> str:
    """Names with their sha256, as ``sha256sum`` prints them.

    Raises:
        ContractError: a name is not a plain relative path.
    """
    refuse_odd(digests)
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def refuse_odd(names: Iterable[str]) -> None:
    """Raise ContractError if a name is not a plain relative path, which may then not be written."""
    for name in names:
        if not _is_plain(name):
            raise ContractError(f"{name!r} cannot be the name of a file in a run directory: it must be a plain path")


def read_sums(path: Path) -> dict[str, Sum]:
    """What :func:`sums_text` made, by name and in order. Raises DamagedError if it is missing or malformed."""
    with reading(path):
        data = path.read_bytes()
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DamagedError(path, "it is no list of sha256 sums") from error
    if lines.pop():
        raise DamagedError(path, "its last line is cut off")
    found: dict[str, Sum] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found or not _is_plain(match[2]):
            raise DamagedError(path, f"line {number} is no sha256 sum of another file in its folder")
        found[match[2]] = Sum(match[1], path)
    return found


def digest(path: Path) -> str:
    """The sha256 of a file of any size, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(folder: Path, name: str, expected: Sum) -> None:
    """Raise DamagedError unless the file is there with this sha256."""
    path = inside(folder, name)
    with reading(path, expected.source):
        found = digest(path)
    _compare(path, found, expected)


def read_checked(folder: Path, name: str, sums: Mapping[str, Sum]) -> bytes:
    """The content of a file that a record names. Raises DamagedError unless it is there with the sha256 in ``sums``."""
    path = inside(folder, name)
    if name not in sums:
        raise DamagedError(path, "no list of sha256 sums has it")
    with reading(path, sums[name].source):
        data = path.read_bytes()
    _compare(path, hashlib.sha256(data).hexdigest(), sums[name])
    return data


def folder_sums(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder and below it, but for its own :data:`SUMS`, by name."""
    return {name: digest(folder / name) for name in _names(folder)}


def damage(
    folder: Path, seen: Callable[[Path], None] = lambda path: None, names: Iterable[str] | None = None
) -> Iterator[DamagedError]:
    """Everything in a folder that is not as its :data:`SUMS` say: what is missing, changed, or not listed.

    ``seen`` is told each file before it is read; ``names`` are those that must be listed, by default all.
    """
    listed = folder / SUMS
    seen(listed)
    try:
        sums = read_sums(listed)
    except DamagedError as error:
        yield error
        return
    for name, expected in sums.items():
        seen(folder / name)
        try:
            check_file(folder, name, expected)
        except DamagedError as error:
            yield error
    for name in _names(folder) if names is None else names:
        if name not in sums:
            yield DamagedError(listed, f"it does not list {name}, which is there")


def check_folder(folder: Path) -> None:
    """Raise the first DamagedError of :func:`damage`, if there is one."""
    for error in damage(folder):
        raise error


@contextmanager
def reading(path: Path, source: Path | None = None) -> Iterator[None]:
    """Turn what keeps a file from being read into a DamagedError, or a StorageError if only its rights do. ``source``
    is the file that lists it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(path, f"it is missing, but {source.name} lists it" if source else "it is missing") from error
    except PermissionError as error:
        raise StorageError(f"{path} may not be read: {error.strerror}. Its owner can allow it.") from error
    except OSError as error:
        raise DamagedError(path, f"it cannot be read: {error.strerror}") from error


def _compare(path: Path, found: str, expected: Sum) -> None:
    if found != expected.sha256:
        raise DamagedError(path, f"its content is not that which {expected.source.name} lists")


def _is_plain(name: str) -> bool:
    """Whether a name is relative, in its shortest form, and means the same on every system."""
    return _ODD.search(name) is None and not {"", ".", ".."}.intersection(name.split("/"))


def _is_linked(folder: Path, name: str) -> bool:
    """Whether any part of a name is a link. Only then the way to the folder matters, which takes long to follow."""
    path = folder / name
    return any(part.is_symlink() for part in (path, *path.parents[: name.count("/")]))


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != SUMS)
