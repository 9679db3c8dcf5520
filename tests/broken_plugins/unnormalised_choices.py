"""Gives scores of choices that are no log-probabilities."""

from collections.abc import Sequence
from dataclasses import replace

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Question
from srum_plugins.providers import Provider


class UnnormalisedChoices(ToyAdapter):
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        return [tuple(2 * value for value in one) for one in super().choice_logprobs(questions)]


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="unnormalised-choices", factory=UnnormalisedChoices)]
