"""The released model's words: Qwen2's tokenizer, read from the checkpoint's folder."""

from __future__ import annotations

from pathlib import Path

from srum_bagel.config import SpecialTokens
from srum_plugins.qwen_tokenizer import QwenTokenizer

SPECIAL = {"bos": "<|im_start|>", "eos": "<|im_end|>", "boi": "<|vision_start|>", "eoi": "<|vision_end|>"}
"""The strings of the tokens that wrap text and images."""


class Tokenizer(QwenTokenizer):
    """See :class:`QwenTokenizer`."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where the folder holds no such tokenizer."""
        super().__init__(folder, SPECIAL, "BAGEL")
        self.special = SpecialTokens(**self.ids)
