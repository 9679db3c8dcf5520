"""Reads scores from what a model wrote: a score with its reason, or a failure with its cause.

What is read and what is not:

- *Numbers* are decimal: ``1``, ``0.5``, ``.5``, ``+0.5``, ``-0.5``, also with the minus sign U+2212, and nothing beside
  them but markdown's emphasis. A full stop may follow decimals (``0.5.``), but ``0.`` may be the beginning of ``0.5``
  and is none. No number are fractions (``1/2``), shares (``80%``), ranges, words, exponents (``1e-1``), decimal commas
  (``0,5``), NaN and infinity. A number out of range is told as such, never clamped or scaled.
- *Characters* of East Asian full width (U+FF01 to U+FF5E) are read as their ASCII twins. Digits of other scripts are no
  digits here.
- *Layout*: case, blanks around signs, bullets, emphasis, and pipes at both ends of a line do not matter.
- *Thoughts* between ``<think>`` and ``</think>``, also nested ones, are taken off first, and so is all before a
  ``</think>`` that nothing opened. An answer that ends inside a thought is truncated.
- *Lines of the question* that the answer repeats, such as the one that shows the form, say nothing.
- Of an answer that its budget cut off, the *last line* does not count: it may go on.
- What is said twice must be the same, else it is ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from srum_plugins.contracts import Answer
from srum_plugins.records import Failure, Score

NO_SCORE = "no score"
"""Nothing stands where the score should, or nothing that is read as a number."""
OUT_OF_RANGE = "out of range"
"""A number that no score can be."""
MISSING_REGION = "missing region"
"""No line for a region that was asked about."""
AMBIGUOUS = "ambiguous"
"""Several scores or lines for one thing, and not the same."""
TRUNCATED = "truncated"
"""The budget ended the answer, or it ends inside a thought, before what was asked for."""
REFUSED = "refused"
"""In place of a score the model says that it cannot or will not give one (see ``_REFUSAL``)."""

_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: "-"}
_THOUGHT = re.compile(r"<\s?(/?)\s?think\s?>", re.IGNORECASE)
_EDGES = " \t\u00a0\u3000*_`|"
_BULLETS = _EDGES + "-+#>\u2022\u00b7"
_COUNTED = re.compile(r"^[0-9]{1,2}[.)]\s+")
_COLON = re.compile(r"[:|]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
_NAME = re.compile(r"r[1-9][0-9]{0,3}")
_REFUSAL = re.compile(
    r"\b(?:i|we)\s+(?:can\s?not|can['\u2019]t|could\s?n['\u2019]t|will\s+not|won['\u2019]t|must\s+decline|refuse|decline"
    r"|(?:am|are)\s+(?:unable|not\s+able))\b|\bunable\s+to\b|\bsorry\b",
    re.IGNORECASE,
)
_SHOWN = 80  # characters of an answer that a failure quotes
_OPEN = Failure(TRUNCATED, "it ends inside a thought")


@dataclass(frozen=True)
class _Statement:
    """One statement of a score: the text that stands for it, its number if it is one, and the reason beside it."""

    text: str
    number: Decimal | None
    reason: str = ""


def parse_global(answer: Answer, asked: str = "") -> Score | Failure:
    """The score in [0, 1] of an answer with a line ``score: 0.8``. Its reason is all other lines, the label ``reason:``
    taken off. ``asked`` is the question."""
    lines = _lines(answer, asked)
    if lines is None:
        return _OPEN
    statements: list[_Statement] = []
    reasons: list[str] = []
    for line in lines:
        label, value = (part.strip(_EDGES) for part in (*_COLON.split(line, maxsplit=1), "")[:2])
        if label.lower() == "score":
            statements.append(_Statement(value, _number(value)))
        else:
            reasons.append(value if label.lower() == "reason" else line)
    if not statements:
        return _nothing(answer, lines)
    return _agreed(statements, 0.0, " ".join(dict.fromkeys(reasons)))


def parse_regions(answer: Answer, names: Sequence[str], asked: str = "") -> dict[str, Score | Failure]:
    """The scores in [-1, 1] of an answer with lines ``R1 | reason | 0.8``: one for each of these names of regions, in
    their order. Lines of other regions say nothing. ``asked`` is the question."""
    lines = _lines(answer, asked)
    if lines is None:
        return dict.fromkeys(names, _OPEN)
    found: dict[str, list[_Statement]] = {}
    for line in lines:
        name, *cells = (cell.strip(_EDGES) for cell in line.split("|"))
        if cells and _NAME.fullmatch(name.lower()):
            # Among more cells it is not certain which one is the score, and of which region.
            reason, value = cells if len(cells) == 2 else ("", line)
            found.setdefault(name.lower(), []).append(_Statement(value, _number(value), reason))
    absent = _nothing(answer, lines)
    if found:
        told = ", ".join(found).upper()
        absent = Failure(TRUNCATED if answer.truncated else MISSING_REGION, f"the answer has lines of {told} only")
    return {
        name: _agreed(said, -1.0, said[0].reason) if (said := found.get(name.lower())) else absent for name in names
    }


def _lines(answer: Answer, asked: str) -> list[str] | None:
    """What the lines of an answer say, without bullets and outer pipes; None if it ends inside a thought."""
    text = without_thoughts(answer.text.translate(_WIDTH))
    if text is None:
        return None
    # The sign makes a line of what follows the last end of a line, even of nothing.
    lines = f"{text}|".splitlines()[: -1 if answer.truncated else None]
    known = {_bare(line) for line in asked.translate(_WIDTH).splitlines()}
    said = [" ".join(line.split()).lstrip(_BULLETS) for line in lines if _bare(line) not in known]
    return [line for line in (_COUNTED.sub("", line, count=1).strip(_EDGES) for line in said) if line]


def without_thoughts(text: str) -> str | None:
    """The text outside of thoughts, each of which ends a line; None if one is open at the end."""
    kept: list[str] = []
    depth = end = 0
    for tag in _THOUGHT.finditer(text):
        closes = bool(tag[1])
        if depth == 0 and closes:
            kept.clear()
        elif depth == 0:
            kept.append(text[end : tag.start()])
        depth = max(0, depth - 1 if closes else depth + 1)
        end = tag.end()
    return "\n".join([*kept, text[end:]]) if depth == 0 else None


def _bare(line: str) -> str:
    """A line without what may differ in a copy of it."""
    return "".join(line.split()).strip(_BULLETS).lower()


def _number(text: str) -> Decimal | None:
    """The number that this is, if it is certainly one; exact, so that no rounding brings it into range."""
    if "." in text[:-1]:
        text = text.removesuffix(".").rstrip(_EDGES)
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _agreed(statements: Sequence[_Statement], least: float, reason: str) -> Score | Failure:
    """The score in [least, 1] that all statements, one or more, agree on."""
    first = statements[0]
    meanings = {(one.text.lower() if one.number is None else one.number, one.reason.lower()) for one in statements}
    if len(meanings) > 1:
        return Failure(AMBIGUOUS, quoted(" / ".join(f"{one.reason} {one.text}".strip() for one in statements)))
    if first.number is None:
        return Failure(REFUSED if refuses(first.text) else NO_SCORE, quoted(first.text))
    if not least <= first.number <= 1:
        return Failure(OUT_OF_RANGE, f"{quoted(first.text)} is not in [{least:g}, 1]")
    return Score(float(first.number) + 0.0, reason)  # zero has no sign


def _nothing(answer: Answer, lines: Sequence[str]) -> Failure:
    """Why an answer states no score at all. ``lines`` are those that count."""
    text = " ".join(lines)
    if refuses(text):
        return Failure(REFUSED, quoted(text))
    if answer.truncated:
        return Failure(TRUNCATED, "no line with a score is complete")
    return Failure(NO_SCORE, quoted(text) if text else "the answer is empty")


def refuses(text: str) -> bool:
    """Whether a text says that its writer cannot or will not do what was asked."""
    return _REFUSAL.search(text) is not None


def quoted(text: str) -> str:
    """The beginning of an answer, for a failure's detail."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
