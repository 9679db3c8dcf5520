"""The estimate: each kind of work of a run is done once, by the code that the run will use, on tensors without memory.

Nothing is loaded and no value is computed; what is counted are the bytes of the tensors that the work makes and holds.
Where the code reads a value from the device its work ends, so an adapter without memory begins its answers at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from PIL import Image
from torch import Tensor

from srum_plugins.contracts import Capability, GenerationRequest, ModelAdapter, Question, Weightless
from srum_plugins.memory.tracker import Tracker, ValueNeededError, fused_attention
from srum_plugins.memory.training import network_bytes, rehearse
from srum_plugins.memory.workload import STAGES, Drawing, Estimate, Size, Work, Workload
from srum_plugins.records import Prompt


def estimate(make: Callable[[], Weightless], workload: Workload) -> Estimate:
    """Rehearse a run's work.

    ``make`` gives the adapter on torch's ``meta`` device, see :class:`srum_plugins.contracts.Weightless`.

    Raises:
        ValueNeededError: training reads a value from the device, and what would follow cannot be known.
        NotImplementedError: something is done whose result has a shape that depends on values.
    """
    host = ("cpu",) if workload.device == "cpu" else ()
    with Tracker("meta", *host) as tracker, fused_attention():
        given = make()
        model, learning = given.model, workload.learning
        held = network_bytes(model)
        works = [Work(stage, name, *_peak(tracker, work)) for stage, name, work in _without_gradient(given, workload)]
        per_example = None
        if learning is not None:
            size = learning.size or given.size
            if given.latents is not None and learning.settings.latents == "kept":
                latents = torch.empty(1, *given.latents, device="meta")  # nothing is encoded
            else:
                work, latents = _encoded(model, size, tracker)
                works.append(work)
            training = rehearse(
                model, learning, size, latents, Prompt("prompt", _text(workload.words)), workload.device, tracker
            )
            works += training.works
            held, per_example = training.held, training.per_example
    works.sort(key=lambda work: STAGES.index(work.stage))
    return Estimate({name: size for name, size in held.items() if size}, tuple(works), per_example)


def _without_gradient(given: Weightless, workload: Workload) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Everything but the training: its stage, what is done, and the call that does it."""
    model, text = given.model, _text(workload.words)
    for stage, drawing in workload.drawing.items():
        yield stage, f"draw {_shown(drawing.images, drawing.size or given.size)}", _draw(model, drawing, text)
    for stage, asking in workload.asking.items():
        size = asking.size or given.size
        for need, work in _ask(model, asking.images, size, text, workload.questions).items():
            if need in asking.needs:
                yield stage, f"{need.value}, {_shown(asking.images, size)}", work


def _draw(model: ModelAdapter, drawing: Drawing, text: str) -> Callable[[], object]:
    width, height = drawing.size or (None, None)
    requests = [GenerationRequest(Prompt(str(seed), text), seed, width, height) for seed in range(drawing.images)]
    return lambda: model.generate(requests, drawing.sampling)


def _ask(
    model: ModelAdapter, count: int, size: Size, text: str, questions: int
) -> dict[Capability, Callable[[], object]]:
    """How each kind of question is asked about so many images."""
    images = [Image.new("RGB", size) for _ in range(count)]
    asked = [Question(image, text) for image in images for _ in range(questions)]
    chosen = [Question(image, text, ("yes", "no")) for image in images for _ in range(questions)]
    return {
        Capability.ANSWER: lambda: model.answer(asked),
        Capability.CHOICE: lambda: model.choice_logprobs(chosen),
        Capability.LOCATE: lambda: model.locate(images, [[text] * questions] * count),
        # The phrases of a prompt are together about as long as it is.
        Capability.LOCATE_ALL: lambda: model.locate_all(images, [[text]] * count),
    }


def _encoded(model: ModelAdapter, size: Size, tracker: Tracker) -> tuple[Work, Tensor]:
    """The encoding of an image as a work, and its latents."""
    images = [Image.new("RGB", size)]
    held, activations = _peak(tracker, lambda: model.encode(images))
    return Work("train", f"encode {_shown(1, size)}", held, activations), model.encode(images)


def _peak(tracker: Tracker, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes held before a work, and beside them at its peak."""
    gc.collect()
    tracker.restart()
    held = tracker.live
    with suppress(ValueNeededError):
        work()
    return held, tracker.peak - held


def _text(words: int) -> str:
    return " ".join(["word"] * words)


def _shown(images: int, size: Size) -> str:
    return f"{images} image{'s' if images > 1 else ''} of {size[0]}x{size[1]}"
