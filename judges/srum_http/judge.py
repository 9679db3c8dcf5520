"""The rubric's questions, answered by an endpoint."""

from __future__ import annotations

from collections.abc import Sequence

from srum_rubric.judge import RubricJudge

from srum_http.endpoint import Endpoint
from srum_http.options import HttpOptions
from srum_plugins.contracts import Judge, Located, ModelAdapter
from srum_plugins.records import Grounding, Judgement


class HttpJudge(Judge):
    """Asks and reads as the judge ``rubric`` does; the model is that of the endpoint."""

    def __init__(self, options: HttpOptions, key: str) -> None:
        """``key`` is the API key, empty for servers without keys."""
        self._rubric = RubricJudge(options)
        self._endpoint = Endpoint(options, key)

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """See :meth:`srum_rubric.judge.RubricJudge.judge_with`; the endpoint answers.

        Raises:
            StageError: no answer can be expected, see :meth:`srum_http.endpoint.Endpoint.ask`.
        """
        return self._rubric.judge_with(self._endpoint.ask, items, groundings)
