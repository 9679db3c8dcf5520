"""The monitors of one training: when they read, what they are given, and what is kept of it.

Training is the same to the bit with monitors and without, unless one ends it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srum_plugins.config import Choice
from srum_plugins.contracts import (
    Generated,
    GenerationRequest,
    Judge,
    Located,
    ModelAdapter,
    Monitor,
    Watched,
)
from srum_plugins.errors import ContractError
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.records import (
    Candidate,
    Grounding,
    Judgement,
    Noted,
    Phase,
    Prompt,
    Reading,
    from_json,
    to_json,
    told,
)
from srum_plugins.result_checks import check_judgements
from srum_plugins.runs.files import storing
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import generate, ground
from srum_plugins.stages.session import Session
from srum_plugins.training.checkpoints import MONITORS
from srum_plugins.training.dataset import Dataset


class Watch:
    """The monitors of a training, in every process of it. Those of the main one read; all do where the weights are
    shared out. What they find is told to all, so that all stop together."""

    def __init__(self, session: Session, directory: StageDirectory, data: Dataset) -> None:
        self._session, self._path = session, directory.path / MONITORS
        self._choices = session.config.monitors
        self._monitors: dict[str, Monitor] = {
            label: session.built(choice, Monitor) for label, choice in self._choices.items()
        }
        self._runs: dict[str, Watched] = {
            label: _Run(session, data, label, choice) for label, choice in self._choices.items()
        }
        self._reads = session.world.main or session.config.train.sharding != "none"
        self._last = session.config.train.steps

    @property
    def on(self) -> bool:
        """Whether there is any monitor."""
        return bool(self._monitors)

    def before(self, model: ModelAdapter) -> list[Noted]:
        """The readings on the weights before training, which the model must have."""
        return self._take("before", 0, list(self._monitors), lambda label, one: one.before(self._runs[label], model))

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Noted]:
        """Those that are due after ``step`` steps."""
        due = [
            label
            for label, one in self._monitors.items()
            if one.every is not None and (step % one.every == 0 or step == self._last)
        ]
        return self._take("during", step, due, lambda label, one: one.during(step, rows, model))

    def after(self, step: int, model: ModelAdapter) -> list[Noted]:
        """Those on the weights that training ends with, which were trained ``step`` steps."""
        return self._take("after", step, list(self._monitors), lambda label, one: one.after(model))

    def note(self, noted: Sequence[Noted]) -> None:
        """Keep readings, and tell listeners."""
        if not noted or not self._session.world.main:
            return
        with storing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(to_json(one), allow_nan=False)}\n" for one in noted)
        for label in dict.fromkeys(one.monitor for one in noted):
            own = [one for one in noted if one.monitor == label]
            self._session.hook.srum_monitor(
                run=self._session.info,
                monitor=label,
                phase=own[0].phase,
                step=own[0].step,
                readings=[one.reading for one in own],
            )

    def _take(
        self, phase: Phase, step: int, due: Sequence[str], ask: Callable[[str, Monitor], list[Reading]]
    ) -> list[Noted]:
        if not due:
            return []
        found: list[Noted] = []
        for label in due if self._reads else ():
            with set_aside(self._runs[label].seed):
                readings = ask(label, self._monitors[label])
            _check(readings, self._choices[label])
            found += [Noted(step, phase, label, reading) for reading in readings]
        heard = self._session.world.tell(f"readings {phase} {step}", lambda: [to_json(one) for one in found])
        return [from_json(Noted, one) for one in heard]


class _Run:
    """See :class:`srum_plugins.contracts.Watched`."""

    def __init__(self, session: Session, data: Dataset, label: str, choice: Choice) -> None:
        self._session, self._data, self._choice = session, data, choice
        self._judges: dict[str, Judge] = {}
        self.seed = stable_seed(session.config.run.seed, "monitor", label)

    @cached_property
    def prompts(self) -> Sequence[Prompt]:
        return self._session.prompts

    def candidates(self) -> Sequence[tuple[Candidate, Grounding]]:
        groundings = ground.read_groundings(self._session)
        return list(zip(generate.saved(self._session).read(), groundings, strict=True))

    def located(self, candidates: Sequence[Candidate]) -> list[Located]:
        return generate.locate(self._session, generate.saved(self._session), candidates)

    def latents(self, count: int) -> tuple[list[Prompt], list[Tensor]]:
        chosen = [self._data.examples[index] for index in spread(len(self._data.examples), count)]
        latents = [self._data.latents[example.candidates[0]].to(self._data.device) for example in chosen]
        return [example.prompt for example in chosen], latents

    def generate(self, model: ModelAdapter, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Generated]:
        settings, found = self._session.config.generate, []
        requests = [
            GenerationRequest(prompt, seed, settings.width, settings.height)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for start in range(0, len(requests), settings.chunk):
            chunk = requests[start : start + settings.chunk]
            found += generate.generate_checked(model, chunk, self._session.config.sampling["generate"])
        return found

    def judge(self, items: Sequence[Located], model: ModelAdapter, option: str | None = None) -> list[Judgement]:
        choice = self._session.choice(Kind.JUDGE) if option is None else self._choice.parts[option]
        if option is not None and option not in self._judges:
            self._judges[option] = self._session.built(choice, Judge)
        judge = self._session.judge if option is None else self._judges[option]
        whole = [Grounding(item.candidate.id, ()) for item in items]
        needs = choice.registered.provider.needs(choice.options)
        given = judge.judge(items, whole, model if needs else None)
        check_judgements(given, whole, choice.source)
        return given


def spread(total: int, count: int) -> list[int]:
    """Up to ``count`` places among ``total``, in order and evenly apart."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def read_noted(path: Path) -> list[Noted]:
    """All readings of a training; none if there is no such file."""
    if not path.exists():
        return []
    return [from_json(Noted, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def stopping(noted: Sequence[Noted]) -> Noted | None:
    """The first reading that ends the training."""
    return next((one for one in noted if one.phase != "after" and one.reading.level == "stop"), None)


def curves(noted: Sequence[Noted]) -> list[dict[str, float]]:
    """The readings before and during a training by step, each named after its monitor, of those that were taken at
    several steps."""
    by_step: dict[int, dict[str, float]] = {}
    for one in noted:
        if one.phase != "after" and one.reading.value is not None:
            row = by_step.setdefault(one.step, {"step": one.step})
            row[f"{one.monitor}: {one.reading.name}"] = one.reading.value
    counts = Counter(name for row in by_step.values() for name in row)
    rows = [{name: value for name, value in row.items() if counts[name] > 1} for row in by_step.values()]
    return [row for row in rows if len(row) > 1]


def facts(noted: Sequence[Noted], kept: int) -> dict[str, Any]:
    """What ``done.json`` says of the readings of a training. ``kept`` counts the steps of the weights that it kept if
    one of them ended it. Those on the last weights stand there by name, as far as they have a value."""
    if not noted:
        return {}
    levels = [one.reading.level for one in noted]
    after = {
        f"{one.monitor}/{one.reading.name}": one.reading.value
        for one in noted
        if one.phase == "after" and one.reading.value is not None
    }
    found: dict[str, Any] = {"monitor_warnings": len(levels) - levels.count("ok"), "monitors_after": after}
    if (stop := stopping(noted)) is not None:
        found |= {"stopped_at": stop.step, "stopped_by": told(stop.monitor, stop.reading), "kept_step": kept}
    return found


def stopped_early(done: Mapping[str, Any]) -> str:
    """What people are told of a training that a monitor ended, by its ``done.json``; empty if none did."""
    if "stopped_by" not in done:
        return ""
    kept = f"the weights after step {done['kept_step']}" if done["kept_step"] else "the weights from before training"
    return f"TRAINING WAS STOPPED by a monitor after step {done['stopped_at']}: {done['stopped_by']}. Kept: {kept}."


@contextmanager
def set_aside(seed: int) -> Iterator[None]:
    """Random numbers that begin at ``seed``, and no gradient; afterwards all generators are as they were."""
    python, others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
        seed_torch(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(others)


def _check(readings: Sequence[Reading], who: Choice) -> None:
    """Raise ContractError unless these are readings, each of a name of its own."""
    for reading in readings:
        if not isinstance(reading, Reading):
            raise ContractError(f"{who.source} must give a list of Reading, got {reading!r}")
    names = [reading.name for reading in readings]
    if len(set(names)) < len(names):
        raise ContractError(f"{who.source} gave two readings of one name: {', '.join(sorted(names))}")
