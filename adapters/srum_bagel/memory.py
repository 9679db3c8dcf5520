"""A BAGEL without memory, by which ``srum doctor --memory`` estimates what a real one needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from srum_bagel.adapter import IMAGES_PER_CALL, BagelAdapter, Dialect
from srum_bagel.autoencoder import build_autoencoder
from srum_bagel.config import BagelConfig
from srum_bagel.images import Preparation
from srum_bagel.model import Bagel
from srum_bagel.mot import Cache
from srum_bagel.options import Thinking
from srum_bagel.packing import Piece, PieceKind
from srum_plugins.contracts import Answer, Decoding, GenerationRequest, Question, Weightless
from srum_plugins.records import Box, Failure


class Words(Dialect):
    """Every word is one token; an open answer has at most ``longest_answer``."""

    def __init__(self, longest_answer: int) -> None:
        self.longest_answer = longest_answer

    def encode(self, text: str) -> list[int]:
        """As many ids as words."""
        return [0] * len(text.split())

    def decode(self, ids: Iterable[int]) -> str:
        """As many words as ids."""
        return " ".join("word" for _ in ids)

    def ask(self, text: str, box: Box | None) -> str:
        """The text as it is."""
        return text

    def ask_where(self, phrase: str) -> str:
        """The phrase as it is."""
        return phrase

    def read_boxes(self, answer: str, size: tuple[int, int]) -> list[Box] | Failure:
        """None."""
        return []

    def ask_where_all(self, phrases: Sequence[str]) -> str:
        """The phrases as they are."""
        return " ".join(phrases)

    def read_named_boxes(self, answer: str, size: tuple[int, int]) -> list[tuple[str, Box]] | Failure:
        """None."""
        return []


class WeightlessBagel(BagelAdapter):
    """Its plans and answers are as long as they may be, because no word of them can be read."""

    @torch.no_grad()
    def plans(self, requests: Sequence[GenerationRequest], sampling: Thinking) -> list[str]:
        """Reads a prompt with all but the last word of its plan, and writes that."""
        plan = self.dialect.decode(range(sampling.think_tokens))
        rows = min(len(requests), self.images_per_call)
        pieces = [[*self._texts(request, sampling), self._text(plan)] for request in requests[:rows]]
        self.model.next_logits(
            torch.zeros(rows, dtype=torch.long, device=self.model.device), self.model.prefill(pieces, None)
        )
        return [plan] * len(requests)

    def _continued(self, context: Cache, questions: Sequence[Question], decoding: Decoding, limit: int) -> list[Answer]:
        """Reads all but the last word of an answer, and writes that."""
        if limit > 1:
            written = Piece(PieceKind.TEXT, (0,) * (limit - 1))
            context = self.model.extend(context, [[written]] * len(questions))
        return super()._continued(context, questions, decoding, limit)


def weightless(
    config: BagelConfig,
    dtype: torch.dtype,
    size: tuple[int, int],
    longest_answer: int,
    preparation: Preparation | None = None,
    images_per_call: int = IMAGES_PER_CALL,
) -> Weightless:
    """A BAGEL of these dimensions with weights of ``dtype`` and an autoencoder in float32, on torch's ``meta`` device.
    ``longest_answer`` counts tokens; the other arguments are those of :class:`BagelAdapter`."""
    with torch.device("meta"):
        model, autoencoder = Bagel(config).to(dtype).eval(), build_autoencoder(config.vae).eval()
    return Weightless(
        WeightlessBagel(model, autoencoder, Words(longest_answer), size, preparation, images_per_call), size
    )
