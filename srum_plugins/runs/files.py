"""Atomic files and folders: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from srum_plugins.errors import StageError

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    from torch import Tensor

MEND = "Delete it and the done.json beside it, if there is one, and run again."
MEND_RECORD = "Delete the part-*.jsonl that names it and the done.json beside that, and run again."
ASIDE = ".aside-"  # prefix of what is being written; leftovers of a killed process are removed by clean()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is whole or absent (or still the old one)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{ASIDE}{os.getpid()}-{path.name}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically. NaN and infinity are refused with a ValueError."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises StageError naming the file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        raise StageError(f"{path}:{line}: not valid JSON: {error}. {MEND}") from error


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PNG atomically."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def read_image(path: Path) -> Image.Image:
    """Read an RGB image. Raises StageError if it is missing or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise StageError(f"{path}: cannot be read as an image: {error}. {MEND_RECORD}") from error


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Write a tensor as a safetensors file, atomically."""
    from safetensors.torch import save

    write_bytes(path, save({"tensor": tensor.detach().cpu().contiguous()}))


def read_tensor(path: Path) -> Tensor:
    """Read what :func:`write_tensor` wrote. Raises StageError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)["tensor"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StageError(f"{path}: cannot be read as a tensor: {error}. {MEND_RECORD}") from error


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder aside, flush all of it, and put it in the place of ``path``."""
    aside = begin_folder(path)
    fill(aside)
    commit_folder(aside, path)


def begin_folder(path: Path) -> Path:
    """An empty folder, aside, in which what is to be ``path`` is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{ASIDE}{os.getpid()}-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    return aside


def commit_folder(aside: Path, path: Path) -> None:
    """Flush what was written aside, and put it in the place of ``path``."""
    for entry in sorted(aside.rglob("*"), reverse=True):
        _sync(entry)
    _sync(aside)
    if path.exists():  # a folder cannot be replaced in one step: what is being replaced is not complete, so it may go
        shutil.rmtree(path)
    aside.rename(path)
    _sync(path.parent)


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


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
