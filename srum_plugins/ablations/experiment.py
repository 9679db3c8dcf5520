"""Running the arms of an experiment, seed by seed, so that they share what they have in common.

All arms of a seed run in one run directory, one after the other: candidates, regions, judgements and the benchmark
before training are made once. Listeners hear of the experiment as a run without stages, the parent of its arms' runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.compare import Row, rows
from srum_plugins.ablations.outcome import Outcome, known, outcome, save, source
from srum_plugins.ablations.tables import csv_text, markdown, shown
from srum_plugins.config import RunConfig, load
from srum_plugins.errors import ConfigError, SrumError, StageError, StorageError, TrackingError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost
from srum_plugins.records import Failure
from srum_plugins.report import splits
from srum_plugins.runs.files import image_bytes, write_if_different, write_json
from srum_plugins.runs.fingerprint import fingerprint
from srum_plugins.stages import evaluate
from srum_plugins.stages.pipeline import STAGES, check, run
from srum_plugins.stages.session import Session
from srum_plugins.stats import Interval
from srum_plugins.world import World

Key = tuple[str, int]
"""The name of an arm and its seed."""


@dataclass(frozen=True)
class Experiment:
    """What is to be run: ``arms`` with ``seeds``, each under its configuration, compared with the arm ``control``.

    ``main`` is the configuration without any arm. Runs live in ``folder/seed-<n>``, results in ``folder/<name>``.
    """

    name: str
    folder: Path
    main: RunConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    control: str | None
    configs: Mapping[Key, RunConfig]

    @property
    def results(self) -> Path:
        """Where the tables are."""
        return self.folder / self.name

    def kept(self, arm: str, seed: int) -> Path:
        """Where the outcome of an arm with a seed is kept."""
        return self.results / "outcomes" / f"seed-{seed}" / f"{arm}.json"


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


def plan(
    name: str,
    path: Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    control: str | None,
    host: PluginHost,
    folder: Path | None = None,
) -> Experiment:
    """Every configuration of an experiment, loaded and checked, so that mistakes are told before hours of work.

    ``overrides`` count for every arm, and more than its own. Without ``seeds`` there is one, ``run.seed``. ``folder``
    is ``<run.directory>-arms`` if it is not given.

    Raises:
        ConfigError: an arm cannot run (which, and why), nothing is trained, or a seed occurs twice.
    """
    main = load(path, overrides, host)
    seeds = tuple(seeds) or (main.run.seed,)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"a seed occurs twice: {' '.join(map(str, seeds))}")
    if not any(arm.trained for arm in arms):
        raise ConfigError("no arm is trained: choose one to compare with the base")
    folder = folder or main.directory.with_name(f"{main.directory.name}-arms")
    configs = {}
    for seed in seeds:
        for arm in arms:
            own = [
                f"run.name={json.dumps(f'{arm.name}, seed {seed}')}",
                f"run.directory={json.dumps(str(folder / f'seed-{seed}'))}",
                f"run.seed={seed}",
            ]
            try:
                config = configs[arm.name, seed] = load(path, [*arm.overrides, *overrides, *own], host)
                check(config, host, STAGES, World())
            except SrumError as error:
                raise ConfigError(f"arm {arm.name!r}: {error}") from error
    return Experiment(name, folder, main, tuple(arms), seeds, control, configs)


def run_arms(
    experiment: Experiment,
    host: PluginHost,
    world: World,
    say: Callable[[str], None],
    picture: Callable[[Results], Image.Image | None] = lambda results: None,
) -> Results:
    """Run what is missing, write the tables, and return everything.

    ``<results>/table.md``, ``table.csv`` and ``results.json`` hold the table, ``<results>/<name>.png`` what ``picture``
    draws of it. Outcomes are kept as soon as they are there: what is complete is not run again. An arm that fails is
    told and stands in :attr:`Results.failures`, and the others go on; with several processes it stops all.

    Raises:
        StorageError: the disk is full, or may not be written.
        TrackingError: the tracker cannot be used.
    """
    main = Session(experiment.main, host, world)
    parent = dataclasses.replace(
        main.info,
        name=f"{experiment.main.run.name} {experiment.name}",
        directory=experiment.results,
        config_hash=fingerprint([experiment.name, main.info.config_hash]),
    )
    try:
        main.hook.srum_run_started(run=parent)
        results = _outcomes(experiment, host, world, say if world.main else lambda text: None, parent)
        untrained = [arm.name for arm in experiment.arms if not arm.trained]
        results.rows = rows([*results.outcomes.values()], experiment.control, untrained)
        if world.main:
            _publish(experiment, results, main, parent, picture(results))
        if results.failures:
            main.hook.srum_run_failed(run=parent, error=results.failed())
        else:
            main.hook.srum_run_finished(run=parent, summary={})
    except BaseException as error:
        world.fail(error)
        main.hook.srum_run_failed(run=parent, error=error)
        raise
    return results


def _outcomes(
    experiment: Experiment, host: PluginHost, world: World, say: Callable[[str], None], parent: RunInfo
) -> Results:
    results = Results()
    for seed in experiment.seeds:
        same: dict[str, str] = {}
        # Last what is not trained: its figures are part of the evaluation of any other.
        for arm in sorted(experiment.arms, key=lambda arm: not arm.trained):
            session = Session(experiment.configs[arm.name, seed], host, world)
            evaluation = source(session, arm)
            if evaluation in same:
                say(f"{arm.name} is the same configuration as {same[evaluation]}, and has its results")
            same.setdefault(evaluation, arm.name)
            try:
                found = _outcome(experiment, session, arm, world, parent)
            except (StorageError, TrackingError):
                raise
            except SrumError as error:
                if world.size > 1:
                    raise
                results.failures[arm.name, seed] = Failure(type(error).__name__, str(error))
                say(f"{arm.name}, seed {seed}: failed, {error}")
            else:
                results.outcomes[arm.name, seed] = found
                say(f"{arm.name}, seed {seed}: {_brief(found)}")
    order = [(arm.name, seed) for arm in experiment.arms for seed in experiment.seeds]
    results.outcomes = {key: results.outcomes[key] for key in order if key in results.outcomes}
    return results


def _outcome(experiment: Experiment, session: Session, arm: Arm, world: World, parent: RunInfo) -> Outcome:
    """The outcome of an arm with a seed: from disk if it is there."""
    path = experiment.kept(arm.name, session.config.run.seed)
    evaluation = source(session, arm)
    if world.tell(f"{arm.name}: is it there", lambda: known(path, evaluation) is not None):
        found = known(path, evaluation)
        assert found is not None
        return found
    summary = {}
    if arm.trained:
        summary = run(session.config, session.host, say=lambda text: None, world=world, parent=parent)
    elif not session.directory(evaluate.BASELINE).complete:
        raise StageError(
            "the model before training was not measured: no arm that is trained is complete under the main "
            "configuration's own `evaluate` settings"
        )
    found = outcome(session, arm, summary)
    if world.main:
        save(path, found)
    world.meet(f"{arm.name}: kept")
    return found


def _publish(
    experiment: Experiment, results: Results, main: Session, parent: RunInfo, drawn: Image.Image | None
) -> None:
    """Write the tables, and tell listeners."""
    folder, found, control = experiment.results, results.rows, experiment.control
    title = f"{parent.name}, seeds {' '.join(map(str, experiment.seeds))}"
    write_if_different(folder / "table.md", markdown(found, control, title, results.failures).encode())
    write_if_different(folder / "table.csv", csv_text(found).encode())
    plains = [row.plain() for row in found]
    write_json(
        folder / "results.json",
        {
            "experiment": experiment.name,
            "control": control,
            "seeds": list(experiment.seeds),
            "arms": {arm.name: {"about": arm.about, "overrides": list(arm.overrides)} for arm in experiment.arms},
            "rows": plains,
            "by_seed": [
                {"arm": arm, "seed": seed, "summary": one.summary} for (arm, seed), one in results.outcomes.items()
            ],
            "failures": [
                {"arm": arm, "seed": seed, "cause": one.cause, "detail": one.detail}
                for (arm, seed), one in results.failures.items()
            ],
        },
    )
    main.hook.srum_table(run=parent, name=experiment.name, rows=plains)
    figures = {f"{row.arm}/{row.split}/minus_base": row.base.delta for row in found if row.base is not None}
    main.hook.srum_metrics(run=parent, stage=experiment.name, metrics=figures)
    if drawn is not None:
        write_if_different(folder / f"{experiment.name}.png", image_bytes(drawn))
        main.hook.srum_images(run=parent, name=experiment.name, image=drawn)


def _brief(found: Outcome) -> str:
    """The gain of one arm with one seed, in a line."""
    if not found.summary:
        return "the figures before training"
    told = []
    for split in splits(found.summary):
        entry = found.summary[split]
        if entry["ci95"] is not None:  # there is none where nothing could be measured
            low, high = entry["ci95"]
            told.append(f"{split} {shown(Interval(entry['delta'], low, high, entry['prompts']))}")
    return " · ".join(told)
