"""A model without weights worth the name: what it says follows from what it is asked, so that suites can be repeated.

What it says is good for nothing but to see what a grounder, a judge, a benchmark or a monitor makes of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from PIL import Image

from srum_plugins.contracts import (
    GREEDY,
    Answer,
    Capability,
    Decoding,
    Generated,
    GenerationRequest,
    ModelAdapter,
    Question,
)
from srum_plugins.records import Box, Failure, Region
from srum_plugins.testing.linear_flow import LinearFlow
from srum_plugins.testing.suite import Conformance, Subject

Talk = Callable[[Question, float], str]
"""What the model writes to a question, in the form that is asked for. The number, in [0, 1), follows from the question:
scores made of it differ between images."""

ABLE = frozenset(Capability) - {Capability.THINK, Capability.SHARD}
"""All that a scripted model can do."""

Nonsense = Literal["empty", "cut off", "garbage", "huge numbers"]
NONSENSE: tuple[Nonsense, ...] = get_args(Nonsense)
"""Ways to talk nonsense: nothing at all; the first characters, cut off by the budget; signs that mean nothing, and NaN;
numbers that no score can be."""
_SAID: Mapping[Nonsense, str] = {
    "empty": "",
    "garbage": "}{ \u2603 [[nan]] \ufffd %% <|",
    "huge numbers": "score: 1e308\nR1 | it | 99999999\nR2 | it | -1e308\n99999999999",
}
_SHOWN = 3  # characters of what is cut off: no score is complete in them
SIZE = 32
"""Pixels of an image's side where a request names none."""


def scores(question: Question, share: float) -> str:
    """A score of the whole and one of each of nine regions, in the form that the judge ``rubric`` asks for."""
    regions = "\n".join(f"R{number} | as asked | {2 * share - 1:.2f}" for number in range(1, 10))
    return f"reason: as asked\nscore: {share:.2f}\n{regions}"


class ScriptedModel(LinearFlow):
    """Answers, choices, boxes and images from a hash of what is asked, and :class:`LinearFlow`'s predictions.

    ``talk`` writes the open answers. ``can`` is all that the model will do: other methods raise CapabilityError, as
    those of a real model do. With ``nonsense`` it gives no answer of any use. Two models of different ``seed`` say
    different things. A word counts as a token. ``asked`` counts the calls that asked something of it.
    """

    def __init__(
        self,
        talk: Talk = scores,
        *,
        can: frozenset[Capability] = ABLE,
        nonsense: Nonsense | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._talk, self._can, self._nonsense, self._seed = talk, can, nonsense, seed
        self.asked = 0

    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        """Noise around a colour of the prompt and its seed, which moves with the weights' shift."""
        self._need(Capability.GENERATE, "generate images")
        return [Generated(self._image(request)) for request in requests]

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """What ``talk`` writes. The seed of a question counts where answers are drawn."""
        self._need(Capability.ANSWER, "answer questions")
        return [self._answer(question, decoding) for question in questions]

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """Any probabilities, none below 0.01."""
        self._need(Capability.CHOICE, "give log-probabilities of choices")
        return [self._choices(question) for question in questions]

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """Up to two boxes a phrase, inside the image."""
        self._need(Capability.LOCATE, "locate phrases")
        return self._located(images, phrases)

    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """The same as :meth:`locate`."""
        self._need(Capability.LOCATE_ALL, "locate several phrases at once")
        return self._located(images, phrases)

    def _need(self, capability: Capability, what: str) -> None:
        self.asked += 1
        if capability not in self._can:
            raise self._cannot(what)

    def _chance(self, *said: object) -> float:
        """A number in [0, 1) that follows from what is said, and from the pixels of images."""
        parts = [(one.size, one.mode, one.tobytes()) if isinstance(one, Image.Image) else one for one in said]
        digest = hashlib.sha256(repr((self._seed, parts)).encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48

    def _image(self, request: GenerationRequest) -> Image.Image:
        size = request.height or SIZE, request.width or SIZE, 3
        chance = self._chance(request.prompt.id, request.prompt.text, request.seed)
        rng = np.random.default_rng(int(chance * 2**32))
        moved = 255 * self.shift.detach().cpu().numpy()
        pixels = rng.uniform(0, 255, 3) + moved + rng.normal(0, 20, size)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def _answer(self, question: Question, decoding: Decoding) -> Answer:
        seed = question.seed if decoding.temperature else None
        said = self._talk(question, self._chance(question.image, question.text, question.box, seed))
        if self._nonsense == "cut off":
            return Answer(said[:_SHOWN], truncated=True, tokens=1)
        text = decoding.cut(said if self._nonsense is None else _SAID[self._nonsense])
        tokens = len(text.split())
        if decoding.max_tokens is not None and tokens > decoding.max_tokens:
            return Answer(" ".join(text.split()[: decoding.max_tokens]), truncated=True, tokens=decoding.max_tokens)
        return Answer(text, tokens=tokens)

    def _choices(self, question: Question) -> tuple[float, ...]:
        shares = [0.01 + self._chance(question.image, question.text, question.box, one) for one in question.choices]
        row = tuple(math.log(share / math.fsum(shares)) for share in shares)
        if self._nonsense is None:
            return row
        known = {"empty": (), "cut off": row[:-1], "garbage": (math.nan,) * len(row), "huge numbers": (1e9,) * len(row)}
        return known[self._nonsense]

    def _located(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        if self._nonsense is not None:
            return [[Failure("malformed boxes", self._nonsense) for _ in row] for row in phrases]
        return [
            [self._region(image, phrase, index) for phrase in row for index in range(int(3 * self._chance(phrase)))]
            for image, row in zip(images, phrases, strict=True)
        ]

    def _region(self, image: Image.Image, phrase: str, index: int) -> Region:
        left, top, wide, high, score = (self._chance(image, phrase, index, side) for side in range(5))
        x0, y0 = 0.8 * left * image.width, 0.8 * top * image.height
        x1, y1 = x0 + (0.2 + 0.8 * wide) * (image.width - x0), y0 + (0.2 + 0.8 * high) * (image.height - y0)
        return Region(Box(x0, y0, min(x1, image.width), min(y1, image.height)), phrase, score)


NOT_NEEDED = "leave out of the provider's needs what is not asked for, or ask the model that the method is given"


class AskingConformance(Conformance):
    """Base of the suites of what asks a model.

    ``talk`` is what that model writes: give your own where open answers must have a form other than :func:`scores`.
    ``asks`` says that the provider asks somebody although its ``needs`` are empty, such as a server: then override
    :meth:`model` so that it lets that one speak, and returns None.
    """

    asks: ClassVar[bool] = False

    @staticmethod
    def talk(question: Question, share: float) -> str:
        """See :data:`Talk`."""
        return scores(question, share)

    @staticmethod
    def is_asked(subject: Subject, method: str, model: ModelAdapter | None, mend: str) -> None:
        """Breach, once, if a provider that says that it asks a model has asked nothing of it: what else the suite would
        say of its answers has this cause."""
        if isinstance(model, ScriptedModel) and not model.asked:
            names = ", ".join(sorted(subject.needed))
            subject.breach(method, f"needs {names}, and asked the model nothing", mend, once="asks nothing")

    @classmethod
    def model(
        cls, can: frozenset[Capability], *, nonsense: Nonsense | None = None, seed: int = 0
    ) -> ModelAdapter | None:
        """The model that the provider is given, which can do what the provider's ``needs`` name and no more; None if
        they name nothing."""
        return ScriptedModel(cls.talk, can=can, nonsense=nonsense, seed=seed) if can else None
