"""What an experiment came to, and the files that hold it."""

from __future__ import annotations

from dataclasses import dataclass, field

from srum_plugins.ablations.compare import Row
from srum_plugins.ablations.outcome import Outcome
from srum_plugins.ablations.plan import Experiment, Key
from srum_plugins.ablations.tables import csv_text, markdown
from srum_plugins.errors import StageError
from srum_plugins.records import Failure
from srum_plugins.runs.files import write_if_different, write_json


@dataclass
class Results:
    """What an experiment came to: by arm and seed an outcome or why there is none, and the table's rows."""

    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    failures: dict[Key, Failure] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def failed(self) -> StageError:
        """The error that tells which arms failed."""
        each = "".join(f"\n  {arm}, seed {seed}: {failure.detail}" for (arm, seed), failure in self.failures.items())
        return StageError(
            f"{len(self.failures)} runs failed; the table has the others. Mend the cause and start the same command "
            f"again:{each}"
        )


def write_tables(experiment: Experiment, results: Results) -> None:
    """Write ``table.md``, ``table.csv`` and ``results.json`` into the folder of an experiment's results."""
    folder, found, control = experiment.results, results.rows, experiment.control
    title = f"{experiment.title}, seeds {' '.join(map(str, experiment.seeds))}"
    write_if_different(folder / "table.md", markdown(found, control, title, results.failures).encode())
    write_if_different(folder / "table.csv", csv_text(found).encode())
    write_json(
        folder / "results.json",
        {
            "experiment": experiment.name,
            "control": control,
            "seeds": list(experiment.seeds),
            "arms": {arm.name: {"about": arm.about, "overrides": list(arm.overrides)} for arm in experiment.arms},
            "rows": [row.plain() for row in found],
            "by_seed": [
                {"arm": arm, "seed": seed, "summary": one.summary} for (arm, seed), one in results.outcomes.items()
            ],
            "failures": [
                {"arm": arm, "seed": seed, "cause": one.cause, "detail": one.detail}
                for (arm, seed), one in results.failures.items()
            ],
        },
    )
