"""Stage ``train``: the objective on reward-weighted candidates, resumable to the bit.

What step ``s`` sees is a pure function of (run seed, s): its batch, its timesteps, noise and condition dropout. Metrics
written after the last checkpoint are dropped on resume.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from srum_plugins.config import TrainSection
from srum_plugins.contracts import ModelAdapter, TrainBatch
from srum_plugins.errors import ContractError, StageError
from srum_plugins.pictures import training_curve
from srum_plugins.providers import Kind
from srum_plugins.runs.files import storing, write_folder
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, optimizers, reward
from srum_plugins.stages.checkpoints import TrainingState, checkpoints, resume, save
from srum_plugins.stages.dataset import Dataset
from srum_plugins.stages.session import Session, Stage


def ingredients(session: Session) -> dict[str, Any]:
    """What the weights depend on, besides candidates and rewards. How often checkpoints are written is no part."""
    settings = dict(session.info.config["train"])
    del settings["checkpoint_every"]
    return {"objective": session.ingredient(Kind.OBJECTIVE), "train": settings}


def weights(directory: StageDirectory) -> Path:
    """The folder of the trained weights, as the adapter saved them."""
    return directory.path / "weights"


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) steps; a step is done when a checkpoint holds it."""
    total = session.config.train.steps
    saved = checkpoints(directory)
    return total if directory.complete else min(saved[-1][0], total) if saved else 0, total


def execute(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Train from the last checkpoint to the end, and save the weights."""
    settings, hook, info = session.config.train, session.host.hook, session.info
    items = reward.read_judged(session)
    examples = session.objective.examples(items, reward.read_rewards(session))
    if not examples:
        raise StageError(
            f"nothing to train on: objective {session.choice(Kind.OBJECTIVE).name!r} made no example out of "
            f"{len(items)} candidates. {_why_none(session)}"
        )
    model = session.model()
    data = Dataset.build(session, model, examples)
    parameters = model.start_training(session.config.training, base=session.objective.uses_base)
    if not parameters:
        raise ContractError(f"adapter {session.choice(Kind.ADAPTER).name!r} names no trainable parameter")
    optimizer = optimizers.build(settings, parameters)
    state = TrainingState.start(parameters, optimizer, averaged=settings.ema > 0)
    start = resume(directory, state)
    announce = session.listens("srum_train_step_started")
    report = session.listens("srum_train_step_finished")
    lines = directory.path / "metrics.jsonl"
    with storing(lines), lines.open("a", encoding="utf-8") as log:
        for step in range(start, settings.steps):
            if announce:
                hook.srum_train_step_started(run=info, step=step)
            chosen = data.indices(step)
            try:
                metrics = train_step(session, model, state, data.batch(chosen), step)
            except BaseException as error:
                hook.srum_train_step_failed(run=info, step=step, error=error)
                if isinstance(error, NonFiniteError):
                    names = sorted({name for index in chosen for name in examples[index].candidates})
                    raise StageError(f"{error} Candidates: {', '.join(names)}.") from error
                raise
            log.write(f"{json.dumps({'step': step, **metrics}, allow_nan=False)}\n")
            if report:
                hook.srum_train_step_finished(run=info, step=step, metrics=metrics)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                log.flush()
                folder = save(directory, state, step + 1)
                directory.tick()
                hook.srum_checkpoint_saved(run=info, step=step, folder=folder)
                hook.srum_stage_advanced(run=info, stage="train", done=step + 1, total=settings.steps)
    state.take_average()
    write_folder(weights(directory), model.save)
    session.release()  # its weights have moved: what comes next loads them from disk, as it would after a kill
    rows = [json.loads(line) for line in (directory.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    session.picture(directory, "training", training_curve(rows))
    return {
        "examples": len(examples),
        "steps": settings.steps,
        "trainable_parameters": sum(parameter.numel() for parameter in parameters.values()),
        **{f"last_{name}": value for name, value in rows[-1].items() if name not in ("step", "lr")},
    }


class NonFiniteError(StageError):
    """A loss, a metric or a gradient is not finite; the optimizer has not moved."""


def train_step(
    session: Session,
    model: ModelAdapter,
    state: TrainingState,
    batch: TrainBatch,
    step: int,
) -> dict[str, float]:
    """One optimizer step; returns its metrics. Raises NonFiniteError before the optimizer moves."""
    settings = session.config.train
    seed = stable_seed(session.config.run.seed, "train", step)
    torch.manual_seed(seed)  # for models that draw from the global state, such as dropout
    state.optimizer.zero_grad(set_to_none=True)  # before the forward: two sets of gradients are never held with it
    draws = model.draw(batch.latents[0], torch.Generator().manual_seed(seed))
    loss, figures = session.objective.loss(model, batch, draws)
    if not bool(torch.isfinite(loss)):
        raise NonFiniteError(f"the loss of step {step} is {loss.item()}; training stopped before the update.")
    extra = {name: float(value) for name, value in figures.items()}
    if odd := [name for name, value in extra.items() if not math.isfinite(value)]:
        raise NonFiniteError(
            f"the metric {odd[0]!r} of step {step} is {extra[odd[0]]}; training stopped before the update."
        )
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    norm = torch.nn.utils.clip_grad_norm_(list(state.parameters.values()), settings.grad_clip or math.inf)
    if not bool(torch.isfinite(norm)):
        raise NonFiniteError(f"the gradient norm of step {step} is {norm.item()}; training stopped before the update.")
    rate = learning_rate(settings, step)
    optimizers.set_rate(state.optimizer, rate)
    state.optimizer.step()
    state.update_average(settings.ema, step)
    return {"loss": float(loss.detach()), "grad_norm": float(norm), "lr": rate, **extra}


def learning_rate(settings: TrainSection, step: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up that ends at ``lr`` after ``warmup`` steps, then
    ``constant``, or ``linear`` or ``cosine`` decay that would reach 0 one step after the last."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    if settings.decay == "linear":
        return settings.lr * (1.0 - share)
    if settings.decay == "cosine":
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * share))
    return settings.lr


def _why_none(session: Session) -> str:
    facts = session.directory(reward.STAGE).facts()
    return (
        f"{facts['rewards']} have a reward, {facts['without_reward']} none because their judgement failed; scores lie "
        f"in [{facts['score_min']:.3f}, {facts['score_max']:.3f}]. Candidates that do not differ give no pairs: look "
        "at the reward stage's picture and at the judge."
    )


STAGE = Stage("train", (generate.STAGE, reward.STAGE), ingredients=ingredients, progress=progress, execute=execute)
