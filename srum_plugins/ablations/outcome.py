"""What one arm came to with one seed, read from its stage directories and kept on disk.

A run's own ``summary.json`` is that of the arm that ran last, since all arms of a seed share one run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srum_plugins.ablations.arms import Arm
from srum_plugins.errors import ContractError, DamagedError
from srum_plugins.records import from_json, to_json
from srum_plugins.runs.files import read_sealed, write_sealed
from srum_plugins.stages import evaluate
from srum_plugins.stages.session import Session


@dataclass(frozen=True)
class Mark:
    """Full accuracy of one benchmark prompt before and after training, each in [0, 1]."""

    prompt_id: str
    split: str
    before: float
    after: float


@dataclass(frozen=True)
class Outcome:
    """``evaluation`` is the fingerprint of the evaluation that this was read from. ``summary`` is that of the run
    (docs/configuration.md), empty for an arm that is not trained. ``understanding`` says whether the weights of the
    understanding half are the same to the bit before and after; None: nobody compared."""

    arm: str
    seed: int
    evaluation: str
    marks: tuple[Mark, ...]
    understanding: bool | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


def source(session: Session, arm: Arm) -> str:
    """The fingerprint of the evaluation that an arm's outcome is read from."""
    return session.directory(evaluate.STAGE if arm.trained else evaluate.BASELINE).fingerprint


def outcome(session: Session, arm: Arm, summary: Mapping[str, Any]) -> Outcome:
    """The outcome of an arm whose evaluation is complete. Prompts that were not measured on both sides have no mark.

    Raises:
        DamagedError: a file of the evaluation is not as it was written.
    """
    before = evaluate.shards(session, session.directory(evaluate.BASELINE)).read()
    after = evaluate.shards(session, session.directory(evaluate.STAGE)).read() if arm.trained else before
    marks = tuple(
        Mark(new.prompt_id, new.split, old.values["full"], new.values["full"])
        for old, new in zip(before, after, strict=True)
        if "full" in old.values and "full" in new.values
    )
    same = (summary.get("understanding") or {}).get("identical") if arm.trained else True
    return Outcome(arm.name, session.config.run.seed, source(session, arm), marks, same, dict(summary))


def save(path: Path, found: Outcome) -> None:
    """Keep an outcome on disk."""
    write_sealed(path, to_json(found))


def known(path: Path, evaluation: str) -> Outcome | None:
    """The outcome of this evaluation, if it is on disk and whole; else it is made again."""
    if not path.exists():
        return None
    try:
        found = from_json(Outcome, read_sealed(path))
    except (DamagedError, ContractError):
        return None
    return found if found.evaluation == evaluation else None
