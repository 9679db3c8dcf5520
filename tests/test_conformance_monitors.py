"""Our monitors keep the contract, and the suite sees those that do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from srum_plugins import hookimpl
from srum_plugins.contracts import ModelAdapter, Monitor, Watched
from srum_plugins.providers import Provider
from srum_plugins.records import Reading
from srum_plugins.testing.linear_flow import LinearFlow
from srum_plugins.testing.monitors import MonitorConformance


class TestRewardHacking(MonitorConformance):
    name = "reward-hacking"


class TestHeldOutJudge(MonitorConformance):
    name = "held-out-judge"
    options = {"judge": {"name": "choice"}, "images": 6}


class TestUnderstanding(MonitorConformance):
    name = "understanding"


class TestUnderstandingByAnswers(MonitorConformance):
    name = "understanding"
    options = {"ask": "answer"}
    talk = staticmethod(lambda question, share: "Yes." if share < 0.5 else "no")


class TestLatents(MonitorConformance):
    name = "latents"
    options = {"images": 2, "examples": 4}


class TestGrounding(MonitorConformance):
    name = "grounding"
    options = {"native": 3}


# --- what the suite sees ------------------------------------------------------------------------------------------
class Right(Monitor):
    """How far the shift of the model has moved."""

    every = 5
    began: float

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        self.began = self.shift(model)
        return []

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        return [Reading("moved", self.shift(model) - self.began)]

    def shift(self, model: ModelAdapter) -> float:
        assert isinstance(model, LinearFlow)
        return float(model.shift.detach().sum())


class Running(Right):
    """Compares with the reading before this one."""

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        found = super().during(step, rows, model)
        self.began = self.shift(model)
        return found


class Loud(Right):
    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        return [Reading("moved", 1.0, "panic")]  # type: ignore[arg-type]


class Doubled(Right):
    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        return 2 * super().during(step, rows, model)


class Never(Right):
    every = 0


class Touching(Right):
    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        assert isinstance(model, LinearFlow)
        model.shift.mul_(0.5)
        return []


class Noising(Right):
    """Noises the latents that training has, in place."""

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        for one in run.latents(2)[1]:
            one.mul_(0.5)
        return super().before(run, model)


class Starting(Right):
    """Has the model take its weights of now for its base."""

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        model.start_training(None, base=True)
        return super().during(step, rows, model)


class Freezing(Right):
    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        assert isinstance(model, LinearFlow)
        model.gain.requires_grad_(False)
        return super().before(run, model)


class Drawing(Right):
    """Draws from a generator that nobody sets aside."""

    chance = random.Random(3)

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        return [Reading("luck", self.chance.random())]


class Global(Right):
    """Draws from torch's own numbers, which are set aside for the time."""

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        return [Reading("luck", float(torch.rand(())))]


class Asking(Right):
    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        run.generate(model, run.prompts[:1], [0])
        return super().before(run, model)


def suite(made: type[Monitor]) -> type[MonitorConformance]:
    class Plugin:
        @hookimpl
        def srum_monitors(self) -> list[Provider]:
            return [Provider("broken", "breaks", lambda options: made())]

    class Broken(MonitorConformance):
        name = "broken"
        plugin = Plugin()

    return Broken


class TestRight(suite(Right)):  # type: ignore[misc]
    """A monitor with nothing broken."""


class TestGlobal(suite(Global)):  # type: ignore[misc]
    """One that draws as it may."""


NAMES = MonitorConformance.test_readings_have_names_levels_and_a_value_or_a_failure
SAME = MonitorConformance.test_the_same_weights_have_the_same_readings
LEFT = MonitorConformance.test_the_model_and_the_metrics_are_left_as_they_are


@pytest.mark.parametrize(
    ("made", "test", "words"),
    [
        (Loud, NAMES, "the level 'panic'"),
        (Doubled, NAMES, "two readings of one name: moved"),
        (Never, NAMES, "every: is 0"),
        (Asking, NAMES, "asked the model for more than its needs, which are none"),
        (Running, SAME, "gave other readings of the same weights"),
        (Drawing, SAME, "gave other readings of the same weights"),
        (Touching, LEFT, "changed the model's parameter 'shift'"),
        (Noising, LEFT, "changed latents of the run"),
        (Starting, LEFT, "changed what the base model predicts"),
        (Freezing, LEFT, "changed the model's parameter 'gain'"),
    ],
)
def test_a_broken_monitor_is_told(tmp_path: Path, made: type[Monitor], test: Callable[..., None], words: str) -> None:
    broken = suite(made)
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(broken(), broken.open(tmp_path))
    assert "the monitor 'broken' of" in str(told.value) and "mend: " in str(told.value)
