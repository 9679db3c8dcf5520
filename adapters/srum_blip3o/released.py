"""A released BLIP3o folder: its parts are read strictly, and saved under the names that they were read from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from srum_blip3o.adapter import NO_TOWER, Blip3oAdapter
from srum_blip3o.conditions import Conditions, cache_folder
from srum_blip3o.decoder import load_decoder, read_decoder
from srum_blip3o.eva import StoredTower, find_tower
from srum_blip3o.memory import weightless
from srum_blip3o.networks import Dimensions
from srum_blip3o.options import AdapterOptions
from srum_blip3o.prior import Prior, PriorConfig
from srum_blip3o.prior_weights import DIT, QUERIES, load_prior, own_name, released_name
from srum_blip3o.qwen import Qwen, load_qwen
from srum_blip3o.qwen_config import Extras, language_config, read_extras
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Weightless
from srum_plugins.errors import CheckpointError, ConfigError
from srum_plugins.hub import local_folder
from srum_plugins.qwen_tokenizer import FILES, holds_tokenizer
from srum_plugins.weights import Shapes, save_weights, shapes, weight_files

DECODER = "diffusion-decoder"
TOWER = "model.gen_vision_tower."
PATCHES = 32
"""Of the tower, along one side (blip3o.md 2.2)."""


@dataclass(frozen=True)
class Release:
    """A checkpoint folder of which only the small files and the headers were read: its parts fit one another.
    ``files`` hold the weights of all but the pixel decoder; ``tower`` None is a checkpoint without one. ``tokenizer``
    is the folder of Qwen2.5-VL's, None if the checkpoint has its own."""

    folder: Path
    files: tuple[Path, ...]
    dimensions: Dimensions
    tower: StoredTower | None
    tokenizer: Path | None


def read_release(options: AdapterOptions, folder: Path) -> Release:
    """What a folder holds.

    Raises:
        CheckpointError: it holds no BLIP3o, or one whose parts do not fit one another.
        ConfigError: ``tokenizer`` is given for a checkpoint that has its own.
    """
    files = weight_files(folder, "model")
    stored = shapes(files)
    language, prior = language_config(folder), prior_config(stored, folder)
    width = language.text_config.hidden_size
    if width != prior.condition:
        raise CheckpointError(
            f"{folder}: the prior is conditioned on {prior.condition} numbers, and the language model has {width}"
        )
    _refuse_disagreement(read_extras(folder), prior, folder)
    decoder, tower = read_decoder(folder / DECODER, prior.channels), _tower(options, files, stored)
    if tower is not None and (tower.config.width != prior.channels or tower.config.side % prior.grid):
        raise CheckpointError(
            f"the EVA tower of {options.tower or folder} gives {tower.config.width} channels on {tower.config.side} "
            f"patches a side, and the prior takes {prior.channels} on {prior.grid}"
        )
    dimensions = Dimensions(language, prior, decoder, None if tower is None else tower.config)
    return Release(folder, files, dimensions, tower, _tokenizer(options, folder))


def build(options: AdapterOptions, device: str, attention: Attention | None = None) -> Blip3oAdapter:
    """Load the checkpoint. What its small files and headers tell is checked before any weight is read.

    Raises:
        CheckpointError: the folder holds no BLIP3o, or a damaged one.
        ConfigError: ``checkpoint`` is no place, or ``tokenizer`` is not needed.
    """
    release = read_release(options, local_folder(options.checkpoint, options.revision))
    folder, place, dtype = release.folder, torch.device(device), getattr(torch, options.dtype)
    qwen = load_qwen(folder, place, dtype, kernel=attention, tokenizer_folder=release.tokenizer)
    config = release.dimensions.prior
    with torch.device("meta"):
        prior = Prior(config, attention)
    load_prior(prior, release.files, place, dtype)
    decoder = load_decoder(folder / DECODER, config.channels, place, dtype)
    return Blip3oAdapter(
        qwen,
        prior.eval(),
        decoder,
        Conditions(qwen.condition, conditions_identity(options, qwen, attention), cache_folder()),
        None if release.tower is None else partial(release.tower.load, place, dtype),
        partial(write_release, folder),
        options.answer_tokens,
    )


def cannot_encode(options: AdapterOptions) -> str:
    """Why images could not be encoded, and what to do; empty if they can. The headers tell.

    Raises:
        CheckpointError: as :func:`read_release`.
        ConfigError: ``checkpoint`` is no place.
    """
    release = read_release(options, local_folder(options.checkpoint, options.revision))
    return NO_TOWER if release.tower is None else ""


def conditions_identity(options: AdapterOptions, qwen: Qwen, attention: Attention | None) -> str:
    """What conditions depend on beside prompt and queries: the checkpoint, the chat that a prompt is put into, and what
    they are computed with, which decides their last bits."""
    kernel, device = type(attention), qwen.device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (options.identity, qwen.tokenizer.drawing(""), options.dtype, card)
    versions = (f"{kernel.__module__}.{kernel.__qualname__}", torch.__version__, transformers.__version__)
    return repr((*parts, *versions))


def without_weights(options: AdapterOptions) -> Weightless:
    """The same model without memory; nothing but small files and headers is read, and nothing is downloaded.

    Raises:
        CheckpointError: as :func:`read_release`, or the checkpoint is not on this machine.
        ConfigError: ``checkpoint`` is no place.
    """
    release = read_release(options, local_folder(options.checkpoint, options.revision, download=False))
    return weightless(release.dimensions, getattr(torch, options.dtype), options.answer_tokens)


def heads(options: AdapterOptions) -> tuple[Heads, ...]:
    """See :meth:`Dimensions.heads`.

    Raises:
        CheckpointError: as :func:`build`.
    """
    release = read_release(options, local_folder(options.checkpoint, options.revision))
    return release.dimensions.heads(options.dtype)


def prior_config(stored: Shapes, folder: Path) -> PriorConfig:
    """The prior's dimensions, which no config states, from the shapes of its weights.

    Raises:
        CheckpointError: there is no prior.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in stored:
            raise CheckpointError(f"{folder} holds no BLIP3o: {name} is missing from its weights")
        return stored[name]

    _, queries, condition = shape(QUERIES)
    layers = {name.removeprefix(f"{DIT}layers.").split(".")[0] for name in stored if name.startswith(f"{DIT}layers.")}
    return PriorConfig(
        condition=condition,
        channels=shape(f"{DIT}patch_embedder.proj.weight")[0],
        layers=len(layers),
        heads=shape(f"{DIT}layers.0.gate")[0],
        queries=queries,
    )


def _tower(options: AdapterOptions, files: Sequence[Path], stored: Shapes) -> StoredTower | None:
    """The EVA tower, of its own file, or of the checkpoint if that holds one."""
    if options.tower is not None:
        return find_tower([Path(options.tower).expanduser()])
    return find_tower(files) if any(name.startswith(TOWER) for name in stored) else None


def _tokenizer(options: AdapterOptions, folder: Path) -> Path | None:
    """Where Qwen2.5-VL's own tokenizer is; None if the checkpoint has one."""
    if holds_tokenizer(folder):
        if options.tokenizer is not None:
            raise ConfigError(
                f"adapter.tokenizer is for checkpoints without tokenizer files; {folder} has them: leave it out"
            )
        return None
    if options.tokenizer is None:
        raise CheckpointError(
            f"{folder} holds no tokenizer, neither {FILES[0]} nor {FILES[1]} with merges.txt: give adapter.tokenizer, "
            "a folder with the tokenizer files of Qwen2.5-VL, such as those of Qwen/Qwen2.5-VL-7B-Instruct"
        )
    return Path(options.tokenizer).expanduser()


def _refuse_disagreement(extras: Extras, config: PriorConfig, folder: Path) -> None:
    """Raise CheckpointError where config.json and the prior's weights say different things."""
    told = {
        "n_query": (extras.n_query, config.queries),
        "gen_hidden_size": (extras.gen_hidden_size, config.channels),
        "gen_pooling": (PATCHES // extras.pool_stride, config.grid),
    }
    wrong = [f"{name} makes {said}, the prior {has}" for name, (said, has) in told.items() if said != has]
    if wrong:
        raise CheckpointError(f"{folder}: config.json does not fit the weights: {'; '.join(wrong)}")


def write_release(source: Path, prior: Prior, folder: Path) -> None:
    """Write a folder of the same layout, which the original code reads too: files that hold weights of the prior with
    these as they are now, under their names, everything else as it was. A weight that moved is written in its dtype, or
    in the model's if that is wider: what training added may be less than the narrower one can hold."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {released_name(name): tensor for name, tensor in prior.state_dict().items()}
    for entry in sorted(source.rglob("*")):
        target = folder / entry.relative_to(source)
        if entry.is_dir():
            target.mkdir(exist_ok=True)
        elif entry.suffix == ".safetensors" and entry.parent == source and (changed := _rewritten(entry, own)):
            save_weights(changed, target)
        else:
            shutil.copyfile(entry, target)


def _rewritten(file: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds, with the prior's weights as they are now; empty if it holds none of them. One that did not
    move stays as it is stored, which may be wider than what it was loaded in."""
    with safe_open(file, framework="pt", device="cpu") as handle:
        names = list(handle.keys())
        if not any(own_name(name) is not None for name in names):
            return {}
        tensors = {name: handle.get_tensor(name) for name in names}
    for name in [name for name in names if name in own]:
        now, stored = own[name].cpu(), tensors[name]
        if not torch.equal(stored.to(now.dtype), now):
            tensors[name] = now.to(torch.promote_types(now.dtype, stored.dtype))
    return tensors
