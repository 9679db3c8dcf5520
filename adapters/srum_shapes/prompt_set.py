"""The drawn world's training and validation prompts."""

from __future__ import annotations

from srum_plugins.contracts import PromptSet
from srum_plugins.records import Prompt
from srum_shapes.options import PromptSetOptions
from srum_shapes.prompts import prompt_list


class ShapesPromptSet(PromptSet):
    """In-domain prompts: none names a held-out pair, none means the same as a prompt of the benchmark."""

    def __init__(self, options: PromptSetOptions) -> None:
        self._options = options

    def prompts(self) -> list[Prompt]:
        """See :class:`srum_shapes.options.PromptSetOptions`."""
        options = self._options
        return prompt_list(options.count, options.seed, options.split, options.categories)
