"""Several judges as one: each scores the same candidates, and their scores become one.

A config names them as a list (``judge: [choice, rubric]``); :func:`ensemble` makes one provider of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from srum_plugins.contracts import Capability, Judge, Located, ModelAdapter
from srum_plugins.errors import ContractError
from srum_plugins.host import Registered
from srum_plugins.providers import Kind, Provider
from srum_plugins.records import Failure, Grounding, Judgement, Score, total
from srum_plugins.result_checks import check_judgements
from srum_plugins.runs.fingerprint import fingerprint

Combine = Literal["mean", "min"]


@dataclass(frozen=True)
class Member:
    """One judge of an ensemble. ``label`` tells it from the others, two of one name too."""

    label: str
    registered: Registered
    options: Any

    @property
    def needs(self) -> frozenset[Capability]:
        """What it asks of the adapter."""
        return self.registered.provider.needs(self.options)


@dataclass(frozen=True)
class EnsembleOptions:
    """``combine`` makes one score of the members': their ``mean``, or their ``min``."""

    combine: Combine = "mean"


def labels(names: Sequence[str]) -> tuple[str, ...]:
    """The names; those that occur several times are numbered from 1, as in ``rubric#2``."""
    count, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name}#{seen[name]}" if count[name] > 1 else name)
    return tuple(found)


def ensemble(members: Sequence[Member]) -> Registered:
    """The members as one provider of a judge, with :class:`EnsembleOptions`. It needs what any of them needs. Its name,
    distribution and version are theirs, joined by ``+``."""
    judges = tuple(members)
    registered = [member.registered for member in judges]
    provider = Provider(
        name="+".join(member.label for member in judges),
        summary="several judges as one",
        factory=lambda options: EnsembleJudge(judges, options),
        options=EnsembleOptions,
        needs=lambda options: frozenset[Capability]().union(*(member.needs for member in judges)),
    )
    return Registered(
        provider,
        Kind.JUDGE,
        distribution="+".join(dict.fromkeys(one.distribution for one in registered)),
        version="+".join(one.version for one in registered),
        file=registered[0].file,
        plugin="+".join(dict.fromkeys(one.plugin for one in registered)),
    )


class EnsembleJudge(Judge):
    """Asks one judge after the other. Every member judges every candidate."""

    def __init__(self, members: Sequence[Member], options: EnsembleOptions) -> None:
        self._members = {member.label: member for member in members}
        self._judges: dict[str, Judge] = {}
        for label, member in self._members.items():
            judge = member.registered.provider.factory(member.options)
            if not isinstance(judge, Judge):
                raise ContractError(
                    f"judge {label!r} of {member.registered.distribution}: its factory returned a "
                    f"{type(judge).__name__}, which is no Judge"
                )
            self._judges[label] = judge
        self._combine: Combine = options.combine

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """One judgement per item, see :func:`combined`. A member gets the model if it needs one itself."""
        given: dict[str, list[Judgement]] = {}
        for label, judge in self._judges.items():
            member = self._members[label]
            given[label] = judge.judge(items, groundings, model if member.needs else None)
            check_judgements(given[label], groundings, f"judge {label!r} of {member.registered.distribution}")
        return [
            combined({label: given[label][index] for label in given}, self._combine) for index in range(len(groundings))
        ]


def combined(given: Mapping[str, Judgement], how: Combine) -> Judgement:
    """One judgement of those that the judges gave of one candidate, by label, at least one.

    Scores are combined by :func:`combined_score`. ``raw`` has all raw answers, each after its judge's label; ``tokens``
    is the sum, None where a judge does not know its own; ``wording`` is a hash of the labels and wordings of all.
    """
    judgements = list(given.values())
    rows = zip(*(judgement.local for judgement in judgements), strict=True)
    return Judgement(
        judgements[0].candidate_id,
        combined_score({label: judgement.alpha for label, judgement in given.items()}, how),
        tuple(combined_score(dict(zip(given, row, strict=True)), how) for row in rows),
        raw=tuple(f"{label}: {text}" for label, judgement in given.items() for text in judgement.raw),
        tokens=total(judgement.tokens for judgement in judgements),
        wording=fingerprint([[label, judgement.wording] for label, judgement in given.items()]),
    )


def combined_score(given: Mapping[str, Score | Failure], how: Combine) -> Score | Failure:
    """The mean or the minimum of at least one score, by label, with the ``spread`` between the highest and the lowest.

    Where any judge failed it is a Failure that names all who did: a mean over those who are left would be another
    measure for this candidate than for the others, without anyone noticing.
    """
    scores = {label: one for label, one in given.items() if isinstance(one, Score)}
    if len(scores) < len(given):
        failed = {label: one for label, one in given.items() if isinstance(one, Failure)}
        label, first = next(iter(failed.items()))
        return Failure(f"{label}: {first.cause}", "; ".join(_told(*pair) for pair in failed.items()))
    values = [score.value for score in scores.values()]
    least, most = min(values), max(values)
    # Rounding could lead a mean of equal numbers outside their range.
    value = least if how == "min" else min(most, max(least, math.fsum(values) / len(values)))
    reason = "; ".join(f"{label} {score.value:.3f}: {score.reason}".rstrip(": ") for label, score in scores.items())
    return Score(value, reason, spread=most - least)


def _told(label: str, failure: Failure) -> str:
    return f"{label}: {failure.cause}: {failure.detail}".rstrip(": ")
