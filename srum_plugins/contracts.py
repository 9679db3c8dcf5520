"""The contracts between the core and its plugins, with exact shapes, units and ranges.

A provider (:mod:`srum_plugins.providers`) names a factory for one of these classes. What an adapter can
do is declared twice, in the provider's ``capabilities`` (read before anything is loaded) and by the methods that
it overrides; the contract gate (:mod:`srum_plugins.gate`) compares the whole config with the declaration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from PIL import Image

from srum_plugins.errors import CapabilityError, ContractError
from srum_plugins.records import Box, Candidate, Failure, Grounding, Judgement, Prompt, Reading, Region
from srum_plugins.rewards.maps import RewardMap

if TYPE_CHECKING:  # torch stays out of start-up: the command line answers without it
    import torch
    from torch import Tensor, nn


class Capability(StrEnum):
    """What a model adapter can do. Providers declare a set of these."""

    GENERATE = "generate"
    THINK = "think"
    ANSWER = "answer"
    CHOICE = "choice"
    LOCATE = "locate"
    LOCATE_ALL = "locate-all"
    TRAIN = "train"
    SHARD = "shard"


@dataclass(frozen=True)
class GenerationRequest:
    """One image to generate. The same request gives the same image, whatever it is batched with, up to the rounding of
    sums in another order (1e-5 in float32); in a batch of the same shape it is the same to the bit.

    ``width`` and ``height`` are pixels; ``None`` asks for the adapter's own default size.
    """

    prompt: Prompt
    seed: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Generated:
    """A generated RGB image and, in think mode, the plan text that led to it.

    ``latents`` (C, H, W), float32, are what the image was decoded from, given by adapters that train on them: then the
    image is not encoded again, which for them would lose what the decoder left out.
    """

    image: Image.Image
    plan: str | None = None
    latents: Tensor | None = None


@dataclass(frozen=True)
class Question:
    """A question about an image, optionally about one box of it (pixels of that image). Without an image its text alone
    answers it.

    ``choices`` are the admissible answers for :meth:`ModelAdapter.choice_logprobs`; empty for open answers. ``seed`` is
    that of a sampled answer; greedy ones and choices do without.
    """

    image: Image.Image | None
    text: str
    choices: tuple[str, ...] = ()
    box: Box | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image is None and self.box is not None:
            raise ContractError(f"the question {self.text[:80]!r} is about a box, and has no image")


@dataclass(frozen=True)
class Decoding:
    """How open answers are written.

    ``temperature`` 0 takes the likeliest token every time, whatever ``top_p`` is. Above 0 tokens are drawn, from
    logits divided by it, among the likeliest ones that together have a probability of at least ``top_p``, in (0, 1].
    ``max_tokens`` is the budget of an answer in tokens, its end not counted; None is the adapter's own limit.
    ``stop`` are texts that end an answer and are left out of it; they count as tokens of the budget.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature >= 0.0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 (greedy) or more, and finite, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(
                f"max_tokens must be at least 1, or None for the adapter's own limit, got {self.max_tokens}"
            )
        if not isinstance(self.stop, tuple) or not all(self.stop):
            raise ValueError(f"stop must be a tuple of texts, none of them empty, got {self.stop!r}")

    def cut(self, text: str) -> str:
        """The text before the stop text that is complete first, and the longest of those that are complete there. A
        text without any is given back as it is."""
        found = [(text.index(stop) + len(stop), -len(stop)) for stop in self.stop if stop in text]
        if not found:
            return text
        end, length = min(found)
        return text[: end + length]


GREEDY = Decoding()
"""The likeliest token every time, up to the adapter's own limit."""


@dataclass(frozen=True)
class Answer:
    """An open answer without special tokens. ``truncated`` says that the budget ended it: the model would have gone on,
    and what it wrote may stop in the middle. ``tokens`` is how many the model wrote, None where nobody counts them;
    answers that say the same are equal, whatever they took."""

    text: str
    truncated: bool = False
    tokens: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Draws:
    """The random part of one training forward, shared by all terms that must see the same noise.

    ``timestep`` (B,) in [0, 1], 1 is pure noise; ``noise`` has the shapes of the latents, one tensor an image; ``drop``
    (B,) bool says which conditions are dropped for guidance. Adapters without a timestep ignore what they do not need.
    """

    timestep: Tensor
    noise: Sequence[Tensor]
    drop: Tensor


class Prediction(Protocol):
    """What a model predicted for a batch, with the two losses that objectives are made of. Both are float32 and
    keep the gradient of the prediction. Their T numbers are those of the latent tokens of all images, one image after
    the other, each row-major from the top left: images may have different token grids."""

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """Per-token loss (T,) against these clean latents: for flow models mean_c (v - (noise - x0))^2, for models that
        draw by tokens the cross-entropy. A provider whose losses are no squared errors says so by ``squared``."""

    def token_distance(self, other: Prediction) -> Tensor:
        """Per-token distance (T,) to another prediction, 0 to itself and positive to others: for flow models
        mean_c (v - v')^2, for likelihoods a divergence, which need not be the same both ways."""


@runtime_checkable
class ShowsVelocity(Protocol):
    """A prediction that shows its numbers. Adapters need not; monitors of the velocity then have nothing to read."""

    def velocities(self) -> Tensor:
        """(T, C), float32, without gradient: what was predicted for each latent token, in the tokens' order."""


class ModelAdapter(ABC):  # noqa: B024 - which methods a subclass needs follows from its capabilities
    """A unified multimodal model. Methods of capabilities that it lacks raise :class:`CapabilityError`.

    Instances come from the provider's factory ``factory(options, device)`` with weights loaded. All methods but
    ``predict`` run without gradient.
    """

    # --- generation -----------------------------------------------------------------------------------------
    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        """One RGB image per request. ``sampling`` is an instance of the provider's ``sampling`` dataclass."""
        raise self._cannot("generate images")

    # --- understanding --------------------------------------------------------------------------------------
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """An open answer per question, in order. The same question with the same seed has the same answer, whatever it
        is batched with, up to the rounding of logits."""
        raise self._cannot("answer questions")

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """Log-probabilities of each question's choices, normalised over the choices, in their order."""
        raise self._cannot("give log-probabilities of choices")

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """The regions that the model itself finds for the phrases of each image: none for an absent phrase, a Failure
        for an answer that holds no readable box, or that was cut off."""
        raise self._cannot("locate phrases")

    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """As :meth:`locate`, by one question an image for all its phrases. Each region has the phrase that its label
        stands for (:func:`srum_plugins.boxes.labelled`); a label that stands for none of them is a Failure. An image
        without phrases has no regions, and is not asked about."""
        raise self._cannot("locate several phrases at once")

    # --- training -------------------------------------------------------------------------------------------
    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of the latent token grid of an image of this size in pixels."""
        raise self._cannot("train")

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Clean latents (B, C, H, W), float32, of equally sized images, on the adapter's device."""
        raise self._cannot("train")

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """Timesteps, noise and condition dropout for the latents (C, H, W) of each image, from a CPU generator."""
        raise self._cannot("train")

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        """Predict for the latents (C, H, W) of each image, noised by ``draws``. ``base=True`` uses the weights that
        :meth:`start_training` found, without gradient; it is asked only after ``start_training(..., base=True)``."""
        raise self._cannot("train")

    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        """Freeze what must not move, and return the trainable parameters by name, in a fixed order.

        ``training`` is an instance of the provider's ``training`` dataclass. ``base`` says whether :meth:`predict` will
        be asked for the weights of this moment, and they are to be kept.
        """
        raise self._cannot("train")

    def shard(self, apply: Callable[[nn.Module], None]) -> dict[str, torch.nn.Parameter]:
        """Share the weights out among processes, after :meth:`start_training`: ``apply`` is called on each module whose
        weights are gathered together when it works, inner ones before the one that holds them; the last holds all that
        is trained. Every call of a module is one of its ``forward``. Returns what ``start_training`` did, anew: the
        parameters are others now. Only of adapters that can SHARD."""
        raise self._cannot("be sharded")

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and whatever is needed to load this model again."""
        raise self._cannot("save")

    def load_trained(self, folder: Path) -> None:
        """Load what :meth:`save` wrote into this model, strictly."""
        raise self._cannot("load trained weights")

    def understanding_digest(self) -> str:
        """A hex digest of every weight that the understanding half reads, to show that training left it alone."""
        raise self._cannot("digest its understanding half")

    def _cannot(self, what: str) -> CapabilityError:
        return CapabilityError(f"the model adapter {type(self).__name__} cannot {what}")


@dataclass(frozen=True)
class Weightless:
    """An adapter whose networks are on torch's ``meta`` device: they have shapes and dtypes, and no memory. Memory is
    estimated by letting it work.

    It does on the host what the real one does on the host, and everything else on ``meta``, where no value can be read:
    a work ends where one is needed. So its plans and answers are to be written from their last word on, after all that
    may come before it. To its tokenizer every word of a text is one token. ``size`` is the (width, height) in pixels of
    its images where a request names none; ``latents`` the shape (C, H, W) of what an adapter keeps with its images to
    train on (:attr:`Generated.latents`), None if it keeps nothing.
    """

    model: ModelAdapter
    size: tuple[int, int]
    latents: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Located:
    """A candidate with its image and prompt: what a grounder sees."""

    prompt: Prompt
    candidate: Candidate
    image: Image.Image


class Grounder(ABC):
    """Proposes regions. Boxes must lie inside the image.

    What the prompt does not ask for may be filtered out by the stage (``ground.filter``), which may keep it as
    background: a region that shows nothing that the prompt names. No judge is asked about one and no aggregator sees
    it, so that the map there is as where no region is.
    """

    @abstractmethod
    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item, in order. ``model`` is given if the provider's ``needs`` names a capability."""


class Judge(ABC):
    """Scores candidates: one global score and one local score per region, or typed failures.

    Regions that are background are left out of the groundings that it gets. The stage gives them the score 0, the
    neutral reward, with the reason ``background``, so that a judgement on disk has a score for every region on disk.
    """

    @abstractmethod
    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """One judgement per item, in order, with as many local scores as the grounding has regions."""


@dataclass(frozen=True)
class Judged:
    """A candidate with everything that is known of it: what an aggregator sees. Regions that are background are left
    out, of the grounding and of the local scores."""

    prompt: Prompt
    candidate: Candidate
    grounding: Grounding
    judgement: Judgement


@dataclass(frozen=True)
class Reward:
    """A candidate's reward map and its scalar ``score`` (higher is better), used to rank candidates of a prompt."""

    candidate_id: str
    map: RewardMap
    score: float


class Aggregator(ABC):
    """Turns judgements into reward maps. Pure and cheap: no model, no image."""

    @abstractmethod
    def aggregate(self, items: Sequence[Judged], seed: int) -> list[Reward | None]:
        """One reward per item, in order, or None where a failed judgement allows none. Sees the whole run at
        once, so that controls can move rewards between candidates."""


@dataclass(frozen=True)
class Example:
    """One training example of an objective: the candidates that take part, by role, with their reward maps.

    The weighted objective has the role (sample,), or (sample, reference) where they differ; the paired one has
    (winner, loser).
    """

    prompt: Prompt
    candidates: tuple[str, ...]
    maps: tuple[RewardMap, ...]


@dataclass(frozen=True)
class TrainBatch:
    """A batch of examples on the device. ``latents[r]`` are those of role ``r``, one tensor (C, H, W) an example, and
    ``weights[r]`` (T,) its reward maps on the token grids, float32, in the order of a prediction's tokens. ``grids``
    are the (h, w) of each example, the same for all its roles.

    A batch may be a part of its step, of which other processes, or this one later, have the rest. ``step_tokens`` and
    ``step_examples`` count the whole step (None: this batch is all of it), and a loss is this batch's share of the
    step's: :meth:`mean_of_tokens` and :meth:`mean_of_examples` in place of means.
    """

    prompts: tuple[Prompt, ...]
    latents: tuple[Sequence[Tensor], ...]
    weights: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    step_tokens: int | None = None
    step_examples: int | None = None

    def mean_of_tokens(self, values: Tensor) -> Tensor:
        """This batch's share of the mean over all tokens of the step, of its own (T,): the shares add up to the mean.
        So every token counts the same, whatever it is batched with."""
        return values.sum() / (self.step_tokens or len(values))

    def mean_of_examples(self, values: Tensor) -> Tensor:
        """As :meth:`mean_of_tokens`, over all examples of the step, of its own (B,)."""
        return values.sum() / (self.step_examples or len(values))

    def by_image(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Numbers (T,) of tokens as one tensor (h * w,) an example."""
        counts = [height * width for height, width in self.grids]
        parts: tuple[Tensor, ...] = tokens.split(counts)  # type: ignore[no-untyped-call]  # torch does not annotate it
        return parts


class Objective(ABC):
    """What training minimises, on top of any adapter's per-token losses."""

    uses_base: bool = True
    """Whether the loss asks for predictions of the base model, whose weights are then held beside those in training."""

    @abstractmethod
    def examples(self, items: Sequence[Judged], rewards: Sequence[Reward | None]) -> list[Example]:
        """The training examples of a run, in a fixed order. Raises RewardError for weights that it refuses."""

    @abstractmethod
    def loss(self, model: ModelAdapter, batch: TrainBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss (float32, with gradient) and detached scalar metrics by name: this batch's shares of those of
        its step, which are added up (:meth:`TrainBatch.mean_of_tokens`)."""


class PromptSet(ABC):
    """A source of training prompts."""

    @abstractmethod
    def prompts(self) -> list[Prompt]:
        """All prompts, ids unique, the same list at every call."""


@dataclass(frozen=True)
class Verdict:
    """A benchmark's figures for one image; each value in [0, 1].

    ``full`` is required (how far all demands are met; 1: all of them). A figure that could not be had is in
    ``failures`` in place of ``values``, with why. ``raw`` is what a model or an endpoint answered, in the order in
    which it was asked, and ``tokens`` how many tokens these answers took, None where nobody counts them.
    """

    prompt_id: str
    values: Mapping[str, float]
    failures: Mapping[str, Failure] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    tokens: int | None = None

    def __post_init__(self) -> None:
        if wrong := {name: value for name, value in self.values.items() if not 0.0 <= value <= 1.0}:
            raise ContractError(f"the verdict of {self.prompt_id!r} needs values in [0, 1]: {wrong}")
        if both := sorted(self.values.keys() & self.failures.keys()):
            raise ContractError(f"the verdict of {self.prompt_id!r} has {both[0]!r} as a value and as a failure")
        if "full" not in self.values and "full" not in self.failures:
            raise ContractError(f"the verdict of {self.prompt_id!r} needs `full`, as a value or as a failure")


@dataclass(frozen=True)
class Composite:
    """A figure over categories: the mean of ``figure`` in each, weighted with ``weights``, which are positive and add
    up to 1. It exists where every category has a figure: leaving one out would make another measure of it."""

    name: str
    weights: Mapping[str, float]
    figure: str = "full"

    def __post_init__(self) -> None:
        if not all(weight > 0.0 for weight in self.weights.values()):
            raise ContractError(f"the composite {self.name!r} needs positive weights, got {dict(self.weights)}")
        if not math.isclose(math.fsum(self.weights.values()), 1.0, abs_tol=1e-9):
            raise ContractError(f"the weights of the composite {self.name!r} must add up to 1: {dict(self.weights)}")


@dataclass(frozen=True)
class UnderstandingReport:
    """Accuracy in [0, 1] by question kind, and the number of questions of each."""

    accuracy: Mapping[str, float]
    questions: Mapping[str, int] = field(default_factory=dict)


class Benchmark(ABC):
    """Prompts with an independent measure of the images generated for them."""

    asks_model: bool = False
    """Whether :meth:`score` is given the base model as judge. It judges the images of both sides, after all of them are
    drawn: the trained model never judges itself, and a judge that moves would be another measure."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels of the images that it reads; None: of any. Where ``evaluate.width`` and
    ``evaluate.height`` do not say it, images are drawn in this size; where they say another, the run is refused."""

    @abstractmethod
    def prompts(self) -> list[Prompt]:
        """All prompts; ``split`` is ``in_domain`` or ``out_of_domain`` (or another name), ids unique."""

    @abstractmethod
    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        """One verdict per image, in order. ``model`` is the base model if :attr:`asks_model` says so."""

    def composites(self) -> Sequence[Composite]:
        """Figures of a split that are made of those of its categories."""
        return ()

    def understanding(self, model: ModelAdapter) -> UnderstandingReport | None:
        """The model's accuracy on a fixed question set, or None if the benchmark has none."""
        return None


class Watched(Protocol):
    """What a monitor may look at beside the model. The same calls give the same, before and after a kill."""

    @property
    def seed(self) -> int:
        """The monitor's own seed, for whatever it draws: the same in every reading."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The training prompts."""

    def candidates(self) -> Sequence[tuple[Candidate, Grounding]]:
        """The candidates of the run with their regions, background left in, in the order of the run."""

    def located(self, candidates: Sequence[Candidate]) -> list[Located]:
        """These candidates with their prompts and images, as the model drew them before training."""

    def latents(self, count: int) -> tuple[list[Prompt], list[Tensor]]:
        """The prompts and latents (C, H, W), on the device, of up to ``count`` training examples, spread evenly."""

    def generate(self, model: ModelAdapter, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Generated]:
        """Images with the settings of the stage ``generate``, one per prompt."""

    def judge(self, items: Sequence[Located], model: ModelAdapter, option: str | None = None) -> list[Judgement]:
        """What the run's judge says of images as a whole, without regions; or the judge that this option names, which
        is one of the provider's ``parts``."""


class Monitor(ABC):
    """Watches a training, and may end it by a reading of the level ``stop``.

    A reading must be the same whenever it is taken on the same weights: a training that was killed takes those since
    its last checkpoint again, and calls :meth:`before` anew, on the weights from before training. All methods run
    without gradient, and torch's, numpy's and Python's random numbers are set aside for the time. Where several
    processes hold a part of the weights each (``train.sharding=fsdp2``), all of them call all methods together, and the
    model can do nothing but ``predict``; else the main process alone does.
    """

    every: int | None = None
    """Steps between two readings during training; the last step has one too. None: there are none during training."""

    @abstractmethod
    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """Take what later readings are compared with; the readings that can be taken before training."""

    def during(self, step: int, rows: Sequence[Mapping[str, float]], model: ModelAdapter) -> list[Reading]:
        """Readings after ``step`` steps, of which ``rows`` are the metrics, each with its ``step`` (from 0)."""
        return []

    def after(self, model: ModelAdapter) -> list[Reading]:
        """Readings on the weights that training ends with. Their levels are told, and stop nothing any more."""
        return []
