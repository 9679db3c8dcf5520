"""The benchmark's images of several models side by side: before and after training, or of the arms of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srum_plugins.reporting.sections import Shot, Strip
from srum_plugins.runs.shards import Shards
from srum_plugins.stages import evaluate
from srum_plugins.stages.evaluate import Drawn, Measured
from srum_plugins.stages.session import Part, Session


@dataclass(frozen=True)
class Side:
    """The images of one model and what they were measured as, in the order of the benchmark's prompts."""

    label: str
    files: Shards[Drawn]
    drawn: Mapping[tuple[str, int], Drawn]
    measured: Mapping[tuple[str, int], Measured]

    @classmethod
    def read(cls, session: Session, label: str, images: Part, figures: Part) -> Side:
        """The side of a run that these complete parts hold.

        Raises:
            DamagedError: a file of theirs is not as it was written.
        """
        files = evaluate.images(session, session.directory(images))
        measured = evaluate.shards(session, session.directory(figures)).read()
        return cls(
            label,
            files,
            {(one.prompt_id, one.seed): one for one in files.read()},
            {(one.prompt_id, one.seed): one for one in measured},
        )

    @property
    def records(self) -> list[Measured]:
        """What was measured, prompt by prompt."""
        return list(self.measured.values())

    def shot(self, record: Measured) -> Shot | None:
        """The image of a record's prompt and seed; None if this side has none."""
        key = record.prompt_id, record.seed
        if key not in self.drawn or key not in self.measured:
            return None
        full = self.measured[key].values.get("full")
        # Of a score such as 0.9 nobody can say that the prompt is met or is not.
        met = full == 1.0 if full in (0.0, 1.0) else None
        return Shot(self.label, self.files.image(self.drawn[key].image), met)


def strips(prompts: Mapping[str, str], sides: Sequence[Side], records: Sequence[Measured]) -> list[Strip]:
    """A strip for each record: the images of its prompt and seed on all sides that have one. ``prompts`` are the texts
    by id."""
    made = []
    for record in records:
        shots = [shot for side in sides if (shot := side.shot(record)) is not None]
        made.append(Strip(prompts[record.prompt_id], " · ".join(filter(None, (record.split, record.category))), shots))
    return made


def differing(sides: Sequence[Side]) -> list[int]:
    """The places among the first side's records of those that have different verdicts ``full`` on some sides."""
    found = []
    for index, key in enumerate(sides[0].measured):
        given = [side.measured[key].values for side in sides if key in side.measured]
        if len({values["full"] for values in given if "full" in values}) > 1:
            found.append(index)
    return found
