"""The model's own questions about a prompt: asked for without an image, and read from what it writes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from srum_plugins.contracts import Decoding, ModelAdapter, Question
from srum_plugins.records import Failure, total
from srum_questions.options import QuestionsOptions

_MARKS = re.compile(
    r"(?:[-+*•–—>#]+|[\[(]?(?:q(?:uestion)?\s*\d{0,3}|\d{1,3})\s*[.:)\]])(?!\d)\s*|[*_`]+", re.IGNORECASE
)
"""What may stand before a question: a bullet, a number such as ``2.``, ``(2)`` or ``Q2:``, the marks of bold text."""
_QUOTES = "\"'“”‘’"


@dataclass(frozen=True)
class QuestionList:
    """Questions of a prompt, at least one, or why there are none; ``tries`` are all texts that were written for them,
    in order, and ``tokens`` what they took, None where nobody counts them."""

    questions: tuple[str, ...] | Failure
    tries: tuple[str, ...]
    tokens: int | None


class Lists:
    """The lists of prompts. Each is written once, greedily and alone: so it is the same for all candidates of a prompt,
    whichever of them are judged together, and in a process that goes on where another one ended."""

    def __init__(self, options: QuestionsOptions) -> None:
        self._options = options
        self._known: dict[str, QuestionList] = {}

    def of(self, text: str, model: ModelAdapter) -> QuestionList:
        """The list of a prompt, by its text."""
        if text not in self._known:
            self._known[text] = self._written(self._options.template.replace("{text}", text), model)
        return self._known[text]

    def _written(self, asked: str, model: ModelAdapter) -> QuestionList:
        options = self._options
        tries: list[str] = []
        counts: list[int | None] = []
        questions: tuple[str, ...] = ()
        truncated = False
        for number in range(1 + options.retries):
            decoding = Decoding(options.temperature if number else 0.0, max_tokens=options.list_tokens)
            (answer,) = model.answer([Question(None, asked, seed=number)], decoding)
            tries.append(answer.text)
            counts.append(answer.tokens)
            questions, truncated = read_questions(answer.text)[: options.max_questions], answer.truncated
            if questions:
                break
        return QuestionList(questions or _failure(tries[-1], truncated, options), tuple(tries), total(counts))


def read_questions(text: str) -> tuple[str, ...]:
    """The questions of a text, in order: its lines that end in a question mark, without bullets, numbers, quotes and
    marks of bold text, blanks joined. One that comes again, in letters of any size, is left out. The last line of a
    text that was cut off counts as any other: it is whole if it ends in a question mark."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        question = _bare(line)
        if question.endswith("?") and any(character.isalpha() for character in question):
            found.setdefault(question.casefold(), question)
    return tuple(found.values())


def _bare(line: str) -> str:
    """A line without what stands around its words."""
    words = " ".join(line.split())
    while mark := _MARKS.match(words):
        words = words[mark.end() :]
    words = words.rstrip("*_` ")
    return words[1:-1].strip() if words[:1] and words[0] in _QUOTES and words[-1] in _QUOTES else words


def _failure(text: str, truncated: bool, options: QuestionsOptions) -> Failure:
    if truncated:
        return Failure("truncated", f"no whole question in {options.list_tokens} tokens: {text[:80]!r}")
    return Failure("no questions", f"no line ends in a question mark: {text[:80]!r}")
