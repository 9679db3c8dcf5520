"""The shipped small BAGEL as the model adapter ``shapes``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from srum_bagel.adapter import BagelAdapter, Dialect
from srum_bagel.checkpoint import load_model, read_config
from srum_bagel.memory import weightless

from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Weightless
from srum_plugins.errors import CheckpointError
from srum_plugins.records import Box, Failure
from srum_shapes.options import AdapterOptions
from srum_shapes.questions import grounding_question, in_box, parse_boxes
from srum_shapes.vocabulary import EOS, WORDS, decode, encode
from srum_shapes.world import MOST_OBJECTS, SIDE


class ShapesDialect(Dialect):
    """The words and question forms of the drawn world."""

    longest_answer = 5 * MOST_OBJECTS - 1

    def encode(self, text: str) -> list[int]:
        """See :func:`srum_shapes.vocabulary.encode`."""
        return encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See :func:`srum_shapes.vocabulary.decode`."""
        return decode(ids)

    def ask(self, text: str, box: Box | None) -> str:
        """A question about a box starts with the box in location words."""
        return text if box is None else in_box(text, box)

    def ask_where(self, phrase: str) -> str:
        """Such as ``find red circle``."""
        return grounding_question(phrase)

    def read_boxes(self, answer: str, size: tuple[int, int]) -> list[Box] | Failure:
        """See :func:`srum_shapes.questions.parse_boxes`."""
        return parse_boxes(answer)


def heads(options: AdapterOptions) -> Heads:
    """The heads of the checkpoint's attention.

    Raises:
        CheckpointError: the folder holds no model.
    """
    config = read_config(options.folder).llm
    return Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim, "float32")


def build(options: AdapterOptions, device: str, attention: Attention | None = None) -> BagelAdapter:
    """Load the checkpoint.

    Raises:
        CheckpointError: the folder holds no model of the drawn world's vocabulary.
    """
    folder = options.folder
    model, autoencoder = load_model(folder, torch.device(device), attention)
    if model.config.llm.vocab_size != len(WORDS) or model.config.tokens.eos != EOS:
        raise CheckpointError(f"{folder} was not trained with the drawn world's vocabulary of {len(WORDS)} words")
    return BagelAdapter(model, autoencoder, ShapesDialect(), (SIDE, SIDE))


def without_weights(options: AdapterOptions) -> Weightless:
    """The same model without memory; only the checkpoint's config is read.

    Raises:
        CheckpointError: the folder holds no config of a BAGEL.
    """
    return weightless(read_config(options.folder), torch.float32, (SIDE, SIDE), ShapesDialect.longest_answer)
