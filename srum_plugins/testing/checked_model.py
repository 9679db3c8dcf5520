"""An adapter under test as all checks call it: what it raises, and what is of another type than its contract says, is
told by the plugin's method, once, however many tests call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from PIL import Image
from torch import Tensor, nn

from srum_plugins.contracts import (
    GREEDY,
    Answer,
    Capability,
    Decoding,
    Draws,
    Generated,
    GenerationRequest,
    ModelAdapter,
    Prediction,
    Question,
    ShowsVelocity,
)
from srum_plugins.records import Failure, Prompt, Region
from srum_plugins.testing.places import shown

if TYPE_CHECKING:
    from srum_plugins.testing.suite import Subject


METHODS = {
    Capability.GENERATE: ("generate",),
    Capability.THINK: ("generate",),
    Capability.ANSWER: ("answer",),
    Capability.CHOICE: ("choice_logprobs",),
    Capability.LOCATE: ("locate",),
    Capability.LOCATE_ALL: ("locate_all",),
    Capability.TRAIN: (
        "token_grid",
        "encode",
        "draw",
        "predict",
        "start_training",
        "save",
        "load_trained",
        "understanding_digest",
    ),
    Capability.SHARD: ("shard",),
}
"""The methods that a capability takes (docs/plugins.md, the contract gate)."""


class CheckedPrediction:
    """A prediction of a :class:`CheckedModel`; ``made`` is the plugin's own."""

    def __init__(self, subject: Subject, made: Prediction) -> None:
        self.subject, self.made = subject, made

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """See :meth:`Prediction.token_losses`."""
        return self._tensor("token_losses", latents)

    def token_distance(self, other: Prediction) -> Tensor:
        """See :meth:`Prediction.token_distance`. The plugin's own class is given its own."""
        return self._tensor("token_distance", other.made if isinstance(other, CheckedPrediction) else other)

    def _tensor(self, method: str, *given: object) -> Tensor:
        found = _called(self.subject, method, getattr(self.made, method), *given)
        if not isinstance(found, Tensor):
            _mistyped(self.subject, method, found, "return a float32 tensor with a number or a row for each token")
        return found


class CheckedVelocity(CheckedPrediction):
    """One that shows its velocities."""

    def velocities(self) -> Tensor:
        """See :meth:`ShowsVelocity.velocities`."""
        return self._tensor("velocities")


class CheckedModel(ModelAdapter):
    """A model adapter whose methods breach where they raise, or give what is of another type; ``made`` is the plugin's
    own, for what is to be seen as it is."""

    def __init__(self, subject: Subject, made: ModelAdapter) -> None:
        self.subject, self.made = subject, made

    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        """See :meth:`ModelAdapter.generate`."""
        mend = "return a list with one Generated(image) for each request, where image is a PIL image"
        found = self._list("generate", requests, mend, requests, sampling)
        for one in found:
            if not isinstance(one, Generated) or not isinstance(one.image, Image.Image):
                _mistyped(self.subject, "generate", found, mend)
            if one.latents is not None:
                self._right(
                    isinstance(one.latents, Tensor) and one.latents.ndim == 3 and one.latents.dtype == torch.float32,
                    "generate",
                    f"latents are {shown(one.latents)}",
                    "keep latents as float32 (C, H, W)",
                )
        return found

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """See :meth:`ModelAdapter.answer`."""
        mend = "return a list with one Answer(text, truncated) for each question"
        found = self._list("answer", questions, mend, questions, decoding)
        if not all(isinstance(one, Answer) for one in found):
            _mistyped(self.subject, "answer", found, mend)
        return found

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`ModelAdapter.choice_logprobs`."""
        mend = "return a list with one tuple of numbers for each question, one a choice: tuple(scores.tolist())"
        found = self._list("choice_logprobs", questions, mend, questions)
        for question, row in zip(questions, found, strict=True):
            if not isinstance(row, tuple | list) or not all(isinstance(one, Real) for one in row):
                _mistyped(self.subject, "choice_logprobs", found, mend)
            self._right(
                len(row) == len(question.choices),
                "choice_logprobs",
                f"gave {len(row)} log-probabilities for {len(question.choices)} choices",
                mend,
            )
        return found

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """See :meth:`ModelAdapter.locate`."""
        return self._located("locate", images, phrases)

    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """See :meth:`ModelAdapter.locate_all`."""
        return self._located("locate_all", images, phrases)

    def _located(
        self, method: str, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        mend = "return a list for each image, of Region(box, phrase) and Failure(cause)"
        found = self._list(method, images, mend, images, phrases)
        for row in found:
            if not isinstance(row, list | tuple) or not all(isinstance(one, Region | Failure) for one in row):
                _mistyped(self.subject, method, found, mend)
        return found

    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """See :meth:`ModelAdapter.token_grid`."""
        found = self._call("token_grid", width, height)
        self._right(
            isinstance(found, tuple | list)
            and len(found) == 2
            and all(isinstance(side, int) and side > 0 for side in found),
            "token_grid",
            f"gives {found!r:.80} for images of {width} x {height}",
            "return (h, w), whole positive numbers of rows and columns",
        )
        return found[0], found[1]

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """See :meth:`ModelAdapter.encode`."""
        found = self._call("encode", images)
        if not isinstance(found, Tensor):
            _mistyped(self.subject, "encode", found, "return one float32 tensor (B, C, H, W): torch.stack a list")
        self._right(
            found.ndim == 4 and len(found) == len(images) and found.dtype == torch.float32,
            "encode",
            f"gave {found.dtype} of shape {tuple(found.shape)} for {shown(images)}",
            "return float32 (B, C, H, W)",
        )
        return found

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """See :meth:`ModelAdapter.draw`."""
        found = self._call("draw", latents, generator)
        if not isinstance(found, Draws):
            _mistyped(self.subject, "draw", found, "return Draws(timestep, noise, drop); srum_plugins.flow has some")
        for name, one in (("timestep", found.timestep), ("drop", found.drop), *(("noise", one) for one in found.noise)):
            self._right(isinstance(one, Tensor), "draw", f"{name} is {shown(one)}", "draw tensors: see Draws")
        return found

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        """See :meth:`ModelAdapter.predict`."""
        found = self._call("predict", prompts, latents, draws, base=base)
        for method in ("token_losses", "token_distance"):
            self._right(
                callable(getattr(found, method, None)),
                "predict",
                f"gave {shown(found)}, which has no method {method}",
                "return a Prediction: for flow models srum_plugins.flow.FlowPrediction(velocity, draws.noise), else a "
                "class of yours with token_losses and token_distance",
            )
        self.subject.classes[type(found)] = None
        return (CheckedVelocity if isinstance(found, ShowsVelocity) else CheckedPrediction)(self.subject, found)

    def start_training(self, training: Any, *, base: bool) -> dict[str, nn.Parameter]:
        """See :meth:`ModelAdapter.start_training`."""
        return self._parameters("start_training", self._call("start_training", training, base=base))

    def shard(self, apply: Callable[[nn.Module], None]) -> dict[str, nn.Parameter]:
        """See :meth:`ModelAdapter.shard`."""
        return self._parameters("shard", self._call("shard", apply))

    def _parameters(self, method: str, found: Any) -> dict[str, nn.Parameter]:
        if not isinstance(found, Mapping) or not all(isinstance(one, nn.Parameter) for one in found.values()):
            mend = "return the parameters that training moves by name: dict(module.named_parameters())"
            _mistyped(self.subject, method, found, mend)
        return dict(found)

    def save(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.save`."""
        self._call("save", folder)

    def load_trained(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.load_trained`."""
        self._call("load_trained", folder)

    def understanding_digest(self) -> str:
        """See :meth:`ModelAdapter.understanding_digest`."""
        found = self._call("understanding_digest")
        if not isinstance(found, str):
            mend = "give the hexdigest of a hash of the weights, in a fixed order"
            _mistyped(self.subject, "understanding_digest", found, mend)
        return found

    def has(self, method: str) -> None:
        """Breach unless the plugin's own class has a method, which its capabilities promise."""
        if getattr(type(self.made), method) is not getattr(ModelAdapter, method):
            return
        capability = next(one for one, methods in METHODS.items() if method in methods)
        self.subject.breach(
            method,
            f"is not there, and the provider declares {capability.value!r}",
            f"write {method}, or leave Capability.{capability.name} out of capabilities",
            once="absent",
        )

    def _call(self, method: str, *given: Any, **settings: Any) -> Any:
        self.has(method)
        return _called(self.subject, method, getattr(self.made, method), *given, **settings)

    def _list(self, method: str, items: Sequence[object], mend: str, *given: Any) -> list[Any]:
        """What a method gives, which must be one for each item."""
        found = self._call(method, *given)
        if not isinstance(found, list | tuple):
            _mistyped(self.subject, method, found, mend)
        self._right(len(found) == len(items), method, f"gave {len(found)} results for {len(items)} items", mend)
        return list(found)

    def _right(self, holds: bool, method: str, wrong: str, mend: str) -> None:
        if not holds:
            self.subject.breach(method, wrong, mend, once="type")


def _mistyped(subject: Subject, method: str, found: object, mend: str) -> NoReturn:
    subject.breach(method, f"gave {shown(found)}", mend, once="type")


def _called(subject: Subject, method: str, function: Callable[..., Any], *given: Any, **settings: Any) -> Any:
    try:
        return function(*given, **settings)
    except Exception as error:
        subject.raised(method, error, given, once=True)
