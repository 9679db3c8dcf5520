"""Registers the judge ``questions``."""

from __future__ import annotations

from typing import Any

from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_questions.options import QuestionsOptions


@hookimpl
def srum_judges() -> list[Provider]:
    """The model's own questions."""
    return [
        Provider(
            name="questions",
            summary="the model writes questions about the prompt, and answers them and one per region on the image",
            factory=_factory,
            options=QuestionsOptions,
            needs=lambda options: frozenset({Capability.ANSWER, Capability.CHOICE}),
        )
    ]


def _factory(options: QuestionsOptions) -> Any:
    from srum_questions.judge import QuestionsJudge

    return QuestionsJudge(options)
