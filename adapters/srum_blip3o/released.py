"""A released BLIP3o folder: its parts are read strictly, and saved under the names that they were read from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from srum_blip3o.adapter import Blip3oAdapter
from srum_blip3o.attention import attention_heads
from srum_blip3o.conditions import Conditions
from srum_blip3o.decoder import load_decoder
from srum_blip3o.eva import EvaTower, find_tower
from srum_blip3o.options import AdapterOptions
from srum_blip3o.prior import Prior, PriorConfig
from srum_blip3o.prior_weights import DIT, QUERIES, load_prior, own_name, released_name
from srum_blip3o.qwen import load_qwen
from srum_blip3o.qwen_config import Extras
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.errors import CheckpointError
from srum_plugins.hub import folder_identity, local_folder
from srum_plugins.weights import Shapes, save_weights, shapes, weight_files

DECODER = "diffusion-decoder"
CACHE = "SRUM_CACHE"
"""The environment variable that names a folder for what may be kept for other runs."""
TOWER = "model.gen_vision_tower."
PATCHES = 32
"""Of the tower, along one side (blip3o.md 2.2)."""


def build(options: AdapterOptions, device: str, attention: Attention | None = None) -> Blip3oAdapter:
    """Load the checkpoint.

    Raises:
        CheckpointError: the folder holds no BLIP3o, or a damaged one.
        ConfigError: ``checkpoint`` is no place.
    """
    folder, place, dtype = local_folder(options.checkpoint, options.revision), torch.device(device), options.dtype
    kind = getattr(torch, dtype)
    files = weight_files(folder, "model")
    stored = shapes(files)
    config = prior_config(stored, folder)
    qwen = load_qwen(folder, place, kind, kernel=attention)
    if qwen.width != config.condition:
        raise CheckpointError(
            f"{folder}: the prior is conditioned on {config.condition} numbers, and the language model has {qwen.width}"
        )
    _refuse_disagreement(qwen.extras, config, folder)
    with torch.device("meta"):
        prior = Prior(config, attention)
    load_prior(prior, files, place, kind)
    decoder = load_decoder(folder / DECODER, config.channels, place, kind)
    kernel = type(attention).__name__
    identity = f"{folder_identity(options.checkpoint, options.revision)} {dtype} {place.type} {kernel}"
    keep = os.environ.get(CACHE)
    return Blip3oAdapter(
        qwen,
        prior.eval(),
        decoder,
        Conditions(qwen.condition, identity, Path(keep).expanduser() if keep else None),
        _tower(options, files, stored, place, kind),
        partial(write_release, folder),
        options.answer_tokens,
    )


def heads(options: AdapterOptions) -> tuple[Heads, ...]:
    """The heads of every attention: of the language model, of its eyes, and of the prior.

    Raises:
        CheckpointError: the folder holds no BLIP3o.
    """
    folder = local_folder(options.checkpoint, options.revision)
    prior = prior_config(shapes(weight_files(folder, "model")), folder)
    own = Heads(prior.heads, prior.heads, prior.channels // prior.heads, options.dtype)
    return (*attention_heads(folder, options.dtype), own)


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


def _tower(
    options: AdapterOptions, files: Sequence[Path], stored: Shapes, device: torch.device, dtype: torch.dtype
) -> Callable[[], EvaTower] | None:
    """What loads the EVA tower, of its own file, or of the checkpoint if that holds one. That it fits is known now."""
    if options.tower is not None:
        found = find_tower([Path(options.tower).expanduser()])
    elif any(name.startswith(TOWER) for name in stored):
        found = find_tower(files)
    else:
        return None
    return partial(found.load, device, dtype)


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
    these as they are now, under their names and in their dtype, everything else as it was."""
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
            tensors[name] = now.to(stored.dtype)
    return tensors
