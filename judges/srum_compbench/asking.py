"""Who judges a benchmark's images, the base model or an endpoint, and asking again for what could not be read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from srum_http.options import EndpointOptions

from srum_plugins.contracts import Answer, Capability, Decoding, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure, total
from srum_plugins.runs.fingerprint import stable_seed

T = TypeVar("T")

Ask = Callable[[Sequence[Question], Decoding], Sequence[Answer | Failure]]
"""Gives an answer a question, in order, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """``endpoint`` is where the judge is (:class:`srum_http.options.EndpointOptions`); null: the base model of the run
    judges. ``revision`` says in your words what the endpoint serves, such as a commit; it is not sent, and is part of
    the result.

    The first answer is the likeliest one, of at most ``max_tokens``. One that cannot be read is asked for again,
    ``retries`` times at most, drawn at ``temperature``, above 0, among the likeliest tokens that have a probability of
    ``top_p`` in all.
    """

    endpoint: EndpointOptions | None = None
    revision: str = ""
    max_tokens: int = 512
    retries: int = 2
    temperature: float = 0.7
    top_p: float = 0.9

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, got {self.retries}")
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise ValueError(
                f"temperature must be above 0, so that an answer asked for again may differ, got {self.temperature}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.revision and self.endpoint is None:
            raise ValueError("revision is that of an endpoint: the base model's is known by its files")

    @property
    def needs(self) -> frozenset[Capability]:
        """What is asked of the adapter."""
        return frozenset() if self.endpoint is not None else frozenset({Capability.ANSWER})


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What came of a question: what its answer says, or why it says nothing. ``raw`` are all answers, in the order of
    asking, and ``tokens`` what they took, None where nobody counts them."""

    result: T | Failure
    raw: tuple[str, ...]
    tokens: int | None


class Asking:
    """The judge of a benchmark. An endpoint's budget is that of this object."""

    def __init__(self, options: AskingOptions) -> None:
        self._options = options
        self._endpoint: Ask | None = None

    def ask(
        self,
        questions: Sequence[Question],
        readers: Sequence[Callable[[Answer], T | Failure]],
        model: ModelAdapter | None,
    ) -> list[Asked[T]]:
        """Ask all questions in one call, and again in one call those whose answer could not be read; each has a reader
        of its own. What stays unread is the Failure of its last answer. A question that has no answer at all is not
        asked again.

        Raises:
            ContractError: there is neither an endpoint nor a model.
            StageError: no answer can be expected, see :meth:`srum_http.endpoint.Endpoint.ask`.
        """
        options, ask = self._options, self._who(model)
        results: dict[int, T | Failure] = {}
        answers: list[list[Answer]] = [[] for _ in questions]
        waiting = list(range(len(questions)))
        for number in range(1 + options.retries):
            again = number > 0
            decoding = Decoding(
                options.temperature if again else 0.0, options.top_p if again else 1.0, options.max_tokens
            )
            asked = [
                replace(questions[index], seed=stable_seed("again", questions[index].seed, number)) for index in waiting
            ]
            given = ask(asked, decoding) if asked else []
            if len(given) != len(asked):
                raise ContractError(f"the judge answered {len(given)} of {len(asked)} questions")
            for index, answer in zip(waiting, given, strict=True):
                if isinstance(answer, Answer):
                    answers[index].append(answer)
                    results[index] = readers[index](answer)
                else:
                    results[index] = answer
            # A question without an answer has been tried as often as the endpoint's options say.
            open_ones = [i for i, answer in zip(waiting, given, strict=True) if isinstance(answer, Answer)]
            waiting = [index for index in open_ones if isinstance(results[index], Failure)]
        return [
            Asked(
                results[index],
                tuple(answer.text for answer in answers[index]),
                total(answer.tokens for answer in answers[index]),
            )
            for index in range(len(questions))
        ]

    def _who(self, model: ModelAdapter | None) -> Ask:
        options = self._options.endpoint
        if options is None:
            if model is None:
                raise ContractError("a benchmark without an endpoint needs the base model as judge")
            return model.answer
        if self._endpoint is None:
            from srum_http.endpoint import Endpoint  # here, because light commands do without its library

            key = os.environ.get(options.key_variable, "")
            self._endpoint = Endpoint(options, key, "benchmark.endpoint").ask
        return self._endpoint
