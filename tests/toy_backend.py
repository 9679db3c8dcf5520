"""A whole tiny backend as one plugin module: 8x8 images, a linear flow model, and everything around it.

It is what a third party would write: it imports the core only, and serves the tests of the engine. The environment
variable ``TOY_KILL=<point>:<n>`` makes the process kill itself at the n-th call of a point (``generate``, ``ground``,
``judge``, ``aggregate``, ``predict``, ``save``, ``score``, ``understanding``).
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from srum_plugins import hookimpl
from srum_plugins.contracts import (
    Aggregator,
    Benchmark,
    Capability,
    Draws,
    Generated,
    GenerationRequest,
    Grounder,
    Judge,
    Judged,
    Located,
    ModelAdapter,
    Prediction,
    PromptSet,
    Question,
    Reward,
    UnderstandingReport,
    Verdict,
)
from srum_plugins.flow import FlowPrediction, noised, uniform_draws
from srum_plugins.providers import Provider
from srum_plugins.records import Box, Check, Failure, Grounding, Judgement, Prompt, Region, Score
from srum_plugins.rewards.maps import MapRegion, RewardMap
from srum_plugins.weights import load_weights

SIZE = 8
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.1, 0.9), "white": (0.9, 0.9, 0.9)}
WORDS = tuple(COLOURS)
calls: Counter[str] = Counter()


def reached(point: str) -> None:
    """Count a call; die here, as by kill -9, if the environment says so."""
    calls[point] += 1
    wanted, _, count = os.environ.get("TOY_KILL", "").partition(":")
    if wanted == point and calls[point] == int(count):
        os.kill(os.getpid(), signal.SIGKILL)


def make_prompts(count: int, split: str, prefix: str) -> list[Prompt]:
    """Prompts that ask for one colour each, in turn."""
    prompts = []
    for index in range(count):
        word = WORDS[index % len(WORDS)]
        check = Check("colour", f"is it {word}?", ("yes", "no"), "yes")
        category = "warm" if word in ("red", "white") else "cool"
        prompts.append(Prompt(f"{prefix}{index}", f"a {word} tile", category, split, (f"{word} tile",), (check,)))
    return prompts


def word_of(text: str) -> int:
    """The colour word in a text."""
    return next(index for index, word in enumerate(WORDS) if word in text)


def pixels(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


# --- the model --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AdapterOptions:
    """``blur`` draws the four colours of the untrained model together."""

    blur: float = 0.5


@dataclass(frozen=True)
class Sampling:
    """``noise`` is the spread of the pixels."""

    steps: int = 1
    noise: float = 0.2


@dataclass(frozen=True)
class Training:
    """Whether the gain moves too."""

    gain: bool = True


class ToyModel(torch.nn.Module):
    def __init__(self, blur: float) -> None:
        super().__init__()
        colours = torch.tensor(list(COLOURS.values()))
        self.palette = torch.nn.Parameter(torch.lerp(colours, colours.mean(0).expand(4, 3), blur))
        self.gain = torch.nn.Parameter(torch.tensor(0.5))
        self.probe = torch.nn.Parameter(colours.clone())  # the understanding half


class ToyAdapter(ModelAdapter):
    """x0 is the palette's colour everywhere; the velocity is linear in what is seen."""

    def __init__(self, options: AdapterOptions, device: str) -> None:
        reached("load")
        self.model = ToyModel(options.blur).to(device)
        self.base = ToyModel(options.blur).to(device).requires_grad_(False)
        self.device = torch.device(device)

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        reached("generate")
        results = []
        for request in requests:
            generator = torch.Generator().manual_seed(request.seed)
            shift = torch.randn(3, 1, 1, generator=generator) * 0.3
            spread = torch.randn(3, request.height or SIZE, request.width or SIZE, generator=generator)
            colour = self.model.palette[word_of(request.prompt.text)].cpu()[:, None, None]
            values = (colour + shift + sampling.noise * spread).clamp(0, 1)
            array = (values * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            results.append(Generated(Image.fromarray(array)))
        return results

    @torch.no_grad()
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        answers = []
        for question in questions:
            image = question.image
            if question.box is not None:
                box = question.box
                image = image.crop((int(box.x0), int(box.y0), int(box.x1), int(box.y1)))
            distance = (pixels(image).mean(dim=(1, 2)) - self.model.probe[word_of(question.text)].cpu()).norm()
            scores = [2.0 - 6.0 * distance if choice == "yes" else torch.tensor(0.0) for choice in question.choices]
            answers.append(tuple(float(value) for value in torch.stack(scores).log_softmax(0)))
        return answers

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region]]:
        return [
            [Region(Box(0, 0, image.width / 2, image.height), phrase, 0.5, mended=("clamped",)) for phrase in wanted]
            for image, wanted in zip(images, phrases, strict=True)
        ]

    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        return height // 2, width // 2

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        batch = torch.stack([pixels(image) for image in images]).to(self.device)
        return torch.nn.functional.avg_pool2d(batch, 2)

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        return uniform_draws(latents, generator, dropout=0.1)

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        reached("predict")
        if base:
            with torch.no_grad():
                return self._predict(self.base, prompts, latents, draws)
        return self._predict(self.model, prompts, latents, draws)

    def _predict(
        self, model: ToyModel, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws
    ) -> Prediction:
        colours = model.palette[[word_of(prompt.text) for prompt in prompts]] * (~draws.drop)[:, None]
        seen = zip(colours, draws.timestep, noised(latents, draws), strict=True)
        velocity = [model.gain * (one - (1 - time)) - colour[:, None, None] for colour, time, one in seen]
        return FlowPrediction(velocity, draws.noise)

    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        self.model.probe.requires_grad_(False)
        moving = {"palette": self.model.palette, "gain": self.model.gain}
        return moving if training.gain else {"palette": self.model.palette}

    def save(self, folder: Path) -> None:
        state = {name: value.cpu() for name, value in self.model.state_dict().items()}
        (folder / "first.txt").write_text("written before the weights\n")
        reached("save")
        save_file(state, folder / "model.safetensors")

    def load_trained(self, folder: Path) -> None:
        load_weights(self.model, [folder / "model.safetensors"], self.device)

    def understanding_digest(self) -> str:
        return hashlib.sha256(self.model.probe.detach().cpu().numpy().tobytes()).hexdigest()


# --- what is around it ------------------------------------------------------------------------------------------------
class HalvesGrounder(Grounder):
    """Left and right half; nothing in dark images."""

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        reached("ground")
        assert model is None
        groundings = []
        for item in items:
            width, height = item.image.size
            halves = (Box(0, 0, width / 2, height), Box(width / 2, 0, width, height))
            dark = float(pixels(item.image).mean()) < 0.2
            regions = () if dark else tuple(Region(half, item.prompt.text) for half in halves)
            groundings.append(Grounding(item.candidate.id, regions, {"dark": 2} if dark else {}))
        return groundings


class LocateGrounder(Grounder):
    """What the model itself finds."""

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        assert model is not None
        found = model.locate([item.image for item in items], [item.prompt.phrases for item in items])
        return [Grounding(item.candidate.id, tuple(regions), {}) for item, regions in zip(items, found, strict=True)]


@dataclass(frozen=True)
class JudgeOptions:
    """``fail_every`` > 0 makes every so many-th candidate of a prompt a typed failure."""

    fail_every: int = 0


class ChoiceJudge(Judge):
    def __init__(self, options: JudgeOptions) -> None:
        self.options = options

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        reached("judge")
        assert model is not None
        judgements = []
        for item, grounding in zip(items, groundings, strict=True):
            text = item.prompt.checks[0].question
            boxes = [None, *(region.box for region in grounding.regions)]
            questions = [Question(item.image, text, ("yes", "no"), box) for box in boxes]
            yes = [float(np.exp(answer[0])) for answer in model.choice_logprobs(questions)]
            alpha: Score | Failure = Score(min(yes[0], 1.0))
            if self.options.fail_every and item.candidate.index % self.options.fail_every == 0:
                alpha = Failure("refused")
            local = tuple(Score(max(-1.0, min(1.0, 2 * value - 1))) for value in yes[1:])
            judgements.append(Judgement(item.candidate.id, alpha, local))
        return judgements


@dataclass(frozen=True)
class AggregatorOptions:
    """``background`` is R where no region is."""

    background: float = 0.5


class MapsAggregator(Aggregator):
    """alpha times the halves' scores, moved to [0, 1]."""

    def __init__(self, options: AggregatorOptions) -> None:
        self.options = options

    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        reached("aggregate")
        rewards: list[Reward | None] = []
        for item in items:
            alpha = item.judgement.alpha
            if isinstance(alpha, Failure):
                rewards.append(None)
                continue
            regions = tuple(
                MapRegion(region.box, (score.value + 1) / 2)
                for region, score in zip(item.grounding.regions, item.judgement.local, strict=True)
                if isinstance(score, Score)
            )
            size = (item.candidate.width, item.candidate.height)
            reward_map = RewardMap(*size, regions, alpha.value, self.options.background)
            rewards.append(Reward(item.candidate.id, reward_map, alpha.value))
        return rewards


class FlatAggregator(Aggregator):
    """Weight one everywhere."""

    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        return [
            Reward(item.candidate.id, RewardMap(item.candidate.width, item.candidate.height, (), 1.0, 1.0), 1.0)
            for item in items
        ]


@dataclass(frozen=True)
class PromptOptions:
    """How many prompts."""

    count: int = 4


class ToyPrompts(PromptSet):
    def __init__(self, options: PromptOptions) -> None:
        self.options = options

    def prompts(self) -> list[Prompt]:
        return make_prompts(self.options.count, "train", "p")


class ToyBenchmark(Benchmark):
    def __init__(self, options: PromptOptions) -> None:
        self.options = options

    def prompts(self) -> list[Prompt]:
        return make_prompts(self.options.count, "in_domain", "i") + make_prompts(
            self.options.count, "out_of_domain", "o"
        )

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        assert model is None
        reached("score")
        verdicts = []
        for prompt, image in zip(prompts, images, strict=True):
            wanted = torch.tensor(COLOURS[WORDS[word_of(prompt.text)]])
            closeness = 1.0 - float((pixels(image).mean(dim=(1, 2)) - wanted).abs().mean())
            verdicts.append(Verdict(prompt.id, {"full": float(closeness > 0.8), "closeness": closeness}))
        return verdicts

    def understanding(self, model: ModelAdapter) -> UnderstandingReport:
        reached("understanding")
        right = 0
        for word, colour in COLOURS.items():
            shown = Image.new("RGB", (SIZE, SIZE), tuple(round(255 * value) for value in colour))
            yes, no = model.choice_logprobs([Question(shown, f"is it {word}?", ("yes", "no"))])[0]
            right += yes > no
        return UnderstandingReport({"colour": right / len(WORDS)}, {"colour": len(WORDS)})


# --- the plugin -------------------------------------------------------------------------------------------------------
@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [
        Provider(
            "toy",
            "a linear flow on 8x8 images",
            ToyAdapter,
            AdapterOptions,
            Sampling,
            frozenset({Capability.GENERATE, Capability.CHOICE, Capability.LOCATE, Capability.TRAIN}),
            training=Training,
            presets={"quiet": {"noise": 0.05}, "slow": {"steps": 3, "noise": 0.1}},
        )
    ]


@hookimpl
def srum_grounders() -> list[Provider]:
    needs = frozenset({Capability.LOCATE})
    return [
        Provider("toy-halves", "left and right half", lambda options: HalvesGrounder()),
        Provider("toy-locate", "the model's own", lambda options: LocateGrounder(), needs=lambda options: needs),
    ]


@hookimpl
def srum_judges() -> list[Provider]:
    needs = frozenset({Capability.CHOICE})
    return [Provider("toy-choice", "yes or no", ChoiceJudge, JudgeOptions, needs=lambda options: needs)]


@hookimpl
def srum_reward_aggregators() -> list[Provider]:
    return [
        Provider("toy-maps", "alpha times local scores", MapsAggregator, AggregatorOptions),
        Provider("toy-flat", "one everywhere", lambda options: FlatAggregator()),
    ]


@hookimpl
def srum_prompt_sets() -> list[Provider]:
    return [Provider("toy", "one colour each", ToyPrompts, PromptOptions)]


@hookimpl
def srum_benchmarks() -> list[Provider]:
    return [Provider("toy", "is it the right colour", ToyBenchmark, PromptOptions)]


def config(directory: Path | str, **sections: Any) -> dict[str, Any]:
    """A small configuration of this backend, as plain containers."""
    return {
        "run": {"name": "toy", "directory": str(directory), "seed": 3, "max_failed": 1.0, "report": False},
        "adapter": "toy",
        "prompts": "toy",
        "grounder": "toy-halves",
        "judge": "toy-choice",
        "aggregator": "toy-maps",
        "objective": "srum",
        "benchmark": "toy",
        "generate": {"candidates": 3, "chunk": 5},
        "ground": {"chunk": 4},
        "judging": {"chunk": 4},
        "train": {"steps": 8, "batch": 5, "lr": 0.05, "warmup": 2, "checkpoint_every": 3},
        "evaluate": {"chunk": 3},
        "tracking": {"enabled": False},
        **sections,
    }
