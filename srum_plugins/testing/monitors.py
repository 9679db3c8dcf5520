"""Does a monitor keep its contract (:class:`srum_plugins.contracts.Monitor`)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import ClassVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Generated, GenerationRequest, Located, ModelAdapter, Monitor, Question
from srum_plugins.providers import Kind
from srum_plugins.records import (
    Box,
    Candidate,
    Check,
    Failure,
    Grounding,
    Judgement,
    Level,
    Prompt,
    Reading,
    Region,
    Score,
)
from srum_plugins.stages.monitoring import set_aside, spread
from srum_plugins.testing.scripted import SIZE, AskingConformance, ScriptedModel
from srum_plugins.testing.suite import Subject

COLOURS = ("red", "green", "blue", "white")
STEPS = (20, 40)
"""How often the weights were moved at the readings that are compared."""


class WatchedRun:
    """A small run, as a :class:`srum_plugins.contracts.Watched`: two candidates of each of four prompts. One candidate
    could not be grounded, one has no regions, the others have one and a background. What judges say follows from the
    image; two judges say different things."""

    seed = 7

    def __init__(self) -> None:
        self.handed: list[tuple[Tensor, Tensor]] = []
        """Every latent that was given away, and a copy of it."""

    prompts: Sequence[Prompt] = tuple(
        Prompt(
            f"p{index}",
            f"a {colour} circle",
            phrases=(f"{colour} circle",),
            checks=(Check("existence", f"is there a {colour} circle ?", YES_NO, "yes"),),
        )
        for index, colour in enumerate(COLOURS)
    )

    def candidates(self) -> Sequence[tuple[Candidate, Grounding]]:
        """See :meth:`Watched.candidates`."""
        found = []
        for number, prompt in enumerate(prompt for prompt in self.prompts for _ in range(2)):
            index = number % 2
            one = Candidate(f"{prompt.id}-{index}", prompt.id, index, number, f"{prompt.id}-{index}.png", SIZE, SIZE)
            regions = (Region(Box(2, 3, 20, 30), prompt.phrases[0]), Region(Box(20, 0, 32, 9), background=True))
            failure = Failure("out of memory") if number == 0 else None
            found.append((one, Grounding(one.id, regions if number > 1 else (), {"small": 1}, failure)))
        return found

    def located(self, candidates: Sequence[Candidate]) -> list[Located]:
        """See :meth:`Watched.located`."""
        prompts = {prompt.id: prompt for prompt in self.prompts}
        found = []
        for one in candidates:
            rng = np.random.default_rng(one.seed)
            image = Image.fromarray(rng.integers(0, 256, (one.height, one.width, 3), dtype=np.uint8))
            found.append(Located(prompts[one.prompt_id], one, image))
        return found

    def latents(self, count: int) -> tuple[list[Prompt], list[Tensor]]:
        """See :meth:`Watched.latents`."""
        items = self.located([candidate for candidate, _ in self.candidates()])
        chosen = [items[index] for index in spread(len(items), count)]
        found = list(ScriptedModel().encode([item.image for item in chosen]))
        self.handed += [(one, one.clone()) for one in found]
        return [item.prompt for item in chosen], found

    def generate(self, model: ModelAdapter, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Generated]:
        """See :meth:`Watched.generate`."""
        pairs = zip(prompts, seeds, strict=True)
        return model.generate([GenerationRequest(prompt, seed) for prompt, seed in pairs], None)

    def judge(self, items: Sequence[Located], model: ModelAdapter, option: str | None = None) -> list[Judgement]:
        """See :meth:`Watched.judge`."""
        judge = ScriptedModel(seed=0 if option is None else 1)
        rows = judge.choice_logprobs([Question(item.image, item.prompt.text, YES_NO) for item in items])
        return [
            Judgement(item.candidate.id, Score(min(math.exp(row[0]), 1.0)), ())
            for item, row in zip(items, rows, strict=True)
        ]


class MonitorConformance(AskingConformance):
    """The suite of monitors. They watch a :class:`WatchedRun` with a scripted model, which can predict, and whatever
    the monitor's ``needs`` name."""

    kind: ClassVar[Kind] = Kind.MONITOR

    @staticmethod
    def rows(steps: int) -> list[Mapping[str, float]]:
        """The metrics of so many steps. Give your own if your monitor reads others than those of the objective
        ``srum``."""
        return [
            {
                "step": float(step),
                "loss": 0.9 - 0.01 * step,
                "sample_loss": 0.5,
                "weight": 0.3,
                "reference_loss": 0.6 + 0.02 * step,
                "grad_norm": 1.0,
                "lr": 1e-4,
            }
            for step in range(steps)
        ]

    def test_readings_have_names_levels_and_a_value_or_a_failure(self, subject: Subject) -> None:
        """No name twice; records that JSON can hold. ``every`` is a number of steps or None."""
        monitor, model = subject.make(Monitor), self._model(subject)
        every = monitor.every
        subject.require(
            every is None or (isinstance(every, int) and every >= 1),
            "every",
            f"is {every!r}",
            "make it a number of steps, at least 1, or None for no readings during training",
        )
        found = [("before", self._read(subject, monitor, model, "before"))]
        _move(model, 1)
        if every is not None:
            found.append(("during", self._read(subject, monitor, model, "during", STEPS[0])))
        found.append(("after", self._read(subject, monitor, model, "after")))
        for method, readings in found:
            subject.require(
                isinstance(readings, list) and all(isinstance(one, Reading) for one in readings),
                method,
                f"gave {readings!r:.200}",
                "give a list of Reading",
            )
            names = [reading.name for reading in readings]
            subject.require(
                len(set(names)) == len(names),
                method,
                f"gave two readings of one name: {', '.join(sorted(names))}",
                "name each otherwise",
            )
            for reading in readings:
                subject.require(
                    bool(reading.name) and reading.level in get_args(Level),
                    method,
                    f"gave the reading {reading.name!r} the level {reading.level!r}",
                    f"name it, and take one of {', '.join(get_args(Level))}",
                )
                subject.keeps(method, reading)

    def test_the_same_weights_have_the_same_readings(self, subject: Subject) -> None:
        """In a second call, whatever was read between, and in a training that was resumed."""
        first, second = subject.make(Monitor), subject.make(Monitor)
        taken: list[tuple[str, int, list[Reading]]] = []
        model = self._model(subject)
        for steps in (0, *STEPS):  # what one sees that was never interrupted, each reading twice
            _move(model, steps)
            for method in ["before"] if steps == 0 else ["during", "after"]:
                taken += [(method, steps, self._read(subject, first, model, method, steps)) for _ in range(2)]
        _move(model, 0)
        self._read(subject, second, model, "before")
        _move(model, STEPS[1])
        resumed = [(method, STEPS[1], self._read(subject, second, model, method, STEPS[1])) for method in _LATER]
        _move(model, 0)
        taken.append(("before", 0, self._read(subject, first, model, "before")))
        known: dict[tuple[str, int], list[Reading]] = {}
        for method, steps, readings in [*taken, *resumed]:
            subject.require(
                known.setdefault((method, steps), readings) == readings,
                method,
                f"gave other readings of the same weights:\n    {known[method, steps]}\n    {readings}",
                "compare with what `before` took and keep nothing else; draw with the run's `seed`",
            )

    def test_the_model_and_the_metrics_are_left_as_they_are(self, subject: Subject) -> None:
        """Training is the same with a monitor and without."""
        monitor, model, rows = subject.make(Monitor), self._model(subject), self.rows(STEPS[0])
        parameters, run = model.start_training(None, base=True), WatchedRun()
        _move(model, STEPS[0])
        based = _base_losses(model)
        before = {name: one.detach().clone() for name, one in parameters.items()}
        kept = deepcopy(rows)
        with set_aside(WatchedRun.seed):
            subject.call("before", monitor.before, run, model)
            subject.call("during", monitor.during, STEPS[0], rows, model)
            subject.call("after", monitor.after, model)
        for name, one in parameters.items():
            subject.require(
                torch.equal(one, before[name]) and one.requires_grad and one.grad is None,
                "during",
                f"changed the model's parameter {name!r}, its gradient, or whether it has one",
                "look at the model, and leave its weights alone",
            )
        subject.require(rows == kept, "during", "changed the metrics that it was given", "work on a copy")
        subject.require(
            all(torch.equal(one, copy) for one, copy in run.handed),
            "during",
            "changed latents of the run, which is trained on them",
            "use no operation in place",
        )
        subject.require(
            torch.equal(_base_losses(model), based),
            "during",
            "changed what the base model predicts",
            "start no training: look at the model as it is",
        )

    @classmethod
    def _model(cls, subject: Subject) -> ScriptedModel:
        return ScriptedModel(cls.talk, can=subject.needed)

    @classmethod
    def _read(
        cls, subject: Subject, monitor: Monitor, model: ModelAdapter, method: str, steps: int = 0
    ) -> list[Reading]:
        """Readings, taken as a training takes them: without gradient, with random numbers set aside."""
        with set_aside(WatchedRun.seed):
            if method == "before":
                return subject.call(method, monitor.before, WatchedRun(), model)
            if method == "during":
                return subject.call(method, monitor.during, steps, cls.rows(steps), model)
            return subject.call(method, monitor.after, model)


_LATER = ("during", "after")


def _base_losses(model: ScriptedModel) -> Tensor:
    """The token losses (T,) that the base of a model has on an example."""
    latents = [torch.linspace(-1, 1, 12).reshape(3, 2, 2)]
    draws = model.draw(latents, torch.Generator().manual_seed(0))
    return model.predict([Prompt("p0", "a red circle")], latents, draws, base=True).token_losses(latents)


def _move(model: ScriptedModel, steps: int) -> None:
    """Give the model the weights that it has after so many steps."""
    fresh = ScriptedModel()
    with torch.no_grad():
        model.shift.copy_(fresh.shift + 0.005 * steps)
        model.gain.copy_(fresh.gain * (1 - 0.005 * steps))
