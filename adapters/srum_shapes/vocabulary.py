"""The word tokenizer of the drawn world: one fixed list of words, split at blanks."""

from __future__ import annotations

from collections.abc import Iterable

from srum_plugins.errors import ContractError, did_you_mean
from srum_shapes.prompts import NUMBERS, PLURAL
from srum_shapes.world import COLOURS, RELATIONS, SHAPES, SIDE

PAD, BOS, EOS, BOI, EOI = range(5)
"""Ids of padding, begin and end of text, begin and end of image."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>")
LOCATIONS = tuple(f"<{place}>" for place in range(SIDE + 1))
"""Box coordinates in pixels."""

WORDS: tuple[str, ...] = (
    *SPECIAL,
    *("yes", "no", "none"),
    *NUMBERS,
    *COLOURS,
    *SHAPES,
    *PLURAL.values(),
    *RELATIONS,
    *("a", "and", "of", "from", "the", "in", "is", "there", "this", "what", "colour", "shape"),
    *("how", "many", "objects", "where", "find", "?", ";"),
    *LOCATIONS,
)
"""Every word in the order of its id. The order is part of every checkpoint: append, never reorder."""

_IDS = {word: index for index, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """The ids of the words of a text. Special tokens are words too.

    Raises:
        ContractError: a word is not in the vocabulary; the message names it.
    """
    try:
        return [_IDS[word] for word in text.split()]
    except KeyError as error:
        word = str(error.args[0])
        raise ContractError(
            f"the drawn world has no word {word!r} (in {text!r}).{did_you_mean(word, WORDS[len(SPECIAL) : -SIDE - 1])}"
        ) from None


def decode(ids: Iterable[int]) -> str:
    """The text of these ids, special tokens included: the inverse of :func:`encode`.

    Raises:
        ContractError: an id is outside the vocabulary.
    """
    words = []
    for index in ids:
        if not 0 <= index < len(WORDS):
            raise ContractError(f"id {index} is outside the vocabulary of {len(WORDS)} words")
        words.append(WORDS[index])
    return " ".join(words)
