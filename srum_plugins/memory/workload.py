"""What a run asks of its model and what that takes: the records of the estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srum_plugins.config import RunConfig, TrainSection
from srum_plugins.contracts import Benchmark, Capability, Objective, PromptSet
from srum_plugins.gate import evaluated_size
from srum_plugins.phrases import prompt_phrases
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt

Size = tuple[int, int]
"""Width and height of images in pixels."""
UNDERSTANDING = frozenset({Capability.ANSWER, Capability.CHOICE, Capability.LOCATE, Capability.LOCATE_ALL})
STAGES = ("generate", "ground", "judge", "train", "evaluate")
"""Those that use the model, in their order."""


@dataclass(frozen=True)
class Drawing:
    """Images that are generated in one call with the adapter's ``sampling`` settings; ``size`` None is the adapter's
    own."""

    images: int
    size: Size | None
    sampling: Any


@dataclass(frozen=True)
class Asking:
    """Images that are asked about in one call, and which of UNDERSTANDING the model must be able to do for it; ``size``
    None is the adapter's own."""

    images: int
    size: Size | None
    needs: frozenset[Capability]


@dataclass(frozen=True)
class Learning:
    """The training: its section of the config, the adapter's own settings of it, and the objective; ``size`` None is
    the adapter's own."""

    settings: TrainSection
    adapter: Any
    objective: Objective
    size: Size | None


@dataclass(frozen=True)
class Workload:
    """What a run asks of its model, by stage. ``device`` is a type such as ``cuda``; on ``cpu`` the tensors that are
    prepared on the host count too. Prompts and questions have ``words`` words each; ``questions`` are asked about each
    image."""

    device: str
    words: int
    questions: int
    drawing: Mapping[str, Drawing] = field(default_factory=dict)
    asking: Mapping[str, Asking] = field(default_factory=dict)
    learning: Learning | None = None


@dataclass(frozen=True)
class Work:
    """One kind of work of a stage. ``held`` are the bytes that it finds and leaves (the gradients of all parameters
    included where it makes them), ``activations`` those beside them at the peak, temporary tensors included."""

    stage: str
    name: str
    held: int
    activations: int

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return self.held + self.activations


@dataclass(frozen=True)
class Estimate:
    """``held``: what there is in training, by name, in bytes; without training, the networks. ``works``: the peaks, in
    the order of the stages. ``per_example``: bytes that one more example in a batch adds to the peak of a training
    step; None without training."""

    held: Mapping[str, int]
    works: tuple[Work, ...]
    per_example: int | None = None

    @property
    def peak(self) -> int:
        """The most bytes at once in the whole run."""
        return max(work.peak for work in self.works)


def workload(config: RunConfig) -> Workload:
    """What a run of this config asks of its model. Chunks and batches are taken to be full, texts as long as the
    longest of the prompts, their checks and phrases, and questions as many as these are on average. Makes the prompt
    set, the objective and the benchmark, and nothing else."""
    adapter = config.providers[Kind.ADAPTER].registered.provider
    generate, evaluate = config.generate, config.evaluate
    benchmark: Benchmark = _made(config, Kind.BENCHMARK)
    measured = _size(*evaluated_size(evaluate, benchmark, config.providers[Kind.BENCHMARK].source))
    size = _size(generate.width, generate.height)
    drawing = {
        "generate": Drawing(generate.chunk, size, config.sampling["generate"]),
        "evaluate": Drawing(evaluate.chunk, measured, config.sampling["evaluate"]),
    }
    asking = {
        stage: Asking(images, seen, needs)
        for stage, asked, images, seen in (
            ("ground", _needs(config, Kind.GROUNDER) | config.ground.needs, config.ground.chunk, size),
            ("judge", _needs(config, Kind.JUDGE), config.judging.chunk, size),
            ("evaluate", _needs(config, Kind.BENCHMARK), evaluate.chunk, measured),
        )
        if (needs := asked & adapter.capabilities & UNDERSTANDING)
    }
    learning = None
    if Capability.TRAIN in adapter.capabilities:
        objective: Objective = _made(config, Kind.OBJECTIVE)
        learning = Learning(config.train, config.training, objective, size)
    prompts: PromptSet = _made(config, Kind.PROMPTS)
    texts = prompts.prompts()
    return Workload(
        device=config.run.device.partition(":")[0],
        words=max(len(text.split()) for prompt in texts for text in (prompt.text, *_asked(prompt))),
        questions=math.ceil(sum(len(_asked(prompt)) for prompt in texts) / len(texts)),
        drawing=drawing if Capability.GENERATE in adapter.capabilities else {},
        asking=asking,
        learning=learning,
    )


def _asked(prompt: Prompt) -> list[str]:
    """What may be asked about an image of a prompt: its checks, and where its phrases are or whether they are there."""
    return [check.question for check in prompt.checks] + list(prompt_phrases(prompt)) or [prompt.text]


def _made(config: RunConfig, kind: Kind) -> Any:
    choice = config.providers[kind]
    return choice.registered.provider.factory(choice.options)


def _needs(config: RunConfig, kind: Kind) -> frozenset[Capability]:
    choice = config.providers[kind]
    return choice.registered.provider.needs(choice.options)


def _size(width: int | None, height: int | None) -> Size | None:
    return None if width is None or height is None else (width, height)
