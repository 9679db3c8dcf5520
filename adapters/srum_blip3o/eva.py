"""EVA-CLIP-E/14+, the tower whose features the prior draws and the pixel decoder paints from (blip3o.md 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.pixels import on_white
from srum_plugins.weights import PICKLES, Shapes, opened, refuse_misfits, shapes

GRID = 8
"""Side of the pooled grid, in cells (``gen_pooling`` = ``early_pool2d_4`` of 32 patches)."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

UNUSED = ("norm.", "fc_norm.", "head.")
"""How names of weights begin that come after the last block. The features are taken before them, so that a file may
hold them or not."""


@dataclass(frozen=True)
class EvaConfig:
    """Dimensions of the tower; the defaults are EVA-CLIP-E/14+ at 448 pixels."""

    image: int = 448
    patch: int = 14
    width: int = 1792
    depth: int = 64
    heads: int = 16
    mlp: int = 15360
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for whole, part in (("image", "patch"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ContractError(
                    f"the EVA tower's {whole} {getattr(self, whole)} is no multiple of its {part} {getattr(self, part)}"
                )

    @property
    def side(self) -> int:
        """Patches a side."""
        return self.image // self.patch


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, side * side, D), row by row."""
        tokens: Tensor = self.proj(pixels).flatten(2).transpose(1, 2)
        return tokens


class SelfAttention(nn.Module):
    """Every token sees every token; one matrix gives queries, keys and values, in this order."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        hidden: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return hidden


class Block(nn.Module):
    """Post-norm: the norms are on what is added, not on what is read."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(config)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        tokens = tokens + self.norm1(self.attn(tokens))
        tokens = tokens + self.norm2(self.mlp(tokens))
        return tokens


class EvaTower(nn.Module):
    """The visual tower, its weights named as in the checkpoint. Without final norm and head (blip3o.md 2.2)."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.side**2 + 1, config.width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S), as :func:`preprocess` gives them, to features (B, side * side, D) of the
        patches, row by row.

        Raises:
            ContractError: the pixels have another size.
        """
        size = self.config.image
        if pixels.shape[1:] != (3, size, size):
            raise ContractError(f"the EVA tower reads pixels (B, 3, {size}, {size}), got {tuple(pixels.shape)}")
        patches = self.patch_embed(pixels)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 1:]

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image], grid: int = GRID) -> Tensor:
        """Images of any size to pooled features (B, D, grid, grid) in float32, on the tower's device: what the prior
        is trained to draw. Nothing is scaled or shifted (blip3o.md 2.2)."""
        pixels = preprocess(images, self.config.image).to(self.pos_embed.device, self.pos_embed.dtype)
        return pooled(self(pixels).float(), grid)


def pooled(features: Tensor, grid: int = GRID) -> Tensor:
    """Features (B, side * side, C), row by row, to the means (B, C, grid, grid) over squares of side / grid patches.

    Raises:
        ContractError: the features are of no square, or its side is no multiple of ``grid``.
    """
    side = round(features.shape[1] ** 0.5)
    if side**2 != features.shape[1] or side % grid:
        raise ContractError(
            f"cannot pool {features.shape[1]} features to {grid} x {grid}: they must be a square whose side is a "
            f"multiple of {grid}"
        )
    return F.avg_pool2d(features.transpose(1, 2).reshape(len(features), -1, side, side), side // grid)


def as_tokens(features: Tensor) -> Tensor:
    """Features (B, C, h, w) to tokens (B, h * w, C): cell (r, c) becomes token w * r + c."""
    return features.flatten(2).transpose(1, 2)


def preprocess(images: Sequence[Image.Image], size: int = EvaConfig.image) -> Tensor:
    """Images of any size and mode to normalised pixels (B, 3, size, size) in float32: what is transparent becomes
    white, the short side ``size`` pixels (bicubic), and the middle is kept (blip3o.md 2.2).

    Raises:
        ContractError: there is no image.
    """
    if not images:
        raise ContractError("there is no image to prepare for the EVA tower")
    squares = np.stack([np.asarray(_square(on_white(image), size)) for image in images])
    unit = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    return (unit - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _square(image: Image.Image, size: int) -> Image.Image:
    short = min(image.size)
    width, height = (max(size, int(size * side / short)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class StoredTower:
    """A tower in files of which only the headers were read: it fits, and is behind ``prefix``."""

    files: tuple[Path, ...]
    prefix: str
    config: EvaConfig

    def load(self, device: torch.device, dtype: torch.dtype) -> EvaTower:
        """The frozen tower.

        Raises:
            CheckpointError: a file turns out damaged.
        """
        with torch.device("meta"):
            tower = EvaTower(self.config)
        wanted = tower.state_dict()
        loaded: dict[str, Tensor] = {}
        for file in self.files:
            with opened(file) as handle:
                for name in list(handle.keys()):
                    own = name.removeprefix(self.prefix)
                    if name.startswith(self.prefix) and own in wanted:
                        # A copy, because what safetensors gives on the CPU is a window on the file.
                        loaded[own] = handle.get_tensor(name).to(device, dtype, copy=True)
        tower.load_state_dict(loaded, assign=True)
        return tower.eval().requires_grad_(False)


def find_tower(files: Sequence[Path], config: EvaConfig | None = None) -> StoredTower:
    """The tower in safetensors files: one of its own, or the shards of a checkpoint that holds it under
    ``model.gen_vision_tower.vision_tower.model.`` or any other prefix (blip3o.md 1.4). The prefix is found by the name
    ``cls_token``, and what does not begin with it is left alone. ``config`` None takes the dimensions from the shapes.

    Raises:
        CheckpointError: a file is pickled or unreadable, there is no tower or more than one, or a weight is missing,
            unexpected or of another shape.
    """
    pickled = [file.name for file in files if file.suffix in PICKLES]
    if pickled:
        raise CheckpointError(
            f"cannot read the EVA tower from {', '.join(pickled)}: pickles are not read, because loading one runs "
            "whatever code is in it; convert the weights to safetensors first"
        )
    if not files:
        raise CheckpointError("there is no file to read the EVA tower from")
    source = files[0] if len(files) == 1 else files[0].parent
    stored = shapes(files)
    prefixes = [name.removesuffix("cls_token") for name in stored if f".{name}".endswith(".cls_token")]
    if len(prefixes) != 1:
        many = f"{len(prefixes)} EVA towers, under {', '.join(prefixes)}" if prefixes else "no EVA tower"
        raise CheckpointError(f"{source} holds {many}: exactly one weight must be named cls_token behind its prefix")
    prefix = prefixes[0]
    found = {
        name.removeprefix(prefix): shape
        for name, shape in stored.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(UNUSED)
    }
    config = config or _dimensions(found, source)
    with torch.device("meta"):
        tower = EvaTower(config)
    refuse_misfits(found, {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}, source)
    return StoredTower(tuple(files), prefix, config)


def load_tower(
    files: Sequence[Path], device: torch.device, dtype: torch.dtype, config: EvaConfig | None = None
) -> EvaTower:
    """The frozen tower of files, of the released dimensions if no others are given.

    Raises:
        CheckpointError: see :func:`find_tower`; then nothing was loaded.
    """
    return find_tower(files, config or EvaConfig()).load(device, dtype)


def _dimensions(found: Shapes, source: object) -> EvaConfig:
    """The dimensions that shapes tell; the number of heads shows in none and is the release's."""
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    if missing := [name for name in needed if name not in found]:
        raise CheckpointError(f"{source} holds no whole EVA tower: {', '.join(missing)} is missing")
    width, _, patch, _ = found[needed[0]]
    side = round((found[needed[1]][1] - 1) ** 0.5)
    depth = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    return EvaConfig(image=side * patch, patch=patch, width=width, depth=depth, mlp=found[needed[2]][0])
