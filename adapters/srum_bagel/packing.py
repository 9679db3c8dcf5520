"""Samples made of pieces, packed into one sequence of tokens, with BAGEL's attention and position rules.

A query sees a key of its own sample if the key is not later, or both are in the same image block; but keys of a noised
block are seen from inside that block only. So texts make one causal call of attention and images one full call, with a
segment for each of them, and no mask. Text advances the position by its length, an image by one, a noised image by
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate

import torch
from torch import Tensor

from srum_plugins.attention.contract import Segments


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

    @property
    def size(self) -> int:
        """Tokens, markers included."""
        return len(self.ids) if self.kind is PieceKind.TEXT else self.count + 2


@dataclass(frozen=True)
class Context:
    """What a sample goes on from: ``length`` entries of a memory from ``start`` on; ``position`` is that of what
    follows."""

    start: int = 0
    length: int = 0
    position: int = 0


@dataclass(frozen=True)
class Call:
    """One call of attention: ``queries`` (Tq,) are rows of cat(und, gen), ``keys`` (Tk,) places in the memory; None
    stands for the whole memory as it is."""

    queries: Tensor
    keys: Tensor | None
    segments: Segments


@dataclass(frozen=True)
class Packed:
    """Index tensors of a batch of samples, made once and shared by all layers.

    Tokens are kept in two streams, ``und`` (text, markers, vision patches) and ``gen`` (latents), each in packed order:
    ``und_tokens`` and ``gen_tokens`` are how many. ``positions`` are RoPE positions in cat(und, gen) order. The memory
    holds keys and values sample by sample, what a sample goes on from before its own: ``memory`` (M,) are its rows in
    cat(past, und, gen). ``back`` (T,) says where each row of cat(und, gen) is in the joined outputs of ``calls``.
    ``text_rows`` are the rows of the und stream that hold ``text_ids`` (markers included), ``vision_rows`` those that
    hold vision patches, in packed order. ``lengths`` are each sample's entries in the memory, ``ends`` the positions at
    which a next trunk piece of it would start.
    """

    und_tokens: int
    gen_tokens: int
    positions: Tensor
    memory: Tensor
    calls: tuple[Call, ...]
    back: Tensor
    text_rows: Tensor
    text_ids: Tensor
    vision_rows: Tensor
    lengths: tuple[int, ...]
    ends: tuple[int, ...]


# Token ids are >= 0; what is not a token of the vocabulary is marked below zero.
_VISION, _LATENT = -1, -2

Range = tuple[int, int]


@dataclass
class _Run:
    """Neighbouring tokens that ask together: those in ``tokens`` of the packed samples see ``keys`` of the memory."""

    tokens: Range
    keys: list[Range]
    text: bool
    branch: int

    @property
    def asked(self) -> int:
        return self.tokens[1] - self.tokens[0]

    @property
    def seen(self) -> int:
        return sum(end - start for start, end in self.keys)


@dataclass
class _Sequence:
    """All samples, token by token, as far as they are read."""

    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    memory: list[Range] = field(default_factory=list)  # entries of the past, and tokens counted from its end
    runs: list[_Run] = field(default_factory=list)
    tokens: int = 0
    entries: int = 0


def pack(
    samples: Sequence[Sequence[Piece]],
    boi: int,
    eoi: int,
    device: torch.device | None = None,
    contexts: Sequence[Context] = (),
    past: int = 0,
) -> Packed:
    """Pack samples, each a sequence of pieces; with ``contexts``, in a memory of ``past`` entries, each goes on from
    its own."""
    given = contexts or [Context()] * len(samples)
    whole = _Sequence()
    lengths, ends = [], []
    for sample, context in zip(samples, given, strict=True):
        before = whole.entries
        ends.append(_append(whole, sample, context, past, boi, eoi))
        lengths.append(whole.entries - before)
    ids = torch.cat([torch.empty(0, dtype=torch.long), *whole.ids])
    latent = ids == _LATENT
    order = torch.cat([torch.nonzero(~latent).flatten(), torch.nonzero(latent).flatten()])  # packed place of each row
    row = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)))  # and the row of each packed place
    und_ids = ids[~latent]
    # What lies in the past is found there; the tokens' own entries are rows of the streams behind it.
    memory = _indices(whole.memory)
    own = memory >= past
    memory[own] = past + row[memory[own] - past]
    calls = tuple(
        _call(runs, row, whole.entries, causal, device)
        for causal, runs in (
            (True, [run for run in whole.runs if run.text and run.asked > 1]),
            (False, [run for run in whole.runs if not run.text or run.asked == 1]),  # one query is level with the last
        )
        if runs
    )
    asked = torch.cat([torch.empty(0, dtype=torch.long), *(call.queries for call in calls)])
    back = torch.empty_like(asked).index_copy(0, asked, torch.arange(len(asked)))
    positions = torch.cat([torch.empty(0, dtype=torch.long), *whole.positions])[order]
    return Packed(
        und_tokens=len(und_ids),
        gen_tokens=len(ids) - len(und_ids),
        positions=positions.to(device),
        memory=memory.to(device),
        calls=tuple(_moved(call, device) for call in calls),
        back=back.to(device),
        text_rows=torch.nonzero(und_ids >= 0).flatten().to(device),
        text_ids=und_ids[und_ids >= 0].to(device),
        vision_rows=torch.nonzero(und_ids == _VISION).flatten().to(device),
        lengths=tuple(lengths),
        ends=tuple(ends),
    )


def _append(whole: _Sequence, sample: Sequence[Piece], context: Context, past: int, boi: int, eoi: int) -> int:
    """Read one sample; returns the position at which it ends."""
    # Entries of the memory that what follows in the trunk sees, and that what follows in a branch sees besides.
    trunk: list[Range] = [(whole.entries, whole.entries + context.length)] if context.length else []
    branches: dict[int, list[Range]] = {}
    next_position = {0: context.position}
    if context.length:
        whole.memory.append((context.start, context.start + context.length))
        whole.entries += context.length
    first = len(whole.runs)
    for piece in sample:
        if piece.size == 0:
            continue
        start = next_position.get(piece.branch, next_position[0])
        text = piece.kind is PieceKind.TEXT
        if text:
            whole.ids.append(torch.tensor(piece.ids))
            whole.positions.append(torch.arange(start, start + piece.size))
            next_position[piece.branch] = start + piece.size
        else:
            mark = _VISION if piece.kind is PieceKind.VISION else _LATENT
            inside = torch.full((piece.count,), mark)
            whole.ids.append(torch.cat([torch.tensor([boi]), inside, torch.tensor([eoi])]))
            whole.positions.append(torch.full((piece.size,), start))
            next_position[piece.branch] = start + (0 if piece.noised else 1)
        tokens = (whole.tokens, whole.tokens + piece.size)
        own = (whole.entries, whole.entries + piece.size)
        whole.memory.append((past + tokens[0], past + tokens[1]))
        whole.tokens, whole.entries = tokens[1], own[1]
        last = whole.runs[-1] if len(whole.runs) > first else None
        if text and last is not None and last.text and last.branch == piece.branch:  # goes on where the last one ended
            last.tokens = (last.tokens[0], tokens[1])
            _extend(last.keys, own)
        else:
            keys = list(trunk)
            for seen in [*branches.get(piece.branch, []), own]:
                _extend(keys, seen)
            whole.runs.append(_Run(tokens, keys, text, piece.branch))
        if not piece.noised:
            _extend(trunk if piece.branch == 0 else branches.setdefault(piece.branch, []), own)
    return next_position[0]


def _extend(ranges: list[Range], more: Range) -> None:
    """Add a range; one that begins where the last ends makes it longer."""
    if ranges and ranges[-1][1] == more[0]:
        ranges[-1] = (ranges[-1][0], more[1])
    else:
        ranges.append(more)


def _indices(ranges: Sequence[Range]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.long), *(torch.arange(start, end) for start, end in ranges)])


def _call(runs: Sequence[_Run], row: Tensor, entries: int, causal: bool, device: torch.device | None) -> Call:
    queries = row[_indices([run.tokens for run in runs])]
    ranges: list[Range] = []
    for run in runs:
        for one in run.keys:
            _extend(ranges, one)
    keys = None if ranges == [(0, entries)] else _indices(ranges)
    return Call(queries, keys, Segments.of([run.asked for run in runs], [run.seen for run in runs], causal, device))


def _moved(call: Call, device: torch.device | None) -> Call:
    """With its indices on the device; the segments are there."""
    return Call(call.queries.to(device), None if call.keys is None else call.keys.to(device), call.segments)


def starts(lengths: Sequence[int]) -> list[int]:
    """Where each of these lengths begins if they follow each other."""
    return [0, *accumulate(lengths)][:-1]
