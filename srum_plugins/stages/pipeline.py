"""Which stages there are, in what order they run, and what listeners hear of it."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image

from srum_plugins import gate
from srum_plugins.config import RunConfig
from srum_plugins.errors import ConfigError, StageError
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost, Registered
from srum_plugins.providers import Kind
from srum_plugins.report import rows
from srum_plugins.reporting import run_report
from srum_plugins.runs.files import clean, read_sealed, storing, write_if_different
from srum_plugins.runs.fingerprint import SHORT
from srum_plugins.runs.lock import held
from srum_plugins.runs.redo import finished, put_aside, redoing
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import evaluate, generate, ground, judge, reward, train
from srum_plugins.stages.monitoring import stopped_early
from srum_plugins.stages.quarantine import told
from srum_plugins.stages.session import Part, Session, Stage
from srum_plugins.world import World, disagreements

STAGES: tuple[Stage, ...] = (
    generate.STAGE,
    ground.STAGE,
    judge.STAGE,
    reward.STAGE,
    train.STAGE,
    evaluate.STAGE,
)
NAMES = tuple(stage.name for stage in STAGES)
SCORE = "score"
"""Where to start to have the benchmark's images scored again, and none of them drawn."""


def run(
    config: RunConfig,
    host: PluginHost,
    only: str | None = None,
    say: Callable[[str], None] = print,
    world: World | None = None,
    start: str | None = None,
    parent: RunInfo | None = None,
) -> dict[str, Any]:
    """Run all stages, or only one whose inputs are complete, and return the run's summary (empty without evaluation).

    What is complete for this configuration is reused. If that is everything, nothing is done and ``say`` is told so.
    With ``start`` that stage and those after it are done again; their results so far are put aside. The start ``score``
    lies within ``evaluate``: the benchmark's images are scored again.
    With a ``world`` of several processes, each of them calls this; the main one alone calls ``say`` and listeners.
    ``parent`` is the run that this one is a part of, such as an ablation.

    Raises:
        StageError: a stage before ``only`` is missing or stale, a stage cannot run, or another process has failed.
        SrumError: whatever else keeps a stage from running; see :mod:`srum_plugins.errors`.
    """
    world = world or World()
    try:
        chosen = [stage for stage in STAGES if only in (None, stage.name)]
        check(config, host, chosen, world)
        session = Session(config, host, world, parent)
        _agree(session)
        if only is not None:
            _require_inputs(session, chosen[0])
        return _run_stages(session, chosen, say if world.main else lambda text: None, start)
    except BaseException as error:
        if isinstance(error, RuntimeError):  # such as of a collective that lost a process, which may have said why
            world.check()
        world.fail(error)
        raise


def check(config: RunConfig, host: PluginHost, chosen: Sequence[Stage], world: World) -> None:
    """Refuse what cannot run to its end, before anything is loaded; see :mod:`srum_plugins.gate`."""
    for refuse in checks(config, host, chosen, world):
        refuse()


def checks(config: RunConfig, host: PluginHost, chosen: Sequence[Stage], world: World) -> Iterator[Callable[[], None]]:
    """What :func:`check` calls, one by one: each raises SrumError for what it refuses."""
    adapter, names = config.providers[Kind.ADAPTER], [stage.name for stage in chosen]
    yield partial(gate.check, adapter.registered, _others(config), names, ground=config.ground, host=host)
    if any(gate.STAGE_NEEDS[name] for name in names):  # else the model may not be needed at all
        yield partial(gate.check_adapter, adapter.registered, adapter.options)
    if any(stage is train.STAGE for stage in chosen):
        objective = config.providers[Kind.OBJECTIVE]
        yield partial(gate.check_optimizer, adapter.registered, adapter.options, config.training, config.train)
        yield partial(gate.check_latents, adapter.registered, adapter.options, config.train)
        yield partial(gate.check_objective, adapter.registered, objective.registered, objective.options)
        yield partial(gate.check_world, adapter.registered, config.train, world.size)
        yield partial(gate.check_monitors, _watching(config), config.train, world.size)


def _run_stages(
    session: Session, chosen: Sequence[Stage], say: Callable[[str], None], start: str | None
) -> dict[str, Any]:
    config, world, hook = session.config, session.world, session.hook
    settings = OmegaConf.to_yaml(OmegaConf.create(dict(session.info.config))).encode()
    if start is None and world.tell("is all complete", lambda: _all_done(session, chosen, settings)):
        say(f"nothing to do: {_count(chosen)} complete in {config.directory} for this configuration")
        return summary_of(session)
    with held(config.directory, world):
        if world.main:
            with storing(config.directory):
                clean(config.directory)
            if start is not None:
                put_aside(config.directory, start, [session.directory(part) for part in _again(start)], say)
            if not summary_of(session):  # what is there is of another configuration, and stays with its evaluation
                with storing(config.directory / "summary.json"):
                    (config.directory / "summary.json").unlink(missing_ok=True)
            with storing(config.directory / run_report.REPORT):  # written anew at the end, if it is wanted
                (config.directory / run_report.REPORT).unlink(missing_ok=True)
            write_if_different(config.directory / "config.yaml", settings)
        try:
            hook.srum_run_started(run=session.info)
            for stage in chosen:
                _run_stage(session, stage, say)
            summary = summary_of(session)
            if world.main and summary and config.run.report:
                hook.srum_report(run=session.info, path=run_report.write(session, summary))
            hook.srum_run_finished(run=session.info, summary=summary)
        except BaseException as error:
            hook.srum_run_failed(run=session.info, error=error)
            raise
        if world.main:  # last, because a run whose summary is there has told its listeners everything
            for path, data in _outcome(session, settings).items():
                write_if_different(path, data)
            finished(config.directory)
        world.meet("finished")
        return summary


def _agree(session: Session) -> None:
    """Raise ConfigError if a process has another configuration, other weights or other versions than the main one."""
    own = {"the configuration": session.info.config_hash[:SHORT], **session.info.versions, "torch": torch.__version__}
    told = session.world.tell("what is run", lambda: own)
    if differences := disagreements(own, told):
        raise ConfigError(
            f"process {session.world.rank} on {socket.gethostname()} would run something else than process 0: "
            f"{'; '.join(differences)}. Every machine needs the same config, packages and checkpoints"
        )


def _again(start: str) -> list[Part]:
    """What is done again from a stage on: also the benchmark's images and figures before training, if it is that far
    up; from :data:`SCORE` on, all figures and no images."""
    if start == SCORE:
        return [evaluate.BASELINE, evaluate.STAGE]
    stages: list[Part] = [*STAGES[NAMES.index(start) : -1], evaluate.IMAGES, evaluate.STAGE]
    return [evaluate.BASELINE_IMAGES, evaluate.BASELINE, *stages] if start in ("generate", "evaluate") else stages


def _all_done(session: Session, chosen: Sequence[Stage], settings: bytes) -> bool:
    directories = [session.directory(stage) for stage in chosen]
    if redoing(session.config.directory) or not all(directory.complete for directory in directories):
        return False
    report = session.config.directory / run_report.REPORT
    if session.config.run.report and session.directory(evaluate.STAGE).complete and not report.exists():
        return False
    files = _outcome(session, settings)
    for directory in directories:
        files |= _shown(session, directory)
    return all(path.exists() and path.read_bytes() == data for path, data in files.items())


def _others(config: RunConfig) -> dict[str, tuple[Registered, Any]]:
    """All providers but the adapter with their options, by slot; the judges of an ensemble are ``judge[0]`` and so on,
    as in the config's messages."""
    found = {}
    for kind, choice in config.providers.items():
        for index, one in enumerate(choice.each):
            found[f"{kind.value}[{index}]" if choice.members else kind.value] = (one.registered, one.options)
    del found[Kind.ADAPTER.value]
    return {**found, **_watching(config)}


def _watching(config: RunConfig) -> dict[str, tuple[Registered, Any]]:
    """The monitors with their options, and what these name."""
    found = {}
    for index, choice in enumerate(config.monitors.values()):
        found[f"monitors[{index}]"] = (choice.registered, choice.options)
        for option, part in choice.parts.items():
            found[f"monitors[{index}].{option}"] = (part.registered, part.options)
    return found


def _run_stage(session: Session, stage: Stage, say: Callable[[str], None]) -> None:
    directory, hook, info, world = session.directory(stage), session.hook, session.info, session.world
    reused = world.tell(f"is {stage.name} complete", lambda: directory.complete)
    if world.main:
        if reused:
            for part in (stage, *stage.parts):
                session.directory(part).use()
        else:
            if stale := directory.staleness():
                say(stale)
            if differences := directory.begin(session.made_with):
                say(f"{stage.name} goes on with what was begun otherwise: {'; '.join(differences)}")
        done, total = stage.progress(session, directory)
        hook.srum_stage_started(run=info, stage=stage.name, done=done, total=total)
    if not reused:
        world.meet(f"{stage.name} begun")
        try:
            stage.make(session, directory)
            if world.main:
                facts = stage.conclude(session, directory)
                directory.finish(facts)
                if quarantined := told(directory, facts):
                    say(quarantined)
            world.meet(f"{stage.name} finished")
        except BaseException as error:
            hook.srum_stage_failed(run=info, stage=stage.name, error=error)
            raise
    if world.main:
        if stopped := stopped_early(directory.facts()):
            say(stopped)
        _publish(session, stage, directory)
    hook.srum_stage_finished(run=info, stage=stage.name, seconds=directory.seconds(), reused=reused)


def _publish(session: Session, stage: Stage, directory: StageDirectory) -> None:
    """Tell listeners what a complete stage found. Told again when it is reused: the listener may be new."""
    hook, info = session.hook, session.info
    figures = {name: float(value) for name, value in directory.facts().items() if isinstance(value, int | float)}
    hook.srum_metrics(run=info, stage=stage.name, metrics=figures)
    shown = _shown(session, directory)
    for path in directory.path.parent.glob("*/pictures/*.png"):
        place = _pictures(session) / path.name
        if place not in shown:  # what another configuration had to show, and this one not
            place.unlink(missing_ok=True)
    for place, data in shown.items():
        write_if_different(place, data)
        with Image.open(io.BytesIO(data)) as image:
            hook.srum_images(run=info, name=place.stem, image=image.convert("RGB"))
    if stage is evaluate.STAGE:
        hook.srum_table(run=info, name="results", rows=rows(summary_of(session)))


def _pictures(session: Session) -> Path:
    return session.config.directory / "pictures"


def _shown(session: Session, directory: StageDirectory) -> dict[Path, bytes]:
    """The pictures of a complete stage where they are shown: at the top of the run directory."""
    return {_pictures(session) / name: data for name, data in directory.pictures().items()}


def summary_of(session: Session) -> dict[str, Any]:
    """The run's summary; empty if the evaluation of this configuration is not complete."""
    directory = session.directory(evaluate.STAGE)
    if not directory.complete:
        return {}
    seconds = {stage.name: session.directory(stage).seconds() for stage in STAGES}
    summary = {**read_sealed(directory.path / "summary.json"), "arm": session.config.arm, "seconds": seconds}
    trained = session.directory(train.STAGE)
    stopped = stopped_early(trained.facts()) if trained.complete else ""
    return {**summary, "stopped": stopped} if stopped else summary


def _outcome(session: Session, settings: bytes) -> dict[Path, bytes]:
    """The files at the top of the run directory that say what it holds."""
    folder, summary = session.config.directory, summary_of(session)
    files = {folder / "config.yaml": settings}
    if summary:
        files[folder / "summary.json"] = f"{json.dumps(summary, indent=2, ensure_ascii=False)}\n".encode()
    return files


def _require_inputs(session: Session, wanted: Stage) -> None:
    """Raise StageError naming the first stage that ``wanted`` needs and that is missing or stale."""
    for stage in STAGES[: STAGES.index(wanted)]:
        directory = session.directory(stage)
        if directory.complete:
            continue
        stale = directory.staleness()
        if stale:
            cause = f"but {stale}"
        elif directory.path.exists():
            done, total = stage.progress(session, directory)
            cause = f"but {stage.name} is not complete ({done} of {total})"
        else:
            cause = f"but {stage.name} has not been run"
        raise StageError(f"{wanted.name} needs {stage.name}, {cause}. Run `srum {stage.name}` first, or `srum run`.")


def _count(stages: Sequence[Stage]) -> str:
    return f"the stage {stages[0].name} is" if len(stages) == 1 else f"all {len(stages)} stages are"
