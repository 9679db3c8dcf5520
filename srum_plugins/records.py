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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, TypeAlias, TypeVar

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
        if not all(map(math.isfinite, sides)):
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
class Failure:
    """Something that could not be computed, and why. Never a number."""

    cause: str
    detail: str = ""


@dataclass(frozen=True)
class Grounding:
    """The regions of one candidate. ``dropped`` counts proposals that were filtered, by cause. ``failure`` says why a
    candidate could not be grounded; it has no regions, and is not judged."""

    candidate_id: str
    regions: tuple[Region, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    failure: Failure | None = None


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


Level = Literal["ok", "warning", "stop"]
"""What a monitor thinks of a figure: nothing to say, look at it, or end training."""
Phase = Literal["before", "during", "after"]
"""When a monitor reads: on the weights before training, after a step, or on the weights that training ends with."""


@dataclass(frozen=True)
class Reading:
    """A figure that a monitor took, finite, and how bad it is; or the ``failure`` that kept it from being taken.
    ``message`` says what the figure means here, in words for people."""

    name: str
    value: float | None
    level: Level = "ok"
    message: str = ""
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.failure is None):
            raise ContractError(f"the reading {self.name!r} needs a value or a failure, and not both")
        if self.value is not None and not math.isfinite(self.value):
            raise ContractError(f"the reading {self.name!r} must be finite, got {self.value}")
        if self.failure is not None and self.level == "stop":
            raise ContractError(f"the reading {self.name!r} has no value, which cannot end a training")


def told(monitor: str, reading: Reading) -> str:
    """A monitor's reading in one line, for people."""
    value = f"= {reading.value:.4g}" if reading.value is not None else "could not be read"
    failure = reading.failure
    why = reading.message if failure is None else f"{failure.cause}: {failure.detail}".rstrip(": ")
    return f"{monitor}: {reading.name} {value}{f' ({why})' if why else ''}"


@dataclass(frozen=True)
class Noted:
    """A reading of a monitor, as in ``monitors.jsonl``. ``step`` counts the steps that its weights were trained."""

    step: int
    phase: Phase
    monitor: str
    reading: Reading


def to_json(record: Any) -> Any:
    """A record as plain JSON types. Dataclasses in a union carry their class name as ``"type"``."""
    return _encode(record, tagged=False)


def from_json(kind: type[T], data: Any) -> T:
    """The record of class ``kind`` from :func:`to_json` output.

    Raises:
        ContractError: a field is missing, unknown, or of another type; the message has its path.
    """
    try:
        return typing.cast(T, _read_record(kind, data))
    except _MisfitError as misfit:
        raise ContractError(f"{kind.__name__}{misfit.path}: {misfit.what}") from None


# A run has a million of these: annotations are looked at once for each class, and what JSON has itself is not touched.
_PLAIN = frozenset({str, int, float, bool, types.NoneType})
_Reader: TypeAlias = Callable[[Any], Any]
_Field: TypeAlias = tuple[frozenset[type], _Reader]
"""The types of data that are values as they are, and what makes values of all others."""


def _encode(value: Any, tagged: bool) -> Any:
    kind: type = type(value)
    if kind in _PLAIN:
        return value
    if (fields := _tags(kind)) is not None:
        body: dict[str, Any] = {"type": kind.__name__} if tagged else {}
        for name, tag in fields:
            item = getattr(value, name)
            body[name] = item if type(item) in _PLAIN else _encode(item, tag)
        return body
    if isinstance(value, Mapping):
        return {str(key): _encode(item, tagged) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_encode(item, tagged) for item in value]
    return value


@cache
def _tags(kind: type) -> tuple[tuple[str, bool], ...] | None:
    """The names of a record's fields, each with whether its values are tagged; None for a class of another kind."""
    if not dataclasses.is_dataclass(kind):
        return None
    hints = typing.get_type_hints(kind)
    return tuple((field.name, _is_tagged(hints[field.name])) for field in dataclasses.fields(kind))


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else ()


def _is_tagged(hint: Any) -> bool:
    """Whether values of this annotation are a union of several dataclasses, also inside a tuple."""
    if typing.get_origin(hint) is tuple:
        return any(_is_tagged(arg) for arg in typing.get_args(hint))
    return sum(dataclasses.is_dataclass(member) for member in _members(hint)) > 1


class _MisfitError(Exception):
    """Data that does not fit its annotation. Its path is put together on the way out, since it is seldom asked for."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what, path)
        self.what, self.path = what, path

    def inside(self, step: str) -> _MisfitError:
        """The same, seen from one step further out."""
        return _MisfitError(self.what, step + self.path)


def _field(hint: Any) -> _Field:
    return frozenset(member for member in _members(hint) or (hint,) if member in _PLAIN), _reader(hint)


def _reader(hint: Any) -> _Reader:
    """What makes values of this annotation from JSON."""
    members = _members(hint)
    origin = typing.get_origin(hint)
    if members:
        return _union_reader(members)
    if origin is typing.Literal:
        return partial(_read_literal, typing.get_args(hint))
    if origin is tuple:
        return partial(_read_tuple, _field(typing.get_args(hint)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return partial(_read_mapping, _field(typing.get_args(hint)[1]))
    return partial(_read_record if dataclasses.is_dataclass(hint) else _read_plain, hint)


def _union_reader(members: Sequence[Any]) -> _Reader:
    records = {
        member.__name__: member for member in members if isinstance(member, type) and dataclasses.is_dataclass(member)
    }
    if len(records) > 1:
        read: _Reader = partial(_read_tagged, records)
    else:
        (only,) = [member for member in members if member is not types.NoneType]
        read = _reader(only)
    return partial(_read_optional, read) if types.NoneType in members else read


def _read_optional(read: _Reader, data: Any) -> Any:
    return None if data is None else read(data)


def _read_tagged(records: Mapping[str, type], data: Any) -> Any:
    name = data.get("type") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in records:
        raise _MisfitError(f"unknown record type {name!r}")
    return _read_record(records[name], {key: value for key, value in data.items() if key != "type"})


def _read_literal(allowed: Sequence[Any], data: Any) -> Any:
    if data not in allowed:
        raise _MisfitError(f"expected one of {', '.join(map(str, allowed))}, got {data!r}")
    return data


def _read_tuple(field: _Field, data: Any) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _MisfitError(f"expected a list, got {type(data).__name__}")
    plain, read = field
    values: list[Any] = []
    try:
        for entry in data:
            values.append(entry if type(entry) in plain else read(entry))
    except _MisfitError as misfit:
        raise misfit.inside(f"[{len(values)}]") from None
    return tuple(values)


def _read_mapping(field: _Field, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _MisfitError(f"expected an object, got {type(data).__name__}")
    return _read_values(dict.fromkeys(data, field), data)


def _read_plain(kind: Any, data: Any) -> Any:
    if kind is Any:
        return data
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is not bool and isinstance(data, bool)):
        raise _MisfitError(f"expected {kind.__name__}, got {data!r}")
    return data


def _read_record(kind: type, data: Any) -> Any:
    if not isinstance(data, dict):
        raise _MisfitError(f"expected an object, got {type(data).__name__}")
    fields, required = _fields(kind)
    if data.keys() != fields.keys():
        if unknown := sorted(set(data) - fields.keys()):
            raise _MisfitError(f"unknown field(s) {', '.join(unknown)}")
        if missing := sorted(required - data.keys()):
            raise _MisfitError(f"missing field(s) {', '.join(missing)}")
    return kind(**_read_values(fields, data))


def _read_values(fields: Mapping[str, _Field], data: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    try:
        for name, value in data.items():
            plain, read = fields[name]
            values[name] = value if type(value) in plain else read(value)
    except _MisfitError as misfit:
        raise misfit.inside(f".{name}") from None
    return values


@cache
def _fields(kind: type) -> tuple[dict[str, _Field], frozenset[str]]:
    """How to read each field of a class of records, and those that have no default."""
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {field.name: _field(hints[field.name]) for field in fields}, frozenset(required)
