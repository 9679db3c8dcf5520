"""The page of an experiment: what its arms gained, beside one another, out of what their stages have on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from srum_plugins.ablations import sections as own
from srum_plugins.ablations.plan import Experiment, Key
from srum_plugins.ablations.results import Results
from srum_plugins.ablations.sections import Spent
from srum_plugins.ablations.stress import Curves
from srum_plugins.reporting import run_report, sections
from srum_plugins.reporting.page import page
from srum_plugins.reporting.run_report import REPORT, SHOWN
from srum_plugins.reporting.sections import Failed, Section
from srum_plugins.reporting.sides import Side, differing, strips
from srum_plugins.runs.files import write_if_different
from srum_plugins.stages import evaluate, train
from srum_plugins.stages.monitoring import read_noted, stopped_early
from srum_plugins.stages.session import Part, Session
from srum_plugins.training.checkpoints import MONITORS, read_metrics


@dataclass(frozen=True)
class Place:
    """A complete stage directory of a seed, and the arms that share it; ``session`` is of the first of them."""

    part: Part
    session: Session
    arms: tuple[str, ...]
    seed: int


def write(
    experiment: Experiment, results: Results, main: Session, sessions: Mapping[Key, Session], curves: Curves
) -> Path:
    """Write the page of an experiment beside its tables. ``main`` is of the configuration without any arm, ``sessions``
    of every arm and seed, ``curves`` of a stress test.

    Raises:
        DamagedError: a file that the page shows is not as it was written.
        StorageError: the disk is full, or may not be written.
    """
    path = experiment.results / REPORT
    write_if_different(path, experiment_page(experiment, results, main, sessions, curves).encode())
    return path


def experiment_page(
    experiment: Experiment, results: Results, main: Session, sessions: Mapping[Key, Session], curves: Curves
) -> str:
    """The page as HTML. Images and training curves are of the first seed. Raises what :func:`write` raises of files."""
    places = found_places(experiment, sessions)
    facts = [
        *run_report.providers(main),
        f"{len(experiment.arms)} arms",
        f"seeds {' '.join(map(str, experiment.seeds))}",
    ]
    if results.failures:
        facts.append(f"{len(results.failures)} runs failed")
    found = [own.sensitivity(curves)] if curves else []
    if results.rows:
        found.append(own.gains(results.rows, experiment.control))
    found.append(own.comparison(results.rows, experiment.control, _notes(experiment, results, sessions)))
    seed = experiment.seeds[0]
    trained = [arm.name for arm in experiment.arms if arm.trained and (arm.name, seed) in results.outcomes]
    if trained:
        shown = {arm: sessions[arm, seed] for arm in trained}
        found += galleries(shown, seed)
        metrics = {arm: read_metrics(session.directory(train.STAGE)) for arm, session in shown.items()}
        found.append(sections.curves(metrics, f"Of seed {seed}."))
    readings = [
        {**run_report.reading(noted), "name": f"{_of(place, experiment)} · {run_report.reading(noted)['name']}"}
        for place in places
        if place.part is train.STAGE
        for noted in read_noted(place.session.directory(train.STAGE).path / MONITORS)
    ]
    if readings:
        found.append(sections.monitors(readings))
    found += [
        sections.quarantine(
            [
                Failed(f"{one.stage} · {_of(place, experiment)}", one.candidate, one.cause, one.detail)
                for place in places
                for one in run_report.failed_records(place.session, [place.part])
            ]
        ),
        own.spent(times(experiment, places)),
        own.changes(experiment.arms),
        sections.made(
            OmegaConf.to_yaml(OmegaConf.create(dict(main.info.config))),
            main.info.versions,
            [
                run_report.made(place.session, place.part, f"{place.part.name} · {_of(place, experiment)}")
                for place in places
            ],
        ),
    ]
    return page(experiment.title, facts, found)


def found_places(experiment: Experiment, sessions: Mapping[Key, Session]) -> list[Place]:
    """Every complete stage directory once, seed by seed in the order of the stages and arms."""
    arms: dict[tuple[int, Path], list[str]] = {}
    first: dict[tuple[int, Path], tuple[Part, Session]] = {}
    for seed in experiment.seeds:
        for part in run_report.PARTS:
            for arm in experiment.arms:
                session = sessions[arm.name, seed]
                directory = session.directory(part)
                if arm.trained and directory.complete:
                    arms.setdefault((seed, directory.path), []).append(arm.name)
                    first.setdefault((seed, directory.path), (part, session))
    return [Place(part, session, tuple(arms[key]), key[0]) for key, (part, session) in first.items()]


def times(experiment: Experiment, places: Sequence[Place]) -> list[Spent]:
    """The seconds of the stages over all seeds, together for the arms that share them."""
    found: dict[str, dict[str, float]] = {}
    for place in places:
        if place.part not in evaluate.STAGE.parts:  # the time of evaluate has theirs
            own = found.setdefault(_arms(place, experiment), {})
            own[place.part.name] = own.get(place.part.name, 0.0) + place.session.directory(place.part).seconds()
    return [Spent(arms, seconds) for arms, seconds in found.items()]


def galleries(arms: Mapping[str, Session], seed: int) -> list[Section]:
    """Images before training and of every arm, whose evaluations are complete: the first of each split and category,
    and those whose verdicts differ."""
    some = next(iter(arms.values()))
    sides = [
        Side.read(some, "before", evaluate.BASELINE_IMAGES, evaluate.BASELINE),
        *(Side.read(session, arm, evaluate.IMAGES, evaluate.STAGE) for arm, session in arms.items()),
    ]
    prompts = {prompt.id: prompt.text for prompt in some.benchmark_prompts}
    records = sides[0].records
    first = evaluate.in_turn(records, range(len(records)), SHOWN)
    note = (
        f"The first prompts of each split and category, {len(first)} of {len(records)}, not chosen by their result. "
        f"A prompt has one seed in all arms. Of seed {seed}."
    )
    found = [sections.gallery("Images", strips(prompts, sides, [records[index] for index in first]), note)]
    if unlike := differing(sides):
        shown = evaluate.in_turn(records, unlike, SHOWN)
        note = f"{len(unlike)} of {len(records)} prompts are met by some and not by others. Shown: {len(shown)}."
        differ = strips(prompts, sides, [records[index] for index in shown])
        found.append(sections.gallery("Different verdicts", differ, note, key="different", folded=True))
    return found


def _notes(experiment: Experiment, results: Results, sessions: Mapping[Key, Session]) -> list[str]:
    """What else is to be told of the arms: which of them failed, and whose training a monitor ended."""
    notes = [
        f"{arm}, seed {seed}: failed, {failure.cause}: {failure.detail}"
        for (arm, seed), failure in results.failures.items()
    ]
    for arm, seed in results.outcomes:
        directory = sessions[arm, seed].directory(train.STAGE)
        trained = any(one.name == arm and one.trained for one in experiment.arms)
        if trained and (stopped := stopped_early(directory.facts())):
            notes.append(f"{arm}, seed {seed}: {stopped}")
    return notes


def _arms(place: Place, experiment: Experiment) -> str:
    trained = [arm for arm in experiment.arms if arm.trained]
    return "all arms" if len(place.arms) == len(trained) else ", ".join(place.arms)


def _of(place: Place, experiment: Experiment) -> str:
    """Whose results these are; the seed is told where there are several."""
    return f"{_arms(place, experiment)}{f', seed {place.seed}' if len(experiment.seeds) > 1 else ''}"
