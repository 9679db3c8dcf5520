"""What the checks of model adapters share: how an adapter is set up, made, and given something to work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from srum_plugins.attention import plugin as attention_plugin
from srum_plugins.attention.probe import choose
from srum_plugins.config import Choice
from srum_plugins.contracts import Capability, Draws, Generated, GenerationRequest, ModelAdapter, Question
from srum_plugins.host import PluginHost
from srum_plugins.options import build_options
from srum_plugins.providers import Kind, NoOptions
from srum_plugins.records import Box, Prompt
from srum_plugins.stages.monitoring import set_aside
from srum_plugins.testing.checked_model import CheckedModel
from srum_plugins.testing.painted import painted
from srum_plugins.testing.suite import Conformance, Subject, global_random

PROMPTS = (
    Prompt("circle", "a red circle", phrases=("red circle",)),
    Prompt("square", "a blue square", phrases=("blue square",)),
    Prompt("triangle", "a green triangle", phrases=("green triangle",)),
)
QUESTIONS = ("is there a red circle ?", "is there a blue square ?")
CHOICES = ("yes", "no")
Size = tuple[int, int]


def near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors have one shape and the same numbers, up to a tolerance relative to 1 and to themselves."""
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=tolerance, atol=tolerance))


@contextmanager
def random_kept(adapter: Subject, method: str, seed: int, mend: str) -> Iterator[None]:
    """Global random numbers that begin at ``seed``; breach if they are moved."""
    with set_aside(seed):
        before = global_random()
        yield
        for whose, state in global_random().items():
            adapter.require(state == before[whose], method, f"moves {whose}'s global random numbers", mend)


@dataclass(frozen=True)
class AdapterSubject(Subject):
    """The adapter under test, with what its suite says of it. ``sampling`` and ``training`` are instances of the
    provider's dataclasses; the other fields are those of :class:`AdapterSuite`."""

    device: str
    sampling: Any
    training: Any
    prompts: tuple[Prompt, ...]
    questions: tuple[str, ...]
    wanted_size: Size | None
    sizes: tuple[Size, ...]

    def fresh(self) -> CheckedModel:
        """A new model from the provider's factory, with a kernel of attention if it declares heads."""
        provider = self.registered.provider
        if provider.heads is None:
            made = self.make(ModelAdapter, self.device)
        else:
            auto = Choice(Kind.ATTENTION, self.host.get(Kind.ATTENTION, "auto"), NoOptions())
            auto = replace(auto, options=build_options(auto.registered.provider.options, {}, "attention"))
            kernel = choose(auto, self.host, provider.heads(self.options), self.device).kernel
            made = self.make(ModelAdapter, self.device, kernel)
        return CheckedModel(self, made)

    @cached_property
    def model(self) -> CheckedModel:
        """The model that no check trains or changes."""
        return self.fresh()

    def can(self, capability: Capability) -> bool:
        """Whether the adapter declares it."""
        return capability in self.registered.provider.capabilities

    def needs(self, *capabilities: Capability) -> None:
        """Skip the running test if the adapter does not declare these."""
        if lacking := [one.value for one in capabilities if not self.can(one)]:
            pytest.skip(f"the adapter {self.registered.provider.name!r} does not declare {', '.join(lacking)}")

    def requests(self, size: Size | None = None) -> list[GenerationRequest]:
        """A request for each prompt, with seeds from 1."""
        width, height = size or (None, None)
        return [GenerationRequest(prompt, seed, width, height) for seed, prompt in enumerate(self.prompts, 1)]

    @cached_property
    def drawn(self) -> list[Generated]:
        """What the model draws for :meth:`requests` in one call, in :attr:`wanted_size`."""
        return self.drawn_by(self.model)

    def drawn_by(self, model: ModelAdapter) -> list[Generated]:
        """What a model draws for :meth:`requests`, in :attr:`wanted_size`; nothing if it draws no images."""
        if not self.can(Capability.GENERATE):
            return []
        return model.generate(self.requests(self.wanted_size), self.sampling)

    def understood_by(self, model: ModelAdapter) -> Sequence[Sequence[float]]:
        """The log-probabilities of yes and no that a model gives; nothing if it can choose nothing."""
        return model.choice_logprobs(self.asked(CHOICES)) if self.can(Capability.CHOICE) else ()

    @cached_property
    def size(self) -> Size:
        """(width, height) in pixels of images: as the suite says, else those that the adapter draws by default."""
        if self.wanted_size is not None:
            return self.wanted_size
        if not self.can(Capability.GENERATE):
            pytest.fail("the adapter draws no images: set `size` in the suite, the (width, height) of what it sees")
        return self.drawn[0].image.size

    @cached_property
    def images(self) -> list[Image.Image]:
        """Two images that show different things."""
        return [painted(self.size, seed) for seed in (1, 2)]

    def asked(self, choices: tuple[str, ...] = ()) -> list[Question]:
        """Each question about each image and about its left half, image by image, with a seed of its own."""
        half = Box(0, 0, max(self.size[0] // 2, 1), self.size[1])
        asked = [(image, text, box) for image in self.images for text in self.questions for box in (None, half)]
        return [Question(image, text, choices, box, seed) for seed, (image, text, box) in enumerate(asked)]

    @property
    def cannot_encode(self) -> str:
        """Why the adapter could not encode images with these options; empty if it can."""
        return self.registered.provider.cannot_encode(self.options)

    def encoded(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Latents (C, H, W) of each image; images may differ in size."""
        return [self.model.encode([image])[0] for image in images]

    @cached_property
    def latents(self) -> list[Tensor]:
        """Latents (C, H, W) to train on: of :attr:`images`, or those kept with drawn images where nothing can be
        encoded."""
        if not self.cannot_encode:
            return self.encoded(self.images)
        kept = [one.latents for one in self.drawn[:2] if one.latents is not None]
        if len(kept) < 2:
            self.breach(
                "generate",
                f"keeps no latents with its images, and images cannot be encoded: {self.cannot_encode}",
                "give Generated.latents, or an option that lets it encode",
            )
        return [one.to(self.device) for one in kept]

    def draws(self, latents: Sequence[Tensor], seed: int = 0, time: float | None = None) -> Draws:
        """The adapter's own draws from a seed, without a dropped condition; ``time`` sets all timesteps."""
        draws = self.model.draw(latents, torch.Generator().manual_seed(seed))
        timestep = draws.timestep if time is None else torch.full_like(draws.timestep, time)
        return replace(draws, timestep=timestep, drop=torch.zeros_like(draws.drop))


class AdapterSuite(Conformance):
    """Base of the checks of adapters. What a suite may say of its adapter, beside its name and options:

    ``device`` is where it is tested. ``sampling`` and ``training`` are settings as in a config; few steps keep the
    suite fast. ``thinking`` are those of ``sampling`` that ask for a plan, of an adapter that declares ``think``.
    ``prompts`` and ``questions`` are what it is asked, in words that it knows; questions are answered by yes or no.
    ``size`` is the (width, height) in pixels of images, None is the adapter's own, and ``sizes`` are others that it
    draws and encodes. ``flow`` says whether it predicts velocities, and ``trained`` that its weights have learnt to:
    then their sign is checked against images that it draws. ``parts`` is into how many parts each way an image is
    divided to see where its tokens lie: more find finer disorder, and fewer bear with an untrained encoder that sees
    far. ``frozen`` says whether training with these settings leaves the understanding half alone.
    """

    kind = Kind.ADAPTER
    device: ClassVar[str] = "cpu"
    sampling: ClassVar[Mapping[str, Any]] = {}
    thinking: ClassVar[Mapping[str, Any]] = {"think": True}
    training: ClassVar[Mapping[str, Any]] = {}
    prompts: ClassVar[Sequence[Prompt]] = PROMPTS
    questions: ClassVar[Sequence[str]] = QUESTIONS
    size: ClassVar[Size | None] = None
    sizes: ClassVar[Sequence[Size]] = ()
    flow: ClassVar[bool] = True
    trained: ClassVar[bool] = False
    parts: ClassVar[int] = 2
    frozen: ClassVar[bool] = True

    @classmethod
    def host(cls) -> PluginHost:
        """As :meth:`Conformance.host`, with our kernels of attention where there are none."""
        host = super().host()
        if "auto" not in host.names(Kind.ATTENTION):
            host.register(attention_plugin, "attention")
        return host

    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls, subject: Subject) -> AdapterSubject:
        """The adapter under test."""
        return cls.described(subject)

    @classmethod
    def described(cls, subject: Subject) -> AdapterSubject:
        """The provider under test, with what the suite says of it."""
        provider = subject.registered.provider
        return AdapterSubject(
            host=subject.host,
            registered=subject.registered,
            options=subject.options,
            classes=subject.classes,
            told=subject.told,
            device=cls.device,
            sampling=build_options(provider.sampling, cls.sampling, "sampling"),
            training=build_options(provider.training, cls.training, "training"),
            prompts=tuple(cls.prompts),
            questions=tuple(cls.questions),
            wanted_size=cls.size,
            sizes=tuple(cls.sizes),
        )
