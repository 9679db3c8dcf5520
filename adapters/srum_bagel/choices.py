"""Scoring given answers: each one to a question about an image is a branch of one sample, whose trunk is the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srum_bagel.config import SpecialTokens
from srum_bagel.model import Bagel
from srum_bagel.packing import Piece, PieceKind

TOKENS = 2**11
"""Of images and questions that are read in one forward, if one image does not take more: on a CPU larger forwards are
slower."""
HEAD_ROWS = 128
"""Tokens whose logits are there at a time: 80 MB of float32 with the released vocabulary."""


@dataclass(frozen=True)
class Choosing:
    """A question by its ``number``: ``ids`` of its text, bos and eos included, and of each choice, without."""

    number: int
    ids: tuple[int, ...]
    choices: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Wanted:
    """A token of a choice, to be scored after the row ``place`` of what is read."""

    question: int
    choice: int
    place: int
    token: int


@dataclass(frozen=True)
class Sheet:
    """Questions about one image: the pieces of their sample, how many tokens its texts have (markers included), the
    ``places`` among them that are read, and what is wanted of these."""

    pieces: tuple[Piece, ...]
    texts: int
    places: tuple[int, ...]
    wanted: tuple[Wanted, ...]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return sum(piece.size for piece in self.pieces)


def sheet(image: Sequence[Piece], asked: Sequence[Choosing], tokens: SpecialTokens) -> Sheet:
    """A branch for every choice, which counts with all its tokens and its end. A question whose choices are single
    tokens needs one branch only: they are scored by what may follow."""
    pieces, places = list(image), list[int]()
    wanted: list[Wanted] = []
    texts, branch = 2 * len(pieces), 0
    for question in asked:
        short = all(len(choice) == 1 for choice in question.choices)
        for number, choice in enumerate(question.choices[:1] if short else question.choices):
            branch += 1
            answer = () if short else tuple(choice)
            pieces.append(Piece(PieceKind.TEXT, question.ids, branch=branch))
            pieces.append(Piece(PieceKind.TEXT, (tokens.bos, *answer), branch=branch))
            first, place = texts + len(question.ids), len(places)
            places += range(first, first + 1 + len(answer))
            texts = first + 1 + len(answer)
            if short:
                wanted += [Wanted(question.number, each, place, ids[0]) for each, ids in enumerate(question.choices)]
            else:
                steps = enumerate([*answer, tokens.eos])
                wanted += [Wanted(question.number, number, place + step, token) for step, token in steps]
    return Sheet(tuple(pieces), texts, tuple(places), tuple(wanted))


def within(sizes: Sequence[int], limit: int) -> Iterator[range]:
    """Neighbours whose sizes sum to the limit at most, as many as there may be; one alone may be larger."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def scores(model: Bagel, sheets: Sequence[Sheet], vision: Tensor) -> dict[int, list[float]]:
    """The log-probability of each choice, by the question's number. All sheets are read in one forward; ``vision``
    (T, D) are the tokens of their images."""
    places: list[int] = []
    rows: list[tuple[int, int]] = []
    texts = 0
    for one in sheets:
        rows += [(len(places) + each.place, each.token) for each in one.wanted]
        places += [texts + place for place in one.places]
        texts += one.texts
    packed = model.pack([one.pieces for one in sheets])
    read = packed.text_rows[torch.tensor(places, device=model.device)]
    hidden, _ = model.hidden(packed, vision, None, read)
    wanted = [each for one in sheets for each in one.wanted]
    found: dict[int, list[float]] = {}
    for each, value in zip(wanted, token_logprobs(model, hidden, rows), strict=True):
        own = found.setdefault(each.question, [])
        own += [0.0] * (each.choice + 1 - len(own))
        own[each.choice] += value
    return found


def token_logprobs(model: Bagel, hidden: Tensor, wanted: Sequence[tuple[int, int]]) -> list[float]:
    """For each (row, token) that is wanted, the log-probability of the token to follow the hidden state of the row. The
    rows (R, D) have their logits so many at a time, and nothing is read from the device before the end."""
    found = []
    for start in range(0, len(hidden), HEAD_ROWS):
        logits = model.language_model.lm_head(hidden[start : start + HEAD_ROWS]).float()
        own = [(row - start, token) for row, token in wanted if start <= row < start + HEAD_ROWS]
        rows, tokens = torch.tensor(own, device=hidden.device).unbind(1)
        found.append(torch.log_softmax(logits, dim=-1)[rows, tokens])
    picked: list[float] = torch.cat(found).tolist()
    return picked
