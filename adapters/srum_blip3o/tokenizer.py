"""BLIP3o's words: Qwen2.5-VL's tokenizer with three tokens more, and the chats that it is asked in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srum_plugins.errors import CheckpointError

SPECIAL = {
    "pad": "<|endoftext|>",
    "start": "<|im_start|>",
    "end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image": "<|image_pad|>",
    "marker": "[IMG]",
}
"""The tokens of control that are used (blip3o.md 1.3). ``marker`` stands before the query vectors."""
FILES = ("tokenizer.json", "vocab.json")
"""One of these must be there; ``vocab.json`` goes with ``merges.txt``."""
SYSTEM = "You are a helpful assistant."
DRAW = "Please generate image based on the following caption: {caption}"
"""How an image is asked for (blip3o.md 4.1)."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens of control, by the roles of :data:`SPECIAL`."""

    pad: int
    start: int
    end: int
    vision_start: int
    vision_end: int
    image: int
    marker: int


class Tokenizer:
    """Text to ids and back. Strings of special tokens inside a text are text, never control tokens."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where the folder holds no such tokenizer."""
        from transformers import Qwen2Tokenizer

        if not any((folder / name).is_file() for name in FILES):
            raise CheckpointError(f"{folder} holds no tokenizer: neither {FILES[0]} nor {FILES[1]} with merges.txt")
        try:
            self._tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the tokenizers package raise bare exceptions
            raise CheckpointError(f"cannot read the tokenizer in {folder}: {error}") from error
        vocabulary = self._tokenizer.get_vocab()
        missing = [text for text in SPECIAL.values() if text not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer in {folder} lacks {', '.join(missing)}: it is not BLIP3o's")
        self.special = SpecialTokens(**{role: vocabulary[text] for role, text in SPECIAL.items()})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def drawing(self, caption: str) -> list[int]:
        """Ids of the chat that asks for an image, up to the open turn of the assistant and with the marker token. This
        is the form of inference (blip3o.md 3, 4.1)."""
        return [*self._opened(DRAW.format(caption=caption)), *self._answering(), self.special.marker]

    def bare(self, text: str) -> list[int]:
        """Ids of a text without a chat and of the marker token, as the pixel decoder's negative has it
        (blip3o.md 4.3)."""
        return [*self.encode(text), self.special.marker]

    def seeing(self, count: int) -> list[int]:
        """Ids of a chat up to an image of so many tokens, the first thing that the user shows (blip3o.md 5)."""
        special = self.special
        return [*self._opened(""), special.vision_start, *[special.image] * count, special.vision_end]

    def asking(self, text: str) -> list[int]:
        """Ids of a question after the image, up to the open turn of the assistant."""
        return [*self.encode(text), *self._answering()]

    def _opened(self, said: str) -> list[int]:
        start, end, newline = self.special.start, self.special.end, self.encode("\n")
        return [start, *self.encode(f"system\n{SYSTEM}"), end, *newline, start, *self.encode(f"user\n{said}")]

    def _answering(self) -> list[int]:
        newline = self.encode("\n")
        return [self.special.end, *newline, self.special.start, *self.encode("assistant\n")]
