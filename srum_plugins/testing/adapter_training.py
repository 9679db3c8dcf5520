"""Checks of a short training: what moves, what stays, and what of it comes back from disk."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srum_plugins.contracts import Capability, Draws, Generated, ModelAdapter, Prediction, TrainBatch
from srum_plugins.errors import SrumError
from srum_plugins.records import Prompt
from srum_plugins.stages.monitoring import spread
from srum_plugins.testing.adapter_generation import unlike
from srum_plugins.testing.adapter_suite import AdapterSubject, AdapterSuite, near
from srum_plugins.testing.checked_model import CheckedModel
from srum_plugins.training.dataset import part

STEPS = 3
RATE = 1e-2
SAME = 1e-6
"""By how much a loss may differ after saving and loading, relative to 1 and to itself."""
SHARES = 1e-4
"""By how much gradients of the parts of a step may differ from those of the whole, as a share of the largest."""
HALF_SHARES = 5e-2
"""The same, where numbers of 16 bits are added in another order."""
WEIGHTS = 12
"""How many tensors are changed one by one, to see whether the digest is of them."""
HEX = re.compile("[0-9a-f]+")
UNDERSTOOD = 1e-6
"""By how much a log-probability may move while the understanding half rests."""
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
"""How pickles begin, and the zip files in which torch.save keeps them."""
FREEZE = (
    "freeze the whole model with requires_grad_(False), then let only the parameters that start_training returns "
    "require a gradient"
)


@dataclass(frozen=True)
class Course:
    """What was seen in a training of STEPS steps on two images. ``before`` and ``after`` are the losses (T,) of the
    model, ``base_before`` and ``base_after`` those of its base, on the same draws. ``reached`` are the parameters that
    got a gradient, ``astray`` those that require one and were not returned; ``half``: some weights have 16 bits.
    ``whole`` are the gradients of a step, and ``shares`` the sums of those of its images one by one. ``drawn`` are the
    images after it. ``saved`` is the folder that it was written to, and ``kept`` are the losses after that."""

    names: tuple[str, ...]
    fixed: tuple[str, ...]
    reached: frozenset[str]
    astray: tuple[str, ...]
    dtypes: frozenset[str]
    half: bool
    digests: tuple[str, str]
    understood: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]]
    differentiable: bool
    distance_differentiable: bool
    before: Tensor
    after: Tensor
    base_differentiable: bool
    base_before: Tensor
    base_after: Tensor
    whole: Mapping[str, Tensor]
    shares: Mapping[str, Tensor]
    drawn: Sequence[Generated]
    saved: Path
    kept: Tensor


@dataclass(frozen=True)
class Lesson:
    """Two images with their prompts and draws, as one step of a training sees them."""

    prompts: tuple[Prompt, ...]
    latents: tuple[Tensor, ...]
    draws: Draws

    def predicted(self, model: ModelAdapter, *, base: bool = False) -> Prediction:
        """What a model, or its base, predicts of them."""
        return model.predict(self.prompts, self.latents, self.draws, base=base)

    def losses(self, model: ModelAdapter, *, base: bool = False) -> Tensor:
        """Their losses (T,), without gradient."""
        with torch.no_grad():
            return self.predicted(model, base=base).token_losses(self.latents)


def lesson(adapter: AdapterSubject) -> Lesson:
    """The second image without its prompt, so that what stands in for one is reached too."""
    draws = adapter.draws(adapter.latents)
    drop = torch.arange(2, device=draws.drop.device) == 1
    return Lesson(tuple(adapter.prompts[:2]), tuple(adapter.latents), dataclasses.replace(draws, drop=drop))


def _gradients(
    model: ModelAdapter,
    parameters: Mapping[str, nn.Parameter],
    given: Lesson,
    cuts: Sequence[Sequence[int]],
    tokens: int,
) -> dict[str, Tensor]:
    """The gradients of a step of so many tokens, whose images are seen in these parts."""
    for parameter in parameters.values():
        parameter.grad = None
    for places in cuts:
        seen = Lesson(
            tuple(given.prompts[i] for i in places), tuple(given.latents[i] for i in places), part(given.draws, places)
        )
        batch = TrainBatch(seen.prompts, (seen.latents,), (), (), step_tokens=tokens)
        batch.mean_of_tokens(seen.predicted(model).token_losses(seen.latents)).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return {name: one.grad.detach().clone() for name, one in parameters.items() if one.grad is not None}


def seen_parameters(model: ModelAdapter) -> dict[str, nn.Parameter]:
    """The parameters of all networks that an adapter's attributes are, or hold one step further in, by name."""
    found: dict[str, nn.Parameter] = {}
    for name, value in vars(model).items():
        for path, one in ((name, value), *((f"{name}.{key}", held) for key, held in _held(value).items())):
            if isinstance(one, nn.Module):
                found |= {f"{path}.{own}": parameter for own, parameter in one.named_parameters()}
    return found


def _held(value: object) -> Mapping[object, object]:
    """What a container or an object holds, by key, place or attribute."""
    if isinstance(value, nn.Module):
        return {}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return getattr(value, "__dict__", {})


def _truncated(file: Path, target: Path) -> None:
    target.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _missing(file: Path, target: Path) -> None:
    pass


def _of_another_model(file: Path, target: Path) -> None:
    save_file({"stranger.weight": torch.zeros(3)}, target)


def _one_short(file: Path, target: Path) -> None:
    _, *others = sorted(load_file(file).items())
    save_file(dict(others), target)


def _misshapen(file: Path, target: Path) -> None:
    save_file({name: one.flatten().repeat(2) for name, one in load_file(file).items()}, target)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "truncated": _truncated,
    "missing": _missing,
    "of another model": _of_another_model,
    "without one of their tensors": _one_short,
    "of other shapes": _misshapen,
}
"""What may have become of a file of weights, and how it is made."""


class TrainingChecks(AdapterSuite):
    """``start_training``, ``predict``, ``understanding_digest``, ``shard``, ``save`` and ``load_trained``."""

    @pytest.fixture(scope="class")
    @classmethod
    def course(cls, adapter: AdapterSubject, tmp_path_factory: pytest.TempPathFactory) -> Course:
        """A training from start to end on a fresh model, which is then saved."""
        adapter.needs(Capability.TRAIN)
        model, given = adapter.fresh(), lesson(adapter)
        understood, digest = [adapter.understood_by(model)], model.understanding_digest()
        parameters = model.start_training(adapter.training, base=True)
        if not parameters:
            adapter.breach("start_training", "returns no parameters", "return those that training moves, by name")
        first, base = given.predicted(model), given.predicted(model, base=True)
        losses, base_losses = first.token_losses(given.latents), base.token_losses(given.latents)
        tokens = len(losses)
        images = list(range(len(given.latents)))
        whole = _gradients(model, parameters, given, [images], tokens) if losses.requires_grad else {}
        shares = _gradients(model, parameters, given, [[i] for i in images], tokens) if losses.requires_grad else {}
        optimizer = torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=0.0)
        for _ in range(STEPS if losses.requires_grad else 0):
            _gradients(model, parameters, given, [images], tokens)
            optimizer.step()
        optimizer.zero_grad()
        returned = {id(one) for one in parameters.values()}
        seen = seen_parameters(model.made)
        understood.append(adapter.understood_by(model))
        digests = digest, model.understanding_digest()
        after, base_after, folder = (
            given.losses(model),
            given.losses(model, base=True),
            tmp_path_factory.mktemp("saved"),
        )
        drawn = adapter.drawn_by(model)
        model.save(folder)
        return Course(
            names=tuple(parameters),
            fixed=tuple(name for name, one in parameters.items() if not one.requires_grad),
            reached=frozenset(whole),
            astray=tuple(name for name, one in seen.items() if one.requires_grad and id(one) not in returned),
            dtypes=frozenset(str(one.dtype).removeprefix("torch.") for one in parameters.values()),
            half=any(one.dtype in (torch.bfloat16, torch.float16) for one in seen.values()),
            digests=digests,
            understood=(understood[0], understood[1]),
            differentiable=losses.requires_grad,
            distance_differentiable=first.token_distance(base).requires_grad,
            before=losses.detach(),
            after=after,
            base_differentiable=base_losses.requires_grad,
            base_before=base_losses.detach(),
            base_after=base_after,
            whole=whole,
            shares=shares,
            drawn=drawn,
            saved=folder,
            kept=given.losses(model),
        )

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, adapter: AdapterSubject, course: Course) -> CheckedModel:
        """A fresh model that was given what the training saved."""
        model = adapter.fresh()
        model.load_trained(course.saved)
        return model

    def test_training_moves_what_it_returns_and_nothing_else_requires_a_gradient(
        self, adapter: AdapterSubject, course: Course
    ) -> None:
        """As far as the adapter's attributes show."""
        adapter.require(
            course.differentiable,
            "predict",
            "after start_training the losses have no gradient",
            "let the parameters that start_training returns require one, and detach nothing on the way",
        )
        adapter.require(
            course.distance_differentiable,
            "token_distance",
            "has no gradient after start_training: nothing would hold the model to its base",
            "keep the gradient of the prediction, and detach nothing on the way",
        )
        adapter.require(
            not course.fixed, "start_training", f"returns {_some(course.fixed)}, which require no gradient", FREEZE
        )
        lost = [name for name in course.names if name not in course.reached]
        adapter.require(
            not lost,
            "start_training",
            f"returns {_some(lost)}, which no gradient of the loss reaches",
            "return what the loss depends on; optimizers that decay weights move the others all the same",
        )
        adapter.require(
            not course.astray,
            "start_training",
            f"leaves {_some(course.astray)} with a gradient, and does not return them",
            FREEZE,
        )

    def test_trained_weights_have_the_dtype_that_the_provider_tells(
        self, adapter: AdapterSubject, course: Course
    ) -> None:
        """``Provider.trained_dtype``, by which an optimizer is chosen before anything is loaded."""
        told = adapter.registered.provider.trained_dtype(adapter.options, adapter.training)
        adapter.require(
            course.dtypes == {told},
            "trained_dtype",
            f"says {told!r}, and start_training returns parameters of {', '.join(sorted(course.dtypes))}",
            "let the provider's trained_dtype(options, training) give their dtype",
        )

    def test_images_are_drawn_with_the_trained_weights(
        self, adapter: AdapterSubject, course: Course, loaded: CheckedModel
    ) -> None:
        """They change with a training, and are the same when it is loaded: else nothing of it would be seen."""
        adapter.needs(Capability.GENERATE)
        adapter.require(
            any(unlike(*pair, levels=0) for pair in zip(adapter.drawn, course.drawn, strict=True)),
            "generate",
            f"the images are the same after {STEPS} steps of a rate of {RATE}",
            "draw with the parameters that start_training returns, not with copies",
        )
        for one, other in zip(course.drawn, adapter.drawn_by(loaded), strict=True):
            if wrong := unlike(one, other):
                adapter.breach(
                    "load_trained",
                    f"a fresh model that loads what save wrote draws another image: {wrong}",
                    "load every weight that generate reads, too",
                )

    def test_names_come_in_the_same_order_on_a_fresh_model(self, adapter: AdapterSubject, course: Course) -> None:
        """Checkpoints and processes rely on it."""
        names = tuple(adapter.fresh().start_training(adapter.training, base=False))
        adapter.require(
            names == course.names,
            "start_training",
            f"returns {len(course.names)} parameters, {_some(course.names)}, and on a fresh model {len(names)}, "
            f"{_some(names)}",
            "return them in a fixed order, whatever base is",
        )

    def test_training_changes_predictions_and_leaves_the_base(self, adapter: AdapterSubject, course: Course) -> None:
        """``predict`` and ``predict(base=True)``."""
        adapter.require(
            not torch.equal(course.before, course.after),
            "predict",
            f"predictions are the same after {STEPS} steps of a rate of {RATE}",
            "predict with the parameters that start_training returns, not with copies",
        )
        wrong = [
            *(["moves with the training"] if not near(course.base_before, course.base_after, SAME) else []),
            *(["has a gradient"] if course.base_differentiable else []),
        ]
        adapter.require(
            not wrong,
            "predict",
            f"base=True {' and '.join(wrong)}",
            "keep a copy of what moves in start_training(base=True), and predict with it in torch.no_grad(): "
            "srum_plugins.base_weights.BaseWeights does both",
        )
        adapter.require(
            near(course.base_before, course.before, SAME),
            "predict",
            "base=True differs from the model before the first step",
            "the base is the weights that start_training found",
        )

    def test_the_understanding_half_rests(self, adapter: AdapterSubject, course: Course) -> None:
        """Its digest, and what it says about images."""
        if not self.frozen:
            pytest.skip("the suite says that training moves the understanding half (frozen = False)")
        adapter.require(
            course.digests[0] == course.digests[1],
            "start_training",
            f"understanding_digest is another after {STEPS} steps: weights that understanding reads were trained",
            FREEZE,
        )
        moved = [
            abs(a - b) for one, other in zip(*course.understood, strict=True) for a, b in zip(one, other, strict=True)
        ]
        adapter.require(
            max(moved, default=0.0) <= UNDERSTOOD,
            "understanding_digest",
            f"is the same after {STEPS} steps, and choice_logprobs moved by up to {max(moved, default=0.0):.2g}",
            "digest every weight that understanding reads, and freeze them",
        )

    def test_the_digest_is_of_what_understanding_reads(self, adapter: AdapterSubject, loaded: CheckedModel) -> None:
        """It is another where a weight is another that changes what is said about images."""
        if not self.frozen:
            pytest.skip("the suite says that training moves the understanding half (frozen = False)")
        digest, said = loaded.understanding_digest(), adapter.understood_by(loaded)
        seen = seen_parameters(loaded.made)
        names = list(seen)
        generator = torch.Generator().manual_seed(0)
        for name in (names[index] for index in spread(len(names), WEIGHTS)):
            one = seen[name].data
            kept = one.clone()
            one.add_(torch.randn(one.shape, generator=generator).to(one))
            moved, changed = adapter.understood_by(loaded) != said, loaded.understanding_digest() != digest
            one.copy_(kept)
            adapter.require(
                changed or not moved,
                "understanding_digest",
                f"is the same with another {name}, which changes choice_logprobs",
                "digest every weight that understanding reads, as it is when it is asked for",
            )
        adapter.require(
            loaded.understanding_digest() == digest and bool(HEX.fullmatch(digest)),
            "understanding_digest",
            f"gives {digest!r:.80}, and then {loaded.understanding_digest()!r:.80} of the same weights",
            "give the hexdigest of a hash of the weights, in a fixed order",
        )

    def test_the_parts_of_a_step_add_up_to_it(self, adapter: AdapterSubject, course: Course) -> None:
        """Gradients of images one by one sum to those of their batch."""
        for name, whole in course.whole.items():
            off = float((course.shares[name] - whole).abs().max()) if name in course.shares else float("inf")
            largest = float(torch.stack([one.abs().max() for one in course.whole.values()]).max())
            adapter.require(
                off <= (HALF_SHARES if course.half else SHARES) * largest,
                "token_losses",
                f"the gradients of {name!r} from two images one by one do not sum to those of both together",
                "let no image see another, give no loss that depends on the batch, and no dropout that is not in draws",
            )

    def test_it_is_shared_out_module_by_module(self, adapter: AdapterSubject) -> None:
        """``shard`` names each module, and the last holds all that is trained."""
        adapter.needs(Capability.TRAIN, Capability.SHARD)
        model, given = adapter.fresh(), lesson(adapter)
        names = list(model.start_training(adapter.training, base=True))
        before = given.losses(model)
        modules: list[nn.Module] = []
        parameters = model.shard(modules.append)
        adapter.require(
            list(parameters) == names, "shard", "returns other parameters than start_training", "return the same, anew"
        )
        last = {id(one) for one in modules[-1].parameters()} if modules else set()
        adapter.require(
            all(id(one) in last for one in parameters.values()),
            "shard",
            "the last module that it applies to does not hold all that is trained",
            "call apply on inner modules first, and last on the one that holds them all",
        )
        adapter.require(
            near(before, given.losses(model), SAME), "shard", "changes predictions", "share out weights, and no more"
        )

    def test_weights_are_saved_as_safetensors(self, adapter: AdapterSubject, course: Course) -> None:
        """And nothing is pickled: loading a pickle runs whatever code is in it."""
        files = _files(course.saved)
        adapter.require(
            any(file.suffix == ".safetensors" for file in files),
            "save",
            f"writes {_some([file.name for file in files])}, and no safetensors file",
            "write weights with srum_plugins.weights.save_weights",
        )
        # A safetensors file begins with the length of its header, which may look like a pickle's first bytes.
        others = [file for file in files if file.suffix != ".safetensors"]
        pickles = [file.name for file in others if file.read_bytes().startswith(PICKLES)]
        adapter.require(
            not pickles,
            "save",
            f"writes {_some(pickles)}, a pickle",
            "write weights with srum_plugins.weights.save_weights",
        )
        adapter.require(
            near(course.after, course.kept, SAME),
            "save",
            "changes the model: its losses are others afterwards",
            "save copies; training goes on after a checkpoint",
        )

    def test_a_fresh_model_predicts_the_same_after_loading(
        self, adapter: AdapterSubject, course: Course, loaded: CheckedModel
    ) -> None:
        """What was trained comes back."""
        given = lesson(adapter)
        after = given.losses(loaded)
        off = float((after - course.after).abs().max())
        adapter.require(
            near(after, course.after, SAME),
            "load_trained",
            f"a fresh model that loads what save wrote has losses that are off by up to {off:.2g}",
            "save every parameter that start_training returned, in its own dtype, and load it where predict reads it",
        )
        adapter.require(
            loaded.understanding_digest() == course.digests[1],
            "load_trained",
            "understanding_digest of a fresh model that loads what save wrote is not that of the saved one",
            "load trained weights to where they were, and leave the understanding half as it is",
        )

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_weights_are_refused(
        self, adapter: AdapterSubject, course: Course, loaded: CheckedModel, tmp_path: Path, damage: str
    ) -> None:
        """By a :class:`srum_plugins.errors.SrumError`, and the model stays as it was."""
        for file in _files(course.saved):
            target = tmp_path / file.relative_to(course.saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix != ".safetensors":
                target.write_bytes(file.read_bytes())
            else:
                DAMAGES[damage](file, target)
        given = lesson(adapter)
        before = given.losses(loaded)
        try:
            loaded.made.load_trained(tmp_path)
        except SrumError:
            pass
        except Exception as error:
            adapter.breach(
                "load_trained",
                f"raises {type(error).__name__} for weights that are {damage}: {error}",
                "raise a CheckpointError that names the file; srum_plugins.weights.load_weights does",
            )
        else:
            adapter.breach(
                "load_trained",
                f"takes weights that are {damage}",
                "load strictly, with srum_plugins.weights.load_weights",
            )
        adapter.require(
            near(before, given.losses(loaded), SAME),
            "load_trained",
            f"refuses weights that are {damage}, and has changed the model all the same",
            "look at all names and shapes before the first weight is loaded; srum_plugins.weights.load_weights does",
        )


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
