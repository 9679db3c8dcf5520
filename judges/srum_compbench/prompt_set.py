"""Prompts of a benchmark's files to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from srum_plugins.contracts import PromptSet
from srum_plugins.records import Prompt

SPLIT = "train"


class GivenPrompts(PromptSet):
    """The given prompts, all of the split ``train``."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._prompts = [replace(prompt, split=SPLIT) for prompt in prompts]

    def prompts(self) -> list[Prompt]:
        """The prompts in the order in which they were given."""
        return list(self._prompts)
