"""Stage ``train``: the objective on reward-weighted candidates, resumable to the bit.

Metrics written after the last checkpoint are dropped on resume.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from srum_plugins.config import TrainSection
from srum_plugins.contracts import Example
from srum_plugins.errors import ConfigError, ContractError, StageError, did_you_mean
from srum_plugins.pictures import training_curve
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.runs.files import storing, write_folder
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, monitoring, reward
from srum_plugins.stages.monitoring import Watch, read_noted, stopping
from srum_plugins.stages.session import Session, Stage
from srum_plugins.training import parallel
from srum_plugins.training.checkpoints import (
    METRICS,
    MONITORS,
    best,
    checkpoints,
    drop,
    read_metrics,
    restore,
    resume,
    save,
    sizes,
    to_keep,
)
from srum_plugins.training.dataset import Dataset
from srum_plugins.training.shared_tensors import fill, full
from srum_plugins.training.state import TrainingState
from srum_plugins.training.step import Trainer

HOW = ("checkpoint_every", "keep", "keep_best", "microbatch", "sharding", "latents_gib")
"""Settings that decide how training is done, and nothing about its result but rounding."""


def ingredients(session: Session) -> dict[str, Any]:
    """What the weights depend on, besides candidates and rewards."""
    settings = {key: value for key, value in session.info.config["train"].items() if key not in HOW}
    found = {"objective": session.ingredient(Kind.OBJECTIVE), "train": settings}
    # Monitors change no weight, unless one of them ends the training.
    return {**found, "monitors": session.monitor_ingredients} if session.monitor_ingredients else found


def weights(directory: StageDirectory) -> Path:
    """The folder of the trained weights, as the adapter saved them."""
    return directory.path / "weights"


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) steps; a step is done when a checkpoint holds it."""
    total = session.config.train.steps
    saved = checkpoints(directory)
    return total if directory.complete else min(saved[-1][0], total) if saved else 0, total


def make(session: Session, directory: StageDirectory) -> None:
    """Train from the last checkpoint to the end, or until a monitor says stop, and save the weights."""
    saved = _train(session, directory)
    session.release()  # its weights have moved: what comes next loads them from disk, as it would after a kill
    if not saved:  # stopped before there was a checkpoint: the model as it is without training
        _save_weights(session, directory, {})
        session.release()


def _train(session: Session, directory: StageDirectory) -> bool:
    """Train, and save the weights that are kept. False if a monitor said stop before there were any."""
    settings, hook, info, world = session.config.train, session.hook, session.info, session.world
    data = Dataset.build(session, session.model(), _examples(session))
    trainer = _trainer(session, data)
    state, watch = trainer.state, Watch(session, directory, data)
    first = watch.before(trainer.model)  # again when training is resumed, before it has the weights of its checkpoint
    start = resume(directory, state, world)
    if not start:
        watch.note(first)
    stop = stopping(first)
    if world.main and start:  # killed just before it would have done so
        drop(directory, settings)
    announce = session.listens("srum_train_step_started")
    report = session.listens("srum_train_step_finished")
    world.meet("training begun")
    rows = read_metrics(directory) if watch.on else []
    with _log(session, directory) as log:
        for step in range(start, settings.steps if stop is None else start):
            if announce:
                hook.srum_train_step_started(run=info, step=step)
            try:
                metrics = trainer.step(step)
            except BaseException as error:
                hook.srum_train_step_failed(run=info, step=step, error=error)
                raise
            _check_best(settings, metrics)
            with storing(directory.path / METRICS):
                log.write(f"{json.dumps({'step': step, **metrics}, allow_nan=False)}\n")
            if report:
                hook.srum_train_step_finished(run=info, step=step, metrics=metrics)
            if watch.on:
                rows.append({"step": step, **metrics})
                readings = watch.during(step + 1, rows, trainer.model)
                watch.note(readings)
                if (stop := stopping(readings)) is not None:
                    break
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                with storing(directory.path / METRICS):
                    log.flush()
                folder = save(directory, state, step + 1, settings, world)
                if world.main:
                    directory.tick()
                hook.srum_checkpoint_saved(run=info, step=step, folder=folder)
                hook.srum_stage_advanced(run=info, stage="train", done=step + 1, total=settings.steps)
    done = settings.steps
    if stop is not None:
        kept = world.tell("kept checkpoint", lambda: _kept(directory, settings))
        if kept is None:
            return False
        done = kept[0]
        restore(Path(kept[1]), state, world)
    state.take_average()
    watch.note(watch.after(done, trainer.model))
    whole = _gathered(trainer)
    # What the optimizer and the monitors held, and a model in parts, would lie beside the model that is saved.
    del trainer, state, data, watch
    _save_weights(session, directory, whole)
    return True


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Draw the curves."""
    settings, rows, saved = session.config.train, read_metrics(directory), checkpoints(directory)
    noted = read_noted(directory.path / MONITORS)
    facts: dict[str, Any] = {"examples": len(_examples(session)), "steps": len(rows)}
    if rows:
        session.picture(directory, "training", training_curve(rows))
    if curves := monitoring.curves(noted):
        session.picture(directory, "monitors", training_curve(curves))
    if saved:
        facts["trainable_parameters"] = sizes(saved[-1][1])
        if settings.keep_best is not None:
            facts["best_checkpoint"] = best(saved, rows, settings.keep_best, settings.checkpoint_every).name
    kept = to_keep(directory, settings)
    facts |= monitoring.facts(noted, kept[0] if kept else 0)
    last = rows[-1] if rows else {}
    return {**facts, **{f"last_{name}": value for name, value in last.items() if name not in ("step", "lr")}}


def _kept(directory: StageDirectory, settings: TrainSection) -> tuple[int, str] | None:
    kept = to_keep(directory, settings)
    return None if kept is None else (kept[0], str(kept[1]))


def _examples(session: Session) -> list[Example]:
    items = reward.read_judged(session)
    examples = session.objective.examples(items, reward.read_rewards(session))
    if not examples:
        raise StageError(
            f"nothing to train on: objective {session.choice(Kind.OBJECTIVE).name!r} made no example out of "
            f"{len(items)} candidates. {_why_none(session)}"
        )
    return examples


def _trainer(session: Session, data: Dataset) -> Trainer:
    """The model ready to train, alone or with other processes."""
    settings, world, model, objective = session.config.train, session.world, session.model(), session.objective
    # What is trained beside the weights begins at random: alike in all processes, and in a run that is started again.
    seed_torch(stable_seed(session.config.run.seed, "start of training"))
    parameters = model.start_training(session.config.training, base=objective.uses_base)
    who = session.choice(Kind.ADAPTER).source
    if not isinstance(parameters, Mapping):
        raise ContractError(f"{who}: start_training gave a {type(parameters).__name__}, expected parameters by name")
    if not parameters:
        raise ContractError(f"{who} names no trainable parameter")
    engine, parameters = parallel.start(objective, model, parameters, settings.sharding, session.device, world)
    state = TrainingState.start(settings, parameters)
    return Trainer(settings, session.config.run.seed, model, state, data, engine, world)


def _log(session: Session, directory: StageDirectory) -> IO[str]:
    """Where metrics are written: by the main process alone."""
    file = directory.path / METRICS if session.world.main else Path(os.devnull)
    with storing(file):
        return file.open("a", encoding="utf-8")


def _check_best(settings: TrainSection, metrics: Mapping[str, float]) -> None:
    if settings.keep_best is not None and (name := settings.keep_best.removeprefix("-")) not in metrics:
        raise ConfigError(
            f"train.keep_best={settings.keep_best}: training has no metric {name!r}.{did_you_mean(name, metrics)}"
        )


def _gathered(trainer: Trainer) -> dict[str, Tensor] | None:
    """What was trained, whole and on the CPU, in the main process (none in the others); None unless it is shared out.
    All processes must ask together."""
    if not isinstance(trainer.engine, parallel.Sharded):
        return None
    gathered: dict[str, Tensor] = {}
    for name, value in trainer.state.parameters.items():
        whole = full(value.detach())
        if trainer.world.main:
            gathered[name] = whole.cpu()
    return gathered


def _save_weights(session: Session, directory: StageDirectory, whole: Mapping[str, Tensor] | None) -> None:
    """Let the adapter save itself, in the main process. Weights that were shared out (``whole``) are put into a model
    that is not."""
    world = session.world
    if whole is not None:
        session.release()
        gc.collect()  # what is shared out refers to itself
        if world.main:
            fresh = session.model().start_training(session.config.training, base=False)
            for name, value in whole.items():
                fill(fresh[name], value)
    if world.main:
        write_folder(weights(directory), session.model().save)
    world.meet("weights saved")


def _why_none(session: Session) -> str:
    facts = session.directory(reward.STAGE).facts()
    return (
        f"{facts['rewards']} have a reward, {facts['without_reward']} none because their judgement failed; scores lie "
        f"in [{facts['score_min']:.3f}, {facts['score_max']:.3f}]. Candidates that do not differ give no pairs: look "
        "at the reward stage's picture and at the judge."
    )


STAGE = Stage(
    "train", (generate.STAGE, reward.STAGE), ingredients=ingredients, progress=progress, make=make, conclude=conclude
)
