"""BLIP3o's words: Qwen2.5-VL's tokenizer with three tokens more, and the chats that it is asked in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srum_plugins.errors import CheckpointError
from srum_plugins.qwen_tokenizer import QwenTokenizer

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
ADDED = ("[IMG]", "[/IMG]", "<image>")
"""What BLIP3o adds to Qwen2.5-VL's tokens, in this order after all of them (blip3o.md 1.3)."""
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


class Tokenizer(QwenTokenizer):
    """See :class:`QwenTokenizer`."""

    def __init__(self, folder: Path, vocabulary: int | None = None) -> None:
        """With ``vocabulary`` the folder holds Qwen2.5-VL's own tokenizer: BLIP3o's tokens are added, and must be the
        last of so many.

        Raises:
            CheckpointError: the folder holds no such tokenizer.
        """
        super().__init__(folder, SPECIAL, "BLIP3o", () if vocabulary is None else ADDED)
        self.special = SpecialTokens(**self.ids)
        if vocabulary is not None and self.added != tuple(range(vocabulary - len(ADDED), vocabulary)):
            raise CheckpointError(
                f"the tokenizer in {folder} is not that of this checkpoint's Qwen2.5-VL: {', '.join(ADDED)} come to be "
                f"{', '.join(map(str, self.added))} there, and must be the last of {vocabulary} tokens"
            )

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

    def opening(self) -> list[int]:
        """Ids that every chat begins with: the system's turn, and the token that opens the user's."""
        start, end, newline = self.special.start, self.special.end, self.encode("\n")
        return [start, *self.encode(f"system\n{SYSTEM}"), end, *newline, start]

    def asking_alone(self, text: str) -> list[int]:
        """Ids of a question without an image after the opening, up to the open turn of the assistant."""
        return [*self.encode(f"user\n{text}"), *self._answering()]

    def _opened(self, said: str) -> list[int]:
        return [*self.opening(), *self.encode(f"user\n{said}")]

    def _answering(self) -> list[int]:
        newline = self.encode("\n")
        return [self.special.end, *newline, self.special.start, *self.encode("assistant\n")]
