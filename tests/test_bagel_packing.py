"""The packed layout against the mask and position rules, written out token by token."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from srum_bagel.packing import Context, Packed, Piece, PieceKind, pack, starts

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


def seen(packed: Packed) -> set[tuple[int, int]]:
    """(row of the streams, place in the memory) of every query and every key that it sees, as the calls have it."""
    pairs: list[tuple[int, int]] = []
    for call in packed.calls:
        queries = call.queries.tolist()
        keys = list(range(len(packed.memory))) if call.keys is None else call.keys.tolist()
        query = key = 0
        for asked, shown in zip(call.segments.queries, call.segments.keys, strict=True):
            for number in range(asked):
                visible = shown - asked + number + 1 if call.segments.causal else shown
                pairs += [(queries[query + number], place) for place in keys[key : key + visible]]
            query, key = query + asked, key + shown
    assert len(pairs) == len(set(pairs))
    return set(pairs)


def streams(batch: list[list[Piece]]) -> list[tuple[int, int]]:
    """(sample, place in it) of every row of cat(und, gen)."""
    whole = [
        (token in latents_of(sample), (row, token)) for row, sample in enumerate(batch) for token in range(size(sample))
    ]
    return [place for latent, place in whole if not latent] + [place for latent, place in whole if latent]


def size(sample: list[Piece]) -> int:
    return len(tokens(sample))


def latents_of(sample: list[Piece]) -> set[int]:
    """The tokens of a sample that are latents, not their markers."""
    found, start = set(), 0
    for piece in sample:
        if piece.kind is PieceKind.LATENT:
            found |= set(range(start + 1, start + 1 + piece.count))
        start += piece.size
    return found


def rule(sample: list[Piece], query: int, key: int) -> bool:
    """Whether one token of a sample may see another."""
    (q_number, q_piece), (k_number, k_piece) = tokens(sample)[query], tokens(sample)[key]
    same_block = q_number == k_number and q_piece.kind is not PieceKind.TEXT
    hidden = k_piece.noised and q_number != k_number
    apart = k_piece.branch not in (0, q_piece.branch)
    return (key <= query or same_block) and not hidden and not apart


@given(samples)
def test_calls_are_the_rule(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    rows = streams(batch)
    found = {(rows[query], rows[int(packed.memory[place])]) for query, place in seen(packed)}
    expected = {
        ((number, query), (number, key))
        for number, sample in enumerate(batch)
        for query in range(size(sample))
        for key in range(size(sample))
        if rule(sample, query, key)
    }
    assert found == expected
    assert len(packed.calls) <= 2  # one causal, one full


@given(st.lists(st.tuples(texts, texts, st.integers(0, 3)), min_size=1, max_size=4), st.randoms())
def test_samples_go_on_from_their_contexts(pairs: list[tuple[Piece, Piece, int]], random: Random) -> None:
    """What goes on from a context sees what it would see had both been packed together."""
    firsts, lengths = [first for first, _, _ in pairs], [first.size for first, _, _ in pairs]
    parents = [random.randrange(len(pairs)) for _ in pairs]
    contexts = [Context(starts(lengths)[row], lengths[row], 7 * row) for row in parents]
    later = [[second, *[Piece(PieceKind.LATENT, count=count, noised=True)] * (count > 0)] for _, second, count in pairs]
    packed = pack(later, BOI, EOI, contexts=contexts, past=sum(lengths))
    rows = [("past", row, place) for row, first in enumerate(firsts) for place in range(first.size)]
    rows += [("own", number, place) for number, place in streams(later)]
    own = rows[sum(lengths) :]
    found = {(own[query][1:], rows[int(packed.memory[place])]) for query, place in seen(packed)}
    expected = set()
    for number, (sample, parent) in enumerate(zip(later, parents, strict=True)):
        for query in range(size(sample)):
            expected |= {((number, query), ("past", parent, place)) for place in range(lengths[parent])}
            own_keys = [key for key in range(size(sample)) if rule(sample, query, key)]
            expected |= {((number, query), ("own", number, key)) for key in own_keys}
    assert found == expected
    assert packed.lengths == tuple(lengths[row] + size(sample) for row, sample in zip(parents, later, strict=True))
    assert packed.ends == tuple(7 * row + sample[0].size for row, sample in zip(parents, later, strict=True))


@given(samples)
def test_streams_hold_every_token_once(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    count = sum(size(sample) for sample in batch)
    assert sorted(packed.memory.tolist()) == sorted(packed.back.tolist()) == list(range(count))
    assert packed.gen_tokens == sum(p.count for sample in batch for p in sample if p.kind is PieceKind.LATENT)
    assert packed.und_tokens == count - packed.gen_tokens
    assert len(packed.vision_rows) == sum(p.count for sample in batch for p in sample if p.kind is PieceKind.VISION)
    assert sorted([*packed.text_rows.tolist(), *packed.vision_rows.tolist()]) == list(range(packed.und_tokens))


@given(samples)
def test_positions(batch: list[list[Piece]]) -> None:
    packed = pack(batch, BOI, EOI)
    position = dict(zip(streams(batch), packed.positions.tolist(), strict=True))
    for row, sample in enumerate(batch):
        trunk, place, reached = 0, 0, {}
        for piece in sample:
            start = reached.get(piece.branch, trunk) if piece.branch else trunk
            if piece.kind is PieceKind.TEXT:
                expected, end = list(range(start, start + piece.size)), start + piece.size
            else:
                expected, end = [start] * piece.size, start + (0 if piece.noised else 1)
            assert [position[row, place + i] for i in range(piece.size)] == expected
            place += piece.size
            if piece.branch:
                reached[piece.branch] = end
            else:
                trunk = end
        assert packed.ends[row] == trunk
