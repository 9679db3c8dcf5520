"""Running the arms of an experiment, seed by seed, so that they share what they have in common.

All arms of a seed run in one run directory, one after the other: candidates, regions, judgements and the benchmark
before training are made once. Listeners hear of the experiment as a run without stages, the parent of its arms' runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from srum_plugins.ablations import page
from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.compare import Row, rows
from srum_plugins.ablations.outcome import Outcome, known, outcome, save, source
from srum_plugins.ablations.plan import Experiment, Key
from srum_plugins.ablations.results import Results, write_tables
from srum_plugins.ablations.stress import Curves, sensitivity_curve
from srum_plugins.ablations.tables import shown
from srum_plugins.errors import SrumError, StageError, StorageError, TrackingError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost
from srum_plugins.records import Failure
from srum_plugins.report import splits
from srum_plugins.runs.files import image_bytes, write_if_different
from srum_plugins.runs.fingerprint import fingerprint
from srum_plugins.stages import evaluate
from srum_plugins.stages.edited import edited
from srum_plugins.stages.pipeline import STAGES, run
from srum_plugins.stages.session import Session
from srum_plugins.stats import Interval
from srum_plugins.world import World


def run_arms(
    experiment: Experiment,
    host: PluginHost,
    world: World,
    say: Callable[[str], None],
    sensitivity: Callable[[Sequence[Row]], Curves] = lambda rows: {},
) -> Results:
    """Run what is missing, write the tables, and return everything.

    ``<results>/table.md``, ``table.csv`` and ``results.json`` hold the table, ``<results>/report.html`` shows
    everything (unless ``run.report`` is false), and ``<results>/<name>.png`` draws what ``sensitivity`` finds in the
    rows. Outcomes are kept as soon as they are there: what is complete is not run again. An arm that fails is told and
    stands in :attr:`Results.failures`, and the others go on; with several processes it stops all.

    Raises:
        StorageError: the disk is full, or may not be written.
        DamagedError: a file that the report shows is not as it was written.
        TrackingError: the tracker cannot be used.
    """
    main = Session(experiment.main, host, world)
    parent = dataclasses.replace(
        main.info,
        name=experiment.title,
        directory=experiment.results,
        config_hash=fingerprint([experiment.name, main.info.config_hash]),
    )
    sessions = {key: Session(config, host, world) for key, config in experiment.configs.items()}
    try:
        main.hook.srum_run_started(run=parent)
        results = _outcomes(experiment, sessions, world, say if world.main else lambda text: None, parent)
        untrained = [arm.name for arm in experiment.arms if not arm.trained]
        results.rows = rows([*results.outcomes.values()], experiment.control, untrained)
        if world.main:
            _publish(experiment, results, main, sessions, parent, sensitivity(results.rows))
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
    experiment: Experiment,
    sessions: Mapping[Key, Session],
    world: World,
    say: Callable[[str], None],
    parent: RunInfo,
) -> Results:
    results = Results()
    told: set[str] = set()
    for seed in experiment.seeds:
        same: dict[str, str] = {}
        # Last what is not trained: its figures are part of the evaluation of any other.
        for arm in sorted(experiment.arms, key=lambda arm: not arm.trained):
            session = sessions[arm.name, seed]
            evaluation = source(session, arm)
            if evaluation in same:
                say(f"{arm.name} is the same configuration as {same[evaluation]}, and has its results")
            same.setdefault(evaluation, arm.name)
            changes = {text for stage in STAGES for text in edited(session.config, session.directory(stage))}
            for text in sorted(changes - told):
                say(text)
            told |= changes
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
    experiment: Experiment,
    results: Results,
    main: Session,
    sessions: Mapping[Key, Session],
    parent: RunInfo,
    curves: Curves,
) -> None:
    """Write the tables and the page, and tell listeners."""
    write_tables(experiment, results)
    main.hook.srum_table(run=parent, name=experiment.name, rows=[row.plain() for row in results.rows])
    figures = {f"{row.arm}/{row.split}/minus_base": row.base.delta for row in results.rows if row.base is not None}
    main.hook.srum_metrics(run=parent, stage=experiment.name, metrics=figures)
    if (drawn := sensitivity_curve(curves)) is not None:
        write_if_different(experiment.results / f"{experiment.name}.png", image_bytes(drawn))
        main.hook.srum_images(run=parent, name=experiment.name, image=drawn)
    if experiment.main.run.report:
        main.hook.srum_report(run=parent, path=page.write(experiment, results, main, sessions, curves))


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
