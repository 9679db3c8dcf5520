"""Typed records: what the stages of SRUM hand to one another, and what is written to disk.

Every record is frozen and turns into plain JSON and back without loss (:func:`to_json`,
:func:`from_json`). Boxes are in pixels of the image they belong to, ``(x0, y0, x1, y1)`` with
``x0 < x1`` and ``y0 < y1``, half-open: a box covers the pixels whose centres lie inside it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from srum_plugins.errors import ContractError

T = TypeVar("T")


@dataclass(frozen=True)
class Box:
    """Axis-aligned box in image pixels, half-open, with positive area and finite sides."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        sides = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(side) for side in sides):
            raise ContractError(f"a box needs finite sides, got {sides}")
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ContractError(f"a box needs x0 < x1 and y0 < y1, got {sides}")

    @property
    def area(self) -> float:
        """Area in square pixels, positive."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, in [0, 1]."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(width, 0.0) * max(height, 0.0)
        return shared / (self.area + other.area - shared)

    def inside(self, width: float, height: float) -> bool:
        """Whether the box lies within an image of this size."""
        return self.x0 >= 0 and self.y0 >= 0 and self.x1 <= width and self.y1 <= height


@dataclass(frozen=True)
class Mask:
    """A binary mask as uncompressed run lengths, row-major, first run counts zeros."""

    width: int
    height: int
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(run < 0 for run in self.runs) or sum(self.runs) != self.width * self.height:
            raise ContractError(f"mask runs must be >= 0 and sum to {self.width * self.height}, got {sum(self.runs)}")


@dataclass(frozen=True)
class Check:
    """One fact of a prompt as a question with a known answer, asked by judges.

    ``kind`` is free text that groups checks (``existence``, ``count``, ``relation``, ...).
    ``choices`` holds the admissible answers, ``answer`` the one that the prompt demands.
    """

    kind: str
    question: str
    choices: tuple[str, ...]
    answer: str

    def __post_init__(self) -> None:
        if self.answer not in self.choices:
            raise ContractError(f"answer {self.answer!r} is not among the choices {self.choices}")


@dataclass(frozen=True)
class Prompt:
    """A text prompt.

    ``phrases`` are the noun phrases that a grounder looks for; ``checks`` the facts that a judge
    asks about; both may be empty, then providers fall back on ``text``. ``id`` is unique in a run.
    """

    id: str
    text: str
    category: str = ""
    split: str = ""
    phrases: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One generated image of a prompt: where it is, and how to make it again.

    ``image`` is a path relative to the directory of the stage that wrote the record, and so is ``latents``, if the
    adapter keeps what the image was decoded from.
    """

    id: str
    prompt_id: str
    index: int
    seed: int
    image: str
    width: int
    height: int
    plan: str | None = None
    latents: str | None = None


@dataclass(frozen=True)
class Region:
    """A part of an image that a grounder proposes. ``score`` is the grounder's confidence in [0, 1]. ``mended`` names
    what was done by rule to a box as it was answered, such as ``clamped`` to the image. ``background`` says that the
    region shows nothing that the prompt names, and was kept all the same."""

    box: Box
    phrase: str = ""
    score: float | None = None
    mask: Mask | None = None
    mended: tuple[str, ...] = ()
    background: bool = False


@dataclass(frozen=True)
class Grounding:
    """The regions of one candidate. ``dropped`` counts proposals that were filtered, by cause."""

    candidate_id: str
    regions: tuple[Region, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Something that could not be computed, and why. Never a number."""

    cause: str
    detail: str = ""


@dataclass(frozen=True)
class Score:
    """A judge's number with its reason. The range depends on the field that holds it. ``spread``, of a score that
    several judges agreed on, is how far the highest lies above the lowest of theirs."""

    value: float
    reason: str = ""
    spread: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ContractError(f"a score must be finite, got {self.value}")


BACKGROUND = Score(0.0, "background")
"""The local score of a region that is background. It takes no part in a map."""


def total(counts: Iterable[int | None]) -> int | None:
    """The sum of counts of tokens; None where one of them is unknown."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a candidate.

    ``alpha`` is the global composition score in [0, 1]; ``local`` holds one score in [-1, 1] for each
    region of the candidate's grounding, in the same order (SRUM, arXiv 2510.12784). A region that is background has the
    score 0 with the reason ``background``: the prompt asks nothing of it, and neither did the judge.

    ``raw`` is what the model or the endpoint answered, in the order in which it was asked, so that every score can be
    checked; ``tokens`` is how many tokens these answers took, None where nobody counts them. ``wording`` is a hash of
    all that the judge asks in. ``judge`` and ``version`` are the provider's name and its distribution's version; the
    stage fills them in. The time that it took is no part of a record, which a second run must reproduce to the byte: it
    stands in the stage's ``cost-*.json``.
    """

    candidate_id: str
    alpha: Score | Failure
    local: tuple[Score | Failure, ...]
    raw: tuple[str, ...] = ()
    tokens: int | None = None
    wording: str = ""
    judge: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.alpha, Score) and not 0.0 <= self.alpha.value <= 1.0:
            raise ContractError(f"alpha must lie in [0, 1], got {self.alpha.value}")
        for index, score in enumerate(self.local):
            if isinstance(score, Score) and not -1.0 <= score.value <= 1.0:
                raise ContractError(f"local score {index} must lie in [-1, 1], got {score.value}")


def to_json(record: Any) -> Any:
    """A record as plain JSON types. Dataclasses in a union carry their class name as ``"type"``."""
    return _encode(record, tagged=False)


def from_json(kind: type[T], data: Any) -> T:
    """The record of class ``kind`` from :func:`to_json` output.

    Raises:
        ContractError: a field is missing, unknown, or of another type; the message has its path.
    """
    return typing.cast(T, _decode(kind, data, kind.__name__))


def _encode(value: Any, tagged: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        body = {f.name: _encode(getattr(value, f.name), _is_tagged(hints[f.name])) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **body} if tagged else body
    if isinstance(value, Mapping):
        return {str(key): _encode(item, tagged) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_encode(item, tagged) for item in value]
    return value


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else ()


def _is_tagged(hint: Any) -> bool:
    """Whether values of this annotation are a union of several dataclasses, also inside a tuple."""
    if typing.get_origin(hint) is tuple:
        return any(_is_tagged(arg) for arg in typing.get_args(hint))
    return sum(dataclasses.is_dataclass(member) for member in _members(hint)) > 1


def _decode(hint: Any, data: Any, where: str) -> Any:
    members = _members(hint)
    if members:
        if data is None and type(None) in members:
            return None
        records = [member for member in members if dataclasses.is_dataclass(member)]
        if len(records) > 1:
            name = data.get("type") if isinstance(data, dict) else None
            for member in records:
                if isinstance(member, type) and member.__name__ == name:
                    return _decode(member, {k: v for k, v in data.items() if k != "type"}, where)
            raise ContractError(f"{where}: unknown record type {name!r}")
        (only,) = [member for member in members if member is not type(None)]
        return _decode(only, data, where)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if data not in typing.get_args(hint):
            raise ContractError(f"{where}: expected one of {', '.join(map(str, typing.get_args(hint)))}, got {data!r}")
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise ContractError(f"{where}: expected a list, got {type(data).__name__}")
        item = typing.get_args(hint)[0]
        return tuple(_decode(item, entry, f"{where}[{i}]") for i, entry in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise ContractError(f"{where}: expected an object, got {type(data).__name__}")
        value_hint = typing.get_args(hint)[1]
        return {key: _decode(value_hint, entry, f"{where}.{key}") for key, entry in data.items()}
    if dataclasses.is_dataclass(hint):
        return _decode_record(typing.cast(type, hint), data, where)
    if hint is Any:
        return data
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (hint is not bool and isinstance(data, bool)):
        raise ContractError(f"{where}: expected {hint.__name__}, got {data!r}")
    return data


def _decode_record(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ContractError(f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ContractError(f"{where}: unknown field(s) {', '.join(unknown)}")
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(data))
    if missing:
        raise ContractError(f"{where}: missing field(s) {', '.join(missing)}")
    return kind(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in data.items()})
