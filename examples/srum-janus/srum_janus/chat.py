"""Janus' words: its tokenizer, and the chats in which it is asked to draw and to look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from srum_plugins.errors import CheckpointError

FILE = "tokenizer.json"
CONTROL = {
    "start": "<｜begin▁of▁sentence｜>",
    "end": "<｜end▁of▁sentence｜>",
    "pad": "<｜▁pad▁｜>",
    "user": "<|User|>",
    "assistant": "<|Assistant|>",
    "image_start": "<begin_of_image>",
    "image_end": "<end_of_image>",
}
"""Control tokens by role."""
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
)
"""Begins chats about images, not those that ask for one."""


class Chat:
    """Text to ids and back, in the form that Janus was trained on. Strings of control tokens inside a text are text."""

    def __init__(self, folder: Path, size: int) -> None:
        """``size`` is how many tokens the language model has.

        Raises:
            CheckpointError: the folder holds no tokenizer of Janus.
        """
        if not (folder / FILE).is_file():
            raise CheckpointError(f"{folder} holds no {FILE}")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / FILE))
        except Exception as error:  # the tokenizers package raises bare exceptions
            raise CheckpointError(f"cannot read the tokenizer {folder / FILE}: {error}") from error
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab()
        if missing := [text for text in CONTROL.values() if text not in vocabulary]:
            raise CheckpointError(f"the tokenizer in {folder} lacks {', '.join(missing)}: it is not Janus'")
        if (last := max(vocabulary.values())) >= size:
            raise CheckpointError(f"{folder}: the tokenizer's token {last} is beyond the language model's {size}")
        self.ids = {role: vocabulary[text] for role, text in CONTROL.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens and the space that an answer begins with."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.removeprefix(" ")

    def drawing(self, prompt: str) -> list[int]:
        """Ids that ask for an image, up to the token that opens it."""
        return [self.ids["start"], *self._turn(f": {prompt.strip()}\n\n"), self.ids["image_start"]]

    def undrawn(self, drawing: Sequence[int]) -> list[int]:
        """The same without its words, for guidance: pads between the first token and the last."""
        return [drawing[0], *[self.ids["pad"]] * (len(drawing) - 2), drawing[-1]]

    def looking(self) -> list[int]:
        """Ids before the tokens of an image that is asked about."""
        opened = [self.ids["start"], *self.encode(SYSTEM), self.ids["user"]]
        return [*opened, *self.encode(": "), self.ids["image_start"]]

    def asking(self, text: str) -> list[int]:
        """Ids after these tokens, up to the open turn of the assistant."""
        after = [self.ids["image_end"], *self.encode(f"\n{text.strip()}\n\n")]
        return [*after, self.ids["assistant"], *self.encode(":")]

    def asking_alone(self, text: str) -> list[int]:
        """Ids of a question without an image."""
        return [self.ids["start"], *self.encode(SYSTEM), *self._turn(f": {text.strip()}\n\n")]

    def answering(self, text: str) -> list[int]:
        """Ids of an answer, its end included."""
        return [*self.encode(f" {text.strip()}"), self.ids["end"]]

    def _turn(self, said: str) -> list[int]:
        return [self.ids["user"], *self.encode(said), self.ids["assistant"], *self.encode(":")]
