"""Our own adapters keep the contract that strangers' are held to, and the suite sees those that do not: whole broken
plugins are in broken_plugins, and here is what is told of smaller breaches."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_backend
from blip3o_folder import write_blip3o
from PIL import Image
from release_folder import write_release
from torch import Tensor
from toy_backend import Sampling, ToyAdapter

from srum_plugins import hookimpl
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
)
from srum_plugins.flow import FlowPrediction
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind, Provider
from srum_plugins.records import Box, Mask, Prompt, Region
from srum_plugins.testing.adapter_suite import AdapterSubject
from srum_plugins.testing.adapters import AdapterConformance
from srum_plugins.testing.places import LINES, packages, shown
from srum_plugins.testing.scripted import ScriptedModel


class TestToy(AdapterConformance):
    name = "toy"
    plugin = toy_backend
    sizes = ((8, 12), (16, 8))
    parts = 4


class TestShapes(AdapterConformance):
    name = "shapes"
    sampling = {"points": 3}
    parts = 4
    trained = True


class TestBagel(AdapterConformance):
    name = "bagel"
    sampling = {"points": 3}
    thinking = {"think": True, "think_tokens": 4}
    sizes = ((32, 64),)

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        write_release(folder)
        return {"checkpoint": str(folder), "dtype": "float32", "size": [64, 64], "answer_tokens": 8}


class TestBlip3o(AdapterConformance):
    name = "blip3o"
    sampling = {"prior_steps": 2, "steps": 2}
    parts = 4

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        write_blip3o(folder)
        return {"checkpoint": str(folder), "dtype": "float32", "answer_tokens": 8}


class TestBagelInHalfPrecision(TestBagel):
    """Sums in another order differ by more there, and nothing is wrong."""

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        return {**super().configure(folder), "dtype": "bfloat16"}


# --- what the suite sees ------------------------------------------------------------------------------------------
(TOY,) = toy_backend.srum_model_adapters()


class Reader(ModelAdapter):
    """Understands by a script, and does nothing else: words from a hash of what it is asked."""

    def __init__(self, options: Any, device: str) -> None:
        self.script = ScriptedModel(lambda question, share: " ".join(str(share)[2:14]))

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        return self.script.answer(questions, decoding)


def plugin_of(provider: Provider) -> Any:
    class Plugin:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            return [provider]

    return Plugin()


READER = Provider("reader", "reads", Reader, capabilities=frozenset({Capability.ANSWER}))


class TestReader(AdapterConformance):
    name = "reader"
    size = (16, 12)
    plugin = plugin_of(READER)


class ShortSeeds(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        return super().generate([replace(one, seed=one.seed % 2**16) for one in requests], sampling)


class SmallSeeds(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        for one in requests:
            np.random.RandomState(one.seed)
        return super().generate(requests, sampling)


class SeedsNumpy(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        np.random.seed(requests[0].seed % 2**32)
        return super().generate(requests, sampling)


class KeepsOtherLatents(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        return [replace(one, latents=torch.zeros(3, 2, 2)) for one in super().generate(requests, sampling)]


class SameDrops(ToyAdapter):
    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        drop = torch.rand(len(latents), generator=torch.Generator().manual_seed(0)) < 0.1
        return replace(super().draw(latents, generator), drop=drop)


class Attached(ToyAdapter):
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        return super().encode(images) + 0 * self.model.gain


class RawScores(ToyAdapter):
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        return [tuple(1000.0 + one for one in row) for row in super().choice_logprobs(questions)]


class Blind(ToyAdapter):
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        grey = Image.new("RGB", (8, 8), "grey")
        return super().choice_logprobs([replace(one, image=grey, box=None) for one in questions])


def located(**found: Any) -> type[ToyAdapter]:
    class Located(ToyAdapter):
        def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region]]:
            return [[Region(Box(0, 0, 8, 8), phrase, **found) for phrase in wanted] for wanted in phrases]

    return Located


def predicting(made: type[FlowPrediction]) -> type[ToyAdapter]:
    class Predicting(ToyAdapter):
        def predict(
            self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
        ) -> Prediction:
            return made(super().predict(prompts, latents, draws, base=base).velocity, draws.noise)  # type: ignore[attr-defined]

    return Predicting


class ByColumns(FlowPrediction):
    def velocities(self) -> Tensor:
        return torch.cat([one.detach().float().mT.flatten(1).T for one in self.velocity])


class OneWay(FlowPrediction):
    def token_distance(self, other: Prediction) -> Tensor:
        assert isinstance(other, FlowPrediction)
        size = torch.cat([one.square().mean(dim=0).flatten() for one in self.velocity])
        return super().token_distance(other) * size


class Seedless(Reader):
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        return super().answer([replace(one, seed=0) for one in questions], decoding)


class SeededGreedy(Reader):
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        return super().answer([replace(one, text=f"{one.text} {one.seed}") for one in questions], decoding)


class NeverTruncated(Reader):
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        return [replace(one, truncated=False) for one in super().answer(questions, decoding)]


class Unseeded(ToyAdapter):
    def __init__(self, options: toy_backend.AdapterOptions, device: str) -> None:
        super().__init__(options, device)
        torch.nn.init.normal_(self.model.gain)


S = AdapterConformance
SEED = S.test_the_same_request_gives_the_same_image_and_another_seed_another
BOXES = partial(S.test_boxes_lie_inside_their_images, method=Capability.LOCATE)


@pytest.mark.parametrize(
    ("provider", "test", "words"),
    [
        (
            replace(TOY, factory=Unseeded),
            S.test_its_factory_makes_the_same_model_again,
            "factory: makes a second model of the same options that predicts otherwise",
        ),
        (replace(TOY, factory=ShortSeeds), SEED, "generate: the seeds 1 and 1048577 gave the same image"),
        (replace(TOY, factory=SmallSeeds), SEED, "generate: raised ValueError: Seed must be between"),
        (replace(TOY, factory=SeedsNumpy), S.test_images_come_from_their_seeds_alone, "moves numpy's global random"),
        (
            replace(TOY, factory=KeepsOtherLatents),
            S.test_latents_that_are_kept_can_be_trained_on,
            "token_losses: gives",
        ),
        (replace(TOY, factory=SameDrops), S.test_draws_come_from_the_generator_alone, "draw: gives the same drops"),
        (
            replace(TOY, factory=Attached),
            S.test_latents_are_float32_and_do_not_depend_on_their_batch,
            "encode: keeps a gradient",
        ),
        (
            replace(TOY, factory=RawScores),
            S.test_log_probabilities_are_normalised_and_follow_their_choices,
            r"choice_logprobs: the probabilities of \('yes', 'no'\) sum to exp\(1000\)",
        ),
        (
            replace(TOY, factory=Blind),
            S.test_choices_are_of_the_image_and_of_the_box,
            "choice_logprobs: images that differ have the same",
        ),
        (replace(TOY, factory=located(mask=Mask(3, 3, (9,)))), BOXES, r"locate: a mask is of \(3, 3\) pixels"),
        (replace(TOY, factory=located(score=np.float32(0.5))), BOXES, "locate: gave a record that JSON cannot hold"),
        (
            replace(TOY, factory=predicting(ByColumns)),
            S.test_the_distance_is_that_of_the_velocities,
            "velocities: rows are not those of the tokens",
        ),
        (
            replace(TOY, factory=predicting(OneWay)),
            S.test_the_distance_is_zero_to_itself_and_positive_to_others,
            "token_distance: two predictions are at other distances there and back",
        ),
        (
            replace(READER, factory=Seedless),
            S.test_a_seed_counts_where_answers_are_drawn_and_nowhere_else,
            "answer: 12 seeds gave the same answer",
        ),
        (
            replace(READER, factory=SeededGreedy),
            S.test_a_seed_counts_where_answers_are_drawn_and_nowhere_else,
            "answer: a greedy answer changes with",
        ),
        (
            replace(READER, factory=NeverTruncated),
            S.test_an_answer_that_its_budget_ended_says_so,
            "answer: wrote .* on a budget of 3 tokens, not truncated",
        ),
    ],
)
def test_a_breach_is_told_with_plugin_method_and_mend(
    tmp_path: Path, provider: Provider, test: Callable[..., None], words: str
) -> None:
    class Broken(AdapterConformance):
        name = provider.name
        plugin = plugin_of(provider)
        size = (12, 8)

    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(Broken(), Broken.described(Broken.open(tmp_path)))
    assert f"the adapter {provider.name!r} of" in str(told.value) and "mend: " in str(told.value)


def test_an_identity_that_changes_is_told(tmp_path: Path) -> None:
    count = itertools.count()

    class Broken(AdapterConformance):
        name = "toy"
        plugin = plugin_of(replace(TOY, identity=lambda options: str(next(count))))

    with pytest.raises(pytest.fail.Exception, match="identity: gives '0', and then '1'"):
        Broken().test_its_identity_is_the_same_at_every_call(Broken.open(tmp_path))


# --- the sign that trained weights tell ---------------------------------------------------------------------------
def opposite(factory: Callable[..., ModelAdapter]) -> Callable[..., ModelAdapter]:
    """A factory whose models draw as they did, and predict the opposite velocity."""

    def make(options: Any, device: str, attention: Any) -> ModelAdapter:
        model = factory(options, device, attention)
        predict = model.predict

        def negated(*given: Any, **settings: Any) -> Any:
            found: Any = predict(*given, **settings)
            return replace(found, velocity=-found.velocity)

        model.predict = negated  # type: ignore[method-assign]
        return model

    return make


def test_the_opposite_velocity_is_told_by_trained_weights_and_by_no_others(tmp_path: Path) -> None:
    shapes = PluginHost.load().get(Kind.ADAPTER, "shapes").provider

    class Broken(TestShapes):
        plugin = plugin_of(replace(shapes, factory=opposite(shapes.factory)))

    adapter = Broken.described(Broken.open(tmp_path))
    for unseen in (
        Broken().test_a_perfect_prediction_has_no_loss,
        Broken().test_the_velocity_points_from_the_image_to_the_noise,
        Broken().test_the_noise_belongs_to_the_target,
    ):
        unseen(adapter)
    with pytest.raises(pytest.fail.Exception, match=r"opposite velocity 0\.00\d+: the sign is wrong"):
        Broken().test_a_trained_model_is_right_about_its_own_images(adapter)


# --- where a breach lies ------------------------------------------------------------------------------------------
class Averages(ToyAdapter):
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.from_numpy(np.asarray("no number").mean())


class GoesDeep(ToyAdapter):
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        return self.deeper(len(images) + 30)

    def deeper(self, left: int) -> Tensor:
        return self.deeper_still(left - 1)

    def deeper_still(self, left: int) -> Tensor:
        return self.deeper(left) if left else torch.zeros(1).view(3)


class ListsLatents(ToyAdapter):
    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Any:
        return list(super().encode(images))


class Unwritten(ToyAdapter):
    encode = ModelAdapter.encode


def told_by(factory: Callable[..., ModelAdapter], folder: Path) -> tuple[AdapterSubject, str]:
    """What is told where images are encoded, and the subject that told it."""

    class Broken(AdapterConformance):
        name = "toy"
        plugin = plugin_of(replace(TOY, factory=factory))
        size = (12, 8)

    adapter = Broken.described(Broken.open(folder))
    with pytest.raises(pytest.fail.Exception) as told:
        Broken().test_latents_are_float32_and_do_not_depend_on_their_batch(adapter)
    with pytest.raises(pytest.skip.Exception, match="encode cannot be used: the first test"):
        Broken().test_tokens_lie_where_their_part_of_the_image_is(adapter)
    return adapter, str(told.value)


def test_an_exception_is_told_by_the_plugins_own_line_with_what_was_given_and_its_traceback(tmp_path: Path) -> None:
    _, text = told_by(Averages, tmp_path)
    line = Averages.encode.__code__.co_firstlineno + 1
    head, _, traced = text.partition(f"\n  at: {__file__}:{line}\n")
    assert "encode: raised" in head and "it was given list of 2 RGB image of 12 x 8." in head and "mend: " in head
    assert traced.splitlines()[0].strip() == f'File "{__file__}", line {line}, in encode'
    assert "_methods.py" in traced  # of numpy, where it was raised


def test_a_long_traceback_is_shown_by_its_ends(tmp_path: Path) -> None:
    _, text = told_by(GoesDeep, tmp_path)
    lines = text.partition("\n  at: ")[2].splitlines()[1:]
    assert len(lines) == 2 * LINES + 1
    assert "in encode" in lines[0] and "torch.zeros(1).view(3)" in text and "..." in lines[LINES]


@pytest.mark.parametrize("factory", [ListsLatents, Unwritten])
def test_a_breach_shows_where_its_method_stands(tmp_path: Path, factory: type[ToyAdapter]) -> None:
    adapter, text = told_by(factory, tmp_path)
    own = f"{__file__}:{inspect.getsourcelines(ListsLatents.encode)[1]}"
    hook = adapter.registered.file  # of a method that the plugin does not write
    assert text.endswith(f"\n  at: {own if factory is ListsLatents else hook}")


def test_what_a_plugin_takes_over_from_us_is_none_of_its_own() -> None:
    assert packages(ToyAdapter, FlowPrediction) == {"toy_backend"}


def test_it_is_told_what_was_given_without_its_contents() -> None:
    image = Image.new("RGB", (4, 3))
    assert shown([image, image, torch.zeros(2, 3)]) == "list of 2 RGB image of 4 x 3, 1 float32 tensor (2, 3)"
    assert shown((Question(image, "what?", ("a", "b"), Box(0, 0, 1, 1)),)) == (
        "tuple of 1 Question about RGB image of 4 x 3, a box of it, 2 choices"
    )
    assert shown([GenerationRequest(Prompt("p", "a dog"), 1, 8, 4), GenerationRequest(Prompt("p", "a dog"), 1)]) == (
        "list of 1 GenerationRequest of 8 x 4, 1 GenerationRequest"
    )
    assert shown({"a": 1}) == "dict of 1" and shown([]) == "list of nothing" and shown("x") == "'x'"
    assert shown(Question(None, "what?")) == "Question about no image"
