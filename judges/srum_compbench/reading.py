"""Finds the JSON that a judge was asked for in what it wrote.

Thoughts between ``<think>`` and ``</think>`` are taken off first; what stands around the JSON, such as the fences of a
code block, does not matter. JSON that is broken elsewhere, such as by quotes in its explanation, is read all the same
if its score stands in it as it should.
"""

from __future__ import annotations

import json
import re
from typing import Any

from srum_rubric.parsing import AMBIGUOUS, NO_SCORE, REFUSED, TRUNCATED, quoted, refuses, without_thoughts

from srum_plugins.contracts import Answer
from srum_plugins.records import Failure

_SCORE = re.compile(
    r"""["']score["']\s*:\s*(\[[^\[\]]*\]|"[^"]*"|[-+.\w]+)(?=\s*[,}\n])""", re.IGNORECASE
)  # what follows it says that it is complete
_DECODER = json.JSONDecoder()
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def score_of(answer: Answer) -> Any | Failure:
    """The value of ``"score"`` in an answer, whatever JSON value it is, or why there is none. Where it stands there
    several times all must be the same."""
    text = without_thoughts(answer.text)
    if text is None:
        return Failure(TRUNCATED, "it ends inside a thought")
    found = [value for one in _objects(text) for name, value in one.items() if name.lower() == "score"]
    found = found or [_value(match[1]) for match in _SCORE.finditer(text)]
    if not found:
        if refuses(text):
            return Failure(REFUSED, quoted(text))
        if answer.truncated:
            return Failure(TRUNCATED, "no score is complete")
        return Failure(NO_SCORE, quoted(text) if text.strip() else "the answer is empty")
    if any(value != found[0] for value in found[1:]):
        return Failure(AMBIGUOUS, quoted(" / ".join(map(str, found))))
    return found[0]


def number(value: Any) -> float | None:
    """A JSON number, or a text that is one in decimals, as a finite float; None for anything else."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value := value.strip()) and abs(float(value)) < 1e9 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e9 else None  # NaN and infinity too


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, one after the other."""
    found = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError:
            end = start + 1
        except RecursionError:  # nested deeper than any answer
            break
        else:
            found.append(value)
        start = text.find("{", end)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
