"""Asks about the whole image where a box was meant."""

from collections.abc import Sequence
from dataclasses import replace

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Question
from srum_plugins.providers import Provider


class BlindToBoxes(ToyAdapter):
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        return super().choice_logprobs([replace(one, box=None) for one in questions])


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="blind-to-boxes", factory=BlindToBoxes)]
