"""Samples made of pieces, packed into one sequence of tokens, with BAGEL's mask and position rules.

The exact mask is "a query sees a key of its own sample if the key is not later, or both are in the
same image block; but keys of a noised block are seen from inside that block only"; text advances the position by its
length, an image by one, a noised image by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor


class PieceKind(Enum):
    """What a piece is made of."""

    TEXT = "text"
    VISION = "vision"
    LATENT = "latent"


@dataclass(frozen=True)
class Piece:
    """One split of a sample.

    Text has ``ids`` with its bos and eos already in place. Images have ``count`` patches (wrapped in boi and eoi when
    packed) and ``noised`` says whether the block is the one to be denoised. Pieces of different ``branch`` > 0 of a
    sample do not see each other and all continue from the end of the trunk (branch 0): several questions on one image.
    """

    kind: PieceKind
    ids: tuple[int, ...] = ()
    count: int = 0
    noised: bool = False
    branch: int = 0


@dataclass(frozen=True)
class Packed:
    """Index tensors of a batch of samples, made once and shared by all layers.

    Tokens are kept in two streams, ``und`` (text, markers, vision patches) and ``gen`` (latents), each in packed order.
    ``batch`` samples padded to ``length`` tokens are the attention layout; ``und_cells`` and ``gen_cells`` are each
    stream token's place in it, flattened, and ``mask`` (B, 1, L, L) is true where a query may see a key. ``positions``
    are RoPE positions in cat(und, gen) order. ``text_rows`` are the rows of the und stream that hold ``text_ids``
    (markers included), ``vision_rows`` those that hold vision patches, in packed order. ``ends`` (B,) are the positions
    at which a next trunk piece of each sample would start.
    """

    batch: int
    length: int
    mask: Tensor
    positions: Tensor
    und_cells: Tensor
    gen_cells: Tensor
    text_rows: Tensor
    text_ids: Tensor
    vision_rows: Tensor
    ends: Tensor


def pack(samples: Sequence[Sequence[Piece]], boi: int, eoi: int, device: torch.device | None = None) -> Packed:
    """Pack samples, each a sequence of pieces."""
    rows = [_flatten(sample, boi, eoi) for sample in samples]
    batch, length = len(rows), max((len(row.ids) for row in rows), default=0)
    split = torch.full((batch, length), -1)
    block = torch.zeros(batch, length, dtype=torch.bool)
    noised = torch.zeros(batch, length, dtype=torch.bool)
    branch = torch.zeros(batch, length, dtype=torch.long)
    position = torch.zeros(batch, length, dtype=torch.long)
    ids = torch.full((batch, length), _PAD)
    for index, row in enumerate(rows):
        size = len(row.ids)
        ids[index, :size] = torch.tensor(row.ids)
        split[index, :size] = torch.tensor(row.splits)
        block[index, :size] = torch.tensor(row.blocks)
        noised[index, :size] = torch.tensor(row.noised)
        branch[index, :size] = torch.tensor(row.branches)
        position[index, :size] = torch.tensor(row.positions)
    same = split[:, :, None] == split[:, None, :]
    order = torch.arange(length)
    seen = (order[None, :] <= order[:, None])[None] | (same & block[:, :, None])
    seen &= ~noised[:, None, :] | same
    seen &= (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    valid = split >= 0
    seen &= valid[:, :, None] & valid[:, None, :]
    # A padded query sees itself, so that no row of the mask is empty; nothing reads its output.
    seen |= torch.eye(length, dtype=torch.bool) & ~valid[:, :, None]
    flat = ids.flatten()
    und_cells = torch.nonzero((flat >= 0) | (flat == _VISION)).flatten()
    gen_cells = torch.nonzero(flat == _LATENT).flatten()
    cells = torch.cat([und_cells, gen_cells])
    und_ids = flat[und_cells]
    packed = Packed(
        batch=batch,
        length=length,
        mask=seen[:, None],
        positions=position.flatten()[cells],
        und_cells=und_cells,
        gen_cells=gen_cells,
        text_rows=torch.nonzero(und_ids >= 0).flatten(),
        text_ids=und_ids[und_ids >= 0],
        vision_rows=torch.nonzero(und_ids == _VISION).flatten(),
        ends=torch.tensor([row.end for row in rows]),
    )
    tensors = {name: value.to(device) for name, value in vars(packed).items() if isinstance(value, Tensor)}
    return replace(packed, **tensors)  # type: ignore[arg-type]  # only the tensors are replaced


# Token ids are >= 0; what is not a token of the vocabulary is marked below zero.
_VISION, _LATENT, _PAD = -1, -2, -3


@dataclass
class _Row:
    ids: list[int]
    splits: list[int]
    blocks: list[bool]
    noised: list[bool]
    branches: list[int]
    positions: list[int]
    end: int = 0


def _flatten(sample: Sequence[Piece], boi: int, eoi: int) -> _Row:
    row = _Row([], [], [], [], [], [])
    next_position = {0: 0}
    for number, piece in enumerate(sample):
        start = next_position.get(piece.branch, next_position[0])
        if piece.kind is PieceKind.TEXT:
            ids = list(piece.ids)
            positions = list(range(start, start + len(ids)))
            next_position[piece.branch] = start + len(ids)
        else:
            patch = _VISION if piece.kind is PieceKind.VISION else _LATENT
            ids = [boi, *[patch] * piece.count, eoi]
            positions = [start] * len(ids)
            next_position[piece.branch] = start + (0 if piece.noised else 1)
        row.ids += ids
        row.positions += positions
        row.splits += [number] * len(ids)
        row.blocks += [piece.kind is not PieceKind.TEXT] * len(ids)
        row.noised += [piece.noised] * len(ids)
        row.branches += [piece.branch] * len(ids)
    row.end = next_position[0]
    return row
