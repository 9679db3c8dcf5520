"""Weights in safetensors files: found, checked by their headers alone, and streamed to where they belong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from srum_plugins.errors import CheckpointError

Choice = Literal["auto", "ema", "model"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHOWN = 10

Shapes = Mapping[str, tuple[int, ...]]


def weight_files(folder: Path, choice: Choice = "auto") -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: ``ema.safetensors`` or ``model.safetensors``, or the shards of an index of
    one of these names.

    Raises:
        CheckpointError: there is none, or both and ``choice`` is ``auto``, or a shard is missing, or all that is there
            is pickled.
    """
    found = {name: files for name in ("ema", "model") if (files := named_files(folder, name))}
    if choice != "auto":
        found = {name: files for name, files in found.items() if name == choice}
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} holds both ema and model weights; choose with adapter.weights=ema or adapter.weights=model"
        )
    if found:
        return next(iter(found.values()))
    raise absent(folder, ("ema", "model") if choice == "auto" else (choice,))


def named_files(folder: Path, name: str, index: str | None = None) -> tuple[Path, ...]:
    """The files of weights of one name, the shards of its index (by default ``NAME.safetensors.index.json``) included;
    none if neither is there.

    Raises:
        CheckpointError: the index is damaged, or a shard is missing.
    """
    single, listed = folder / f"{name}.safetensors", folder / (index or f"{name}.safetensors.index.json")
    if single.is_file():
        return (single,)
    if not listed.is_file():
        return ()
    try:
        shards = sorted(set(json.loads(listed.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{listed} is no index of shards: {error!r}") from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{listed} names {len(shards)} shards, of which {len(missing)} are missing: {', '.join(missing[:SHOWN])}"
        )
    return tuple(folder / shard for shard in shards)


def absent(folder: Path, names: Sequence[str]) -> CheckpointError:
    """The error for a folder without weights of any of these names, and why what is there instead is not read."""
    wanted = " or ".join(f"{name}.safetensors" for name in names)
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if pickled:
        return CheckpointError(
            f"{folder} holds no {wanted}, but {', '.join(pickled[:SHOWN])}: pickles are not read, because loading one "
            "runs whatever code is in it; convert the weights to safetensors first"
        )
    return CheckpointError(f"{folder} holds no {wanted}")


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file, opened; nothing is read but its header.

    Raises:
        CheckpointError: it is missing or damaged, or turns out so while it is read.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights from {file}: {error}") from error


def shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, from the headers.

    Raises:
        CheckpointError: a file is unreadable, or two hold the same name.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with opened(file) as handle:
            names = list(handle.keys())
            twice = [name for name in names if name in found]
            if twice:
                raise CheckpointError(f"{file} holds weights that an earlier shard has too: {', '.join(twice[:SHOWN])}")
            found |= {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    return found


def refuse_misfits(found: Shapes, expected: Shapes, source: object, tower: tuple[str, ...] = ()) -> None:
    """One error for whatever is missing, unexpected or of another shape. ``tower`` is how the names of the
    understanding tower's weights begin, which some training runs leave out.

    Raises:
        CheckpointError: names the first ten and their number.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing and not unexpected and tower and missing == [name for name in expected if name.startswith(tower)]:
        raise CheckpointError(
            f"{source} has no understanding tower: its {len(missing)} weights {', '.join(f'{p}*' for p in tower)} are "
            "missing, as after a training run that leaves it out. Add them from the checkpoint that it was trained from"
        )
    problems = [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in unexpected]
    problems += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = "; ".join(problems[:SHOWN])
        raise CheckpointError(f"{source} does not fit its config ({len(problems)} problems): {shown}")


def load_weights(
    module: nn.Module,
    files: Sequence[Path],
    device: torch.device,
    dtype: torch.dtype | None = None,
    rename: Callable[[str], str | None] = lambda name: name,
    tower: tuple[str, ...] = (),
) -> None:
    """Load exactly the module's weights, one tensor at a time.

    Parameters without memory (``meta``) get theirs on ``device``; others are filled in place. ``dtype`` None keeps
    that of the file for the former. ``tower`` is that of :func:`refuse_misfits`. ``rename`` maps a name in the file to
    the module's, or to None if it belongs to another; a matrix stored as a 1 x 1 convolution fits a linear layer.

    Raises:
        CheckpointError: a file is unreadable, or what it holds does not fit; then nothing was loaded.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    stored = shapes(files)
    names = {name: own for name in stored if (own := rename(name)) is not None}
    found = {own: stored[name] for name, own in names.items()}
    fitting = {
        name: shape[:2] if shape[2:] == (1, 1) and len(expected.get(name, ())) == 2 else shape
        for name, shape in found.items()
    }
    refuse_misfits(fitting, expected, files[0] if len(files) == 1 else files[0].parent, tower)
    owners = {
        f"{prefix}.{name}" if prefix else name: (owner, name)
        for prefix, owner in module.named_modules()
        for name in (*owner._parameters, *owner._buffers)
    }
    for file in files:
        with opened(file) as handle:
            for name in [name for name in handle.keys() if name in names]:  # noqa: SIM118 - it is no dict
                owner, place = owners[names[name]]
                _put(owner, place, handle.get_tensor(name), device, dtype)


def _put(owner: nn.Module, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> None:
    there: Tensor = getattr(owner, name)
    tensor = tensor.reshape(there.shape)
    if not there.is_meta:
        with torch.no_grad():
            there.copy_(tensor)
    elif isinstance(there, nn.Parameter):
        # A copy, because what safetensors gives on the CPU is a window on the file, which may be replaced later.
        moved = tensor.to(device, dtype, copy=True)
        setattr(owner, name, nn.Parameter(moved, requires_grad=there.requires_grad))
    else:
        setattr(owner, name, tensor.to(device, dtype, copy=True))


def save_weights(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file aside and rename it, so that a kill or a full disk leaves what was there before.

    Raises:
        CheckpointError: it cannot be written.
    """
    aside = file.with_name(file.name + ".tmp")
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, aside)
        aside.replace(file)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {file}: {error}") from error
