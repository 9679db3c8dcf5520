"""Qwen2's tokenizer, read from a checkpoint's folder: both released models that come with the framework speak by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from srum_plugins.errors import CheckpointError

FILES = ("tokenizer.json", "vocab.json")
"""One of these must be there; ``vocab.json`` goes with ``merges.txt``."""


def holds_tokenizer(folder: Path) -> bool:
    """Whether the files of a tokenizer are in a folder."""
    return any((folder / name).is_file() for name in FILES)


class QwenTokenizer:
    """Text to ids and back. Strings of special tokens inside a text are text, never control tokens.

    ``ids`` are those of the control tokens, by role.
    """

    def __init__(self, folder: Path, special: Mapping[str, str], whose: str, added: Sequence[str] = ()) -> None:
        """``special`` are the strings of the control tokens by role, ``whose`` the model that has them. Of ``added``
        control tokens those that the folder's files lack come after all that they hold.

        Raises:
            CheckpointError: the folder holds no such tokenizer.
        """
        from transformers import AddedToken, Qwen2Tokenizer

        if not holds_tokenizer(folder):
            raise CheckpointError(f"{folder} holds no tokenizer: neither {FILES[0]} nor {FILES[1]} with merges.txt")
        try:
            self._tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the tokenizers package raise bare exceptions
            raise CheckpointError(f"cannot read the tokenizer in {folder}: {error}") from error
        self._tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in added])
        vocabulary = self._tokenizer.get_vocab()
        missing = [text for text in special.values() if text not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer in {folder} lacks {', '.join(missing)}: it is not {whose}'s")
        self.ids: dict[str, int] = {role: vocabulary[text] for role, text in special.items()}
        self.added = tuple(int(vocabulary[text]) for text in added)
        """Their ids."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
