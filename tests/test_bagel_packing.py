"""The packed layout against the mask and position rules, written out token by token."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from srum_bagel.packing import Piece, PieceKind, pack

BOI, EOI = 90, 91

texts = st.lists(st.integers(0, 50), min_size=1, max_size=4).map(lambda ids: Piece(PieceKind.TEXT, tuple(ids)))
visions = st.integers(1, 4).map(lambda count: Piece(PieceKind.VISION, count=count))
latents = st.tuples(st.integers(1, 4), st.booleans()).map(
    lambda drawn: Piece(PieceKind.LATENT, count=drawn[0], noised=drawn[1])
)
branches = st.lists(st.tuples(texts, st.integers(1, 3)), max_size=3).map(
    lambda drawn: [Piece(PieceKind.TEXT, piece.ids, branch=branch) for piece, branch in drawn]
)
samples = st.lists(
    st.tuples(st.lists(st.one_of(texts, visions, latents), min_size=1, max_size=4), branches).map(
        lambda drawn: drawn[0] + sorted(drawn[1], key=lambda piece: piece.branch)
    ),
    min_size=1,
    max_size=3,
)


def tokens(sample: list[Piece]) -> list[tuple[int, Piece]]:
    """(number of the piece, piece) of every token of a sample."""
    sizes = [len(piece.ids) if piece.kind is PieceKind.TEXT else piece.count + 2 for piece in sample]
    return [
        (number, piece) for number, (piece, size) in enumerate(zip(sample, sizes, strict=True)) for _ in range(size)
    ]


@given(samples)
def test_mask_is_the_rule(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    for row, sample in enumerate(batch):
        listed = tokens(sample)
        for q, (q_piece, q_kind) in enumerate(listed):
            for k, (k_piece, k_kind) in enumerate(listed):
                same_block = q_piece == k_piece and q_kind.kind is not PieceKind.TEXT
                allowed = k <= q or same_block
                hidden = k_kind.noised and q_piece != k_piece
                apart = k_kind.branch not in (0, q_kind.branch)
                assert bool(packed.mask[row, 0, q, k]) == (allowed and not hidden and not apart)
        assert not packed.mask[row, 0, : len(listed), len(listed) :].any()


@given(samples)
def test_streams_hold_every_token_once(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    cells = torch.cat([packed.und_cells, packed.gen_cells]).tolist()
    expected = [row * packed.length + place for row, sample in enumerate(batch) for place in range(len(tokens(sample)))]
    assert sorted(cells) == expected
    assert len(packed.gen_cells) == sum(p.count for sample in batch for p in sample if p.kind is PieceKind.LATENT)
    assert len(packed.vision_rows) == sum(p.count for sample in batch for p in sample if p.kind is PieceKind.VISION)


@given(samples)
def test_positions(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    cells = torch.cat([packed.und_cells, packed.gen_cells]).tolist()
    position = dict(zip(cells, packed.positions.tolist(), strict=True))
    for row, sample in enumerate(batch):
        trunk, place, reached = 0, row * packed.length, {}
        for piece in sample:
            start = reached.get(piece.branch, trunk) if piece.branch else trunk
            size = len(piece.ids) if piece.kind is PieceKind.TEXT else piece.count + 2
            if piece.kind is PieceKind.TEXT:
                expected, end = list(range(start, start + size)), start + size
            else:
                expected, end = [start] * size, start + (0 if piece.noised else 1)
            assert [position[place + i] for i in range(size)] == expected
            place += size
            if piece.branch:
                reached[piece.branch] = end
            else:
                trunk = end
        assert int(packed.ends[row]) == trunk
