"""The model as the framework calls it. Latents (3, H, W) are the colours of the tokens, in [-1, 1]."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from srum_plugins.contracts import (
    GREEDY,
    Answer,
    Decoding,
    Draws,
    Generated,
    GenerationRequest,
    ModelAdapter,
    Prediction,
    Question,
)
from srum_plugins.errors import ContractError
from srum_plugins.flow import FlowPrediction, noised, uniform_draws
from srum_plugins.providers import NoOptions
from srum_plugins.records import Box, Failure, Prompt, Region
from srum_plugins.weights import load_weights, save_weights
from torch import Tensor, nn

from srum_example_name.model import BACKGROUND, COLOURS, PatchFlow, named
from srum_example_name.plugin import Options, Sampling

TOKEN, SIDE = 4, 32
"""Pixels: the side of a token, and that of an image unless a request says otherwise."""
NUMBERS = ("zero", "one", "two", "three", "four")


class ExampleNameAdapter(ModelAdapter):
    """Draws, answers and trains with a :class:`PatchFlow`."""

    def __init__(self, options: Options, device: str) -> None:
        self.flow = self.base = PatchFlow(options.skill).to(device)
        self.device = torch.device(device)

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        """Follows the velocity from noise (time 1) to an image (time 0)."""
        drawn = []
        for request in requests:
            grid = self.token_grid(request.width or SIDE, request.height or SIDE)
            seen = torch.randn(3, *grid, generator=torch.Generator().manual_seed(request.seed)).to(self.device)
            for time, after in pairwise(torch.linspace(1, 0, sampling.steps + 1, device=self.device)):
                seen = seen + (after - time) * self.flow.velocity(request.prompt.text, seen, time)
            levels = ((seen + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            drawn.append(Generated(Image.fromarray(levels.repeat(TOKEN, axis=0).repeat(TOKEN, axis=1))))
        return drawn

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """One word: the colour that covers most of the image or of the box, its background left out."""
        counts = [self._tokens(question)[:BACKGROUND] for question in questions]
        words = [COLOURS[int(one.argmax())] if one.any() else "nothing" for one in counts]
        return [Answer(decoding.cut(word), tokens=1) for word in words]

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """From how much there is of the colours that a question names, or of all. That says yes or no, and how many; to
        anything else all answers are equally likely."""
        answers = []
        for question in questions:
            counts = self._tokens(question)
            there = float(counts[named(question.text) or list(range(BACKGROUND))].sum())
            yes = min(there / (4.0 if question.box is None else float(counts.sum())), 1.0)
            beliefs = {"yes": yes, "no": 1 - yes, NUMBERS[min(round(there / 4), 4)]: 1.0}
            weights = [0.05 + beliefs.get(choice, 0.0) for choice in question.choices]
            answers.append(tuple(math.log(weight / sum(weights)) for weight in weights))
        return answers

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """One box for each phrase, around all that has its colour."""
        found: list[list[Region | Failure]] = [[] for _ in images]
        for regions, image, wanted in zip(found, images, phrases, strict=True):
            seen = self._seen(image)
            for phrase in wanted:
                y, x = torch.isin(seen, torch.tensor(named(phrase), dtype=seen.dtype)).nonzero(as_tuple=True)
                if len(x):
                    box = Box(float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
                    regions.append(Region(box, phrase))
        return found

    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) tokens."""
        if width % TOKEN or height % TOKEN:
            raise ContractError(f"an image must have sides of {TOKEN} pixels times a number, got {width} x {height}")
        return height // TOKEN, width // TOKEN

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The mean colour of each token."""
        pixels = torch.stack([self._pixels(image) for image in images]).permute(0, 3, 1, 2)
        return nn.functional.adaptive_avg_pool2d(pixels, self.token_grid(*images[0].size))

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """No prompt is dropped: the model is sampled without guidance."""
        return uniform_draws(latents, generator)

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        """The velocity of each image."""
        flow = self.base if base else self.flow
        images = zip(prompts, noised(latents, draws), draws.timestep, strict=True)
        return FlowPrediction([flow.velocity(prompt.text, seen, time) for prompt, seen, time in images], draws.noise)

    def start_training(self, training: NoOptions, *, base: bool) -> dict[str, nn.Parameter]:
        """Trains what is painted for each colour."""
        self.base = deepcopy(self.flow).requires_grad_(False)
        return {"paint": self.flow.paint}

    def save(self, folder: Path) -> None:
        """One safetensors file."""
        save_weights(self.flow.state_dict(), folder / "model.safetensors")

    def load_trained(self, folder: Path) -> None:
        """What :meth:`save` wrote; a CheckpointError says what does not fit."""
        load_weights(self.flow, [folder / "model.safetensors"], self.device)

    def understanding_digest(self) -> str:
        """Of the colours, by which it sees."""
        return hashlib.sha256(self.flow.colours.detach().cpu().numpy().tobytes()).hexdigest()

    def _pixels(self, image: Image.Image) -> Tensor:
        """(H, W, 3), in [-1, 1]."""
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1).to(self.device)

    def _seen(self, image: Image.Image) -> Tensor:
        """(H, W): the nearest colour of each pixel, as its place in COLOURS."""
        return (self._pixels(image)[:, :, None] - self.flow.colours).square().sum(-1).argmin(-1).cpu()

    def _tokens(self, question: Question) -> Tensor:
        """(7,): how many tokens of each colour there are in the image, or in the box; none without an image."""
        image, box = question.image, question.box
        if image is None:
            return torch.zeros(len(COLOURS))
        if box is not None:
            image = image.crop((math.floor(box.x0), math.floor(box.y0), math.ceil(box.x1), math.ceil(box.y1)))
        return self._seen(image).flatten().bincount(minlength=len(COLOURS)) / TOKEN**2
