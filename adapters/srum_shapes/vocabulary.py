"""The word tokenizer of the drawn world: one fixed list of words, numbers and signs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from srum_plugins.errors import ContractError, did_you_mean
from srum_shapes.prompts import NUMBERS, PLURAL
from srum_shapes.world import COLOURS, RELATIONS, SHAPES, SIDE

PAD, BOS, EOS, BOI, EOI = range(5)
"""Ids of padding, begin and end of text, begin and end of image."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>")
LOCATIONS = tuple(f"<{place}>" for place in range(SIDE + 1))
"""Box coordinates in pixels. Whole numbers in digits are the same words."""
SHARES = tuple(f"{tenths / 10:.1f}" for tenths in range(11))
"""Scores of a whole picture."""
REGIONS = tuple(f"r{number + 1}" for number in range(8))
"""Names of marked regions."""

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
    # what judges and grounders ask in, and are answered in
    *("compare", "image", "with", "description", ":", "\n", "look", "at", "every", "object", ",", "its", "number"),
    *("place", ".", "answer", "lines", "reason", "shows", "score", "(", ")", "nothing", "everything", "fits", "to"),
    *("was", "made", "for", "regions", "it", "are", "marked", "each", "region", "well", "that", "done", "line", "|"),
    *("wrong", "part", "think", "first", "between", "<think>", "</think>", "write", "questions", "decide", "if"),
    *("an", "answered", "by", "does", "not", "name", "thing", "text"),
    *SHARES,
    *("-1.0", "-0.5"),
    *REGIONS,
)
"""Every word in the order of its id. The order is part of every checkpoint: append, never reorder."""

_IDS = {word: index for index, word in enumerate(WORDS)} | {
    str(place): WORDS.index(word) for place, word in enumerate(LOCATIONS)
}
_PLAIN = [word for word in WORDS if word.isalpha()]
_WORD = re.compile(r"<[^<>\s]+>|-?\d+\.\d+|\d+|\w+|\n|[^\w\s]")


def encode(text: str) -> list[int]:
    """The ids of the words, numbers and signs of a text; capitals are as good as small letters. Special tokens are
    words too, and so is the end of a line.

    Raises:
        ContractError: a word is not in the vocabulary; the message names it.
    """
    try:
        return [_IDS[word] for word in _WORD.findall(text.lower())]
    except KeyError as error:
        word = str(error.args[0])
        raise ContractError(
            f"the adapter 'shapes' has no word {word!r} (in {text!r}): reword the prompt, or the question that a judge "
            f"asks in, such as judge.global_template='is there {{text}} ?'.{did_you_mean(word, _PLAIN)}"
        ) from None


def decode(ids: Iterable[int]) -> str:
    """The text of these ids, special tokens included, with a blank between any two words: :func:`encode` gives the ids
    back.

    Raises:
        ContractError: an id is outside the vocabulary.
    """
    words = []
    for index in ids:
        if not 0 <= index < len(WORDS):
            raise ContractError(f"id {index} is outside the vocabulary of {len(WORDS)} words")
        words.append(WORDS[index])
    return " ".join(words)
