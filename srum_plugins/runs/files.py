"""Atomic files and folders: written aside, flushed to the disk, renamed; and files that tell when they were changed."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from srum_plugins.errors import DamagedError, StageError, StorageError
from srum_plugins.runs.fingerprint import fingerprint
from srum_plugins.runs.sums import SUMS, folder_sums, reading, sums_text

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    from torch import Tensor

ASIDE = ".aside-"  # prefix of what is being written; leftovers of a killed process are removed by clean()
SEAL = "sha256"  # the key of a sealed JSON file that holds the hash of all others
MAX_PIXELS = 2**26  # 8192 x 8192: 64 times the paper's images, and 192 MiB of RGB, which any machine can take
REFUSALS = {
    errno.ENOSPC: "the disk is full. Make room",
    errno.EDQUOT: "your quota on this disk is used up. Make room",
    errno.EROFS: "the file system is read-only. Make it writable",
    errno.EACCES: "you may not write there. Change the rights",
    errno.EPERM: "you may not write there. Change the rights",
}
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")  # all that safetensors tells of an error of the system


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk, met while ``path`` is being written, into a StorageError in plain words."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _rust_errno(error)
        if number not in REFUSALS:
            raise
        raise StorageError(
            f"{path} cannot be written: {REFUSALS[number]} and run the same command again: nothing that is complete is "
            f"lost, and it goes on from there. ({error}; {_free(path):.1f} MiB are free.)"
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is whole or absent (or still the old one).

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    write_files([(path, data)])


def write_files(contents: Iterable[tuple[Path, bytes]]) -> None:
    """Write files, each as :func:`write_bytes` does. All are on the disk when it returns. They are written first and
    flushed then: a disk flushes many small files together in about the time of one.

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    asides: dict[Path, Path] = {}
    try:
        for path, data in contents:
            aside = asides[path] = _aside(path)
            with storing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                aside.write_bytes(data)
        for path, aside in asides.items():
            with storing(path):
                sync(aside)
        for path, aside in asides.items():
            with storing(path):
                aside.replace(path)
    except BaseException:
        for aside in asides.values():
            with suppress(OSError):  # what went wrong first is told
                aside.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in asides}:
        with storing(folder):
            sync(folder)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically. NaN and infinity are refused with a ValueError."""
    write_bytes(path, _json(data))


def read_json(path: Path) -> Any:
    """Read JSON. Raises StageError naming the file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        raise StageError(f"{path}:{line}: not valid JSON: {error}. Delete it and run again.") from error


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its hash under :data:`SEAL`. NaN and infinity are a ValueError."""
    write_bytes(path, _json({**data, SEAL: fingerprint(data)}))


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote. Raises DamagedError unless it is there, to the byte."""
    with reading(path):
        data = path.read_bytes()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"it is not valid JSON: {error}") from error
    if not isinstance(found, dict) or SEAL not in found:
        raise DamagedError(path, f"it has no {SEAL!r} of its own: it was edited, or is of an older version")
    plain = {key: value for key, value in found.items() if key != SEAL}
    if not _same(data, plain):
        raise DamagedError(path, f"its content is not that of its {SEAL!r}: it was edited or cut off")
    return plain


def image_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def parse_image(path: Path, data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """The RGB image of a PNG file's content; ``path`` is for messages.

    Raises:
        DamagedError: it is no PNG, or has more than :data:`MAX_PIXELS`, or not the (width, height) ``size``. Its pixels
            are decoded after these checks only, so that a small file cannot fill the memory.
    """
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise DamagedError(path, f"it is of {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        if size is not None and size != image.size:
            raise DamagedError(
                path, f"it is of {image.width}x{image.height} pixels, not of the {size[0]}x{size[1]} of its record"
            )
        return image.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DamagedError(path, f"it has more than {MAX_PIXELS} pixels: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:  # all that Pillow raises
        raise DamagedError(path, f"it cannot be read as a PNG: {error}") from error


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PNG atomically."""
    write_bytes(path, image_bytes(image))


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor as a safetensors file."""
    from safetensors.torch import save

    return bytes(save({"tensor": tensor.detach().cpu().contiguous()}))


def parse_tensor(path: Path, data: bytes) -> Tensor:
    """The tensor of what :func:`tensor_bytes` made; ``path`` is for messages. Raises DamagedError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)["tensor"]
    except (KeyError, SafetensorError) as error:
        raise DamagedError(path, f"it cannot be read as a tensor: {error}") from error


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Write a tensor as a safetensors file, atomically."""
    write_bytes(path, tensor_bytes(tensor))


def read_tensor(path: Path) -> Tensor:
    """Read what :func:`write_tensor` wrote. Raises DamagedError if it is missing or damaged."""
    with reading(path):
        data = path.read_bytes()
    return parse_tensor(path, data)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder aside, add its sums, flush all of it, and put it in the place of ``path``.

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    with begun_folder(path) as aside:
        fill(aside)
        commit_folder(aside, path)


@contextmanager
def begun_folder(path: Path) -> Iterator[Path]:
    """An empty folder, aside, in which what is to be ``path`` is written; it goes if that fails.

    Raises:
        StorageError: the disk is full, or may not be written.
    """
    aside = _aside(path)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.mkdir()
            yield aside
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def commit_folder(aside: Path, path: Path) -> None:
    """Add the sums of what was written aside (:data:`SUMS`), flush it, and put it in the place of ``path``."""
    (aside / SUMS).write_text(sums_text(folder_sums(aside)), encoding="utf-8")
    for entry in sorted(aside.rglob("*"), reverse=True):
        sync(entry)
    sync(aside)
    if path.exists():  # a folder cannot be replaced in one step: what is being replaced is not complete, so it may go
        shutil.rmtree(path)
    aside.rename(path)
    sync(path.parent)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written. Only call while holding the folder's lock."""
    for leftover in sorted(folder.rglob(f"{ASIDE}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def write_if_different(target: Path, data: bytes) -> None:
    """Write ``data`` atomically unless it is there already."""
    if not (target.exists() and target.read_bytes() == data):
        write_bytes(target, data)


def _aside(path: Path) -> Path:
    """A name beside a path for this one writing of it: threads, and processes of other machines that have the same
    number there, may write the same file of a cache at once."""
    return path.with_name(f"{ASIDE}{secrets.token_hex(4)}-{path.name}")


def _json(data: Any) -> bytes:
    return f"{json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()


def _same(data: bytes, plain: Mapping[str, Any]) -> bool:
    """Whether these are the bytes of a sealed file of this content. Spaces and cut line ends count: nobody edits it."""
    try:
        return data == _json({**plain, SEAL: fingerprint(plain)})
    except ValueError:  # NaN, which json reads and does not write
        return False


def _free(path: Path) -> float:
    """MiB that are free on the disk that a file would be on; NaN if that cannot be told."""
    for folder in path.absolute().parents:
        with suppress(OSError):  # it is not there yet, or may not be looked into
            return shutil.disk_usage(folder).free / 2**20
    return math.nan


def _rust_errno(error: Exception) -> int | None:
    match = _RUST_ERRNO.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match[1]) if match else None


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
