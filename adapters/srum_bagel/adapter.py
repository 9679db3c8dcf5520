"""BAGEL behind the framework's adapter contract."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from srum_bagel import choices
from srum_bagel.autoencoder import KLAutoencoder, PixelAutoencoder, patchify, to_uint8, unpatchify
from srum_bagel.checkpoint import WEIGHTS, read_config, save_model
from srum_bagel.choices import Choosing, scores, sheet, within
from srum_bagel.config import BagelConfig
from srum_bagel.images import AsTheyAre, Preparation
from srum_bagel.model import Bagel
from srum_bagel.mot import Cache
from srum_bagel.options import LORA_TARGETS, Sampling, Thinking, Training
from srum_bagel.packing import Piece, PieceKind
from srum_bagel.sampler import sample, shifted
from srum_bagel.understanding import greedy, write
from srum_plugins import lora
from srum_plugins.base_weights import BaseWeights
from srum_plugins.boxes import labelled
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
from srum_plugins.decoding import likeliest, sampled
from srum_plugins.errors import CapabilityError, CheckpointError, ContractError
from srum_plugins.records import Box, Failure, Prompt, Region
from srum_plugins.weights import load_weights

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Read = TypeVar("Read")

TEXT_DROPOUT = 0.1
"""Share of training examples whose text is dropped, as in BAGEL's training."""
IMAGES_PER_CALL = 64
"""Images that understanding reads in one forward, if the adapter is not told otherwise."""
TOKENS_PER_CALL = 2**15
"""Latent tokens that are drawn in one forward, those of guidance not counted: eight images of 1024 x 1024."""


def grouped(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """The places of each key, in the order of the keys."""
    places: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    return places


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """So many items at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Dialect(ABC):
    """How a checkpoint was taught to speak: its tokenizer, and how it is asked about boxes."""

    longest_answer: int
    """Tokens after which an open answer is cut off, where nobody asks for another budget."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids."""

    @abstractmethod
    def ask(self, text: str, box: Box | None) -> str:
        """A question, about one box of the image if there is one."""

    @abstractmethod
    def ask_where(self, phrase: str) -> str:
        """The question whose answer is the boxes of a phrase."""

    @abstractmethod
    def read_boxes(self, answer: str, size: tuple[int, int]) -> list[Box] | Failure:
        """The boxes of such an answer, in pixels of an image of this (width, height)."""

    def ask_where_all(self, phrases: Sequence[str]) -> str:
        """The question whose answer is the boxes of several phrases, each with its name. Only of checkpoints that can
        LOCATE_ALL, as :meth:`read_named_boxes`.

        Raises:
            CapabilityError: the checkpoint was not taught to.
        """
        raise CapabilityError(f"{type(self).__name__} has no question for several phrases at once")

    def read_named_boxes(self, answer: str, size: tuple[int, int]) -> list[tuple[str, Box]] | Failure:
        """The boxes of such an answer, each with the name that it was given, as of :meth:`read_boxes`."""
        raise CapabilityError(f"{type(self).__name__} reads no boxes of several phrases")


@dataclass(frozen=True)
class FlowPrediction:
    """A predicted velocity (T, p * p * C) of latent tokens with the noise it was made from. In x_t = (1 - t) x0 + t
    noise it points from data to noise. ``patch`` latent pixels make one side of a token."""

    velocity: Tensor
    noise: Tensor
    patch: int

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """mean_c (v - (noise - x0))^2 per latent token, (T,), float32."""
        return self._per_token(self.noise - packed_tokens(latents, self.patch))

    def token_distance(self, other: Prediction) -> Tensor:
        """mean_c (v - v')^2 per latent token, (T,), float32."""
        if not isinstance(other, FlowPrediction):
            raise ContractError(f"a flow prediction has no distance to a {type(other).__name__}")
        return self._per_token(other.velocity)

    def velocities(self) -> Tensor:
        """See :class:`srum_plugins.contracts.ShowsVelocity`."""
        return self.velocity.detach().float()

    def _per_token(self, target: Tensor) -> Tensor:
        return (self.velocity.float() - target.float()).square().mean(dim=1)


def _seen(tokens: Tensor) -> list[Piece]:
    """The pieces of an image's vision tokens (N, D); none where there is no image."""
    return [Piece(PieceKind.VISION, count=len(tokens))] if len(tokens) else []


def packed_tokens(latents: Sequence[Tensor], patch: int) -> Tensor:
    """The tokens (T, p * p * C) of the latents (C, H, W) of each image, one image after the other."""
    return torch.cat([patchify(one[None], patch)[0] for one in latents])


class BagelAdapter(ModelAdapter):
    """A BAGEL of any size with its autoencoder and dialect.

    ``size`` (width, height) is that of images where a request names none; ``preparation`` says which images are taken
    and how they are resized (default: those of exactly that size).
    """

    def __init__(
        self,
        model: Bagel,
        autoencoder: KLAutoencoder | PixelAutoencoder,
        dialect: Dialect,
        size: tuple[int, int],
        preparation: Preparation | None = None,
        images_per_call: int = IMAGES_PER_CALL,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.dialect = dialect
        self.size = size
        self.preparation = preparation or AsTheyAre(size)
        self.images_per_call = images_per_call
        self.training = Training()
        self._base: BaseWeights | None = None
        self._shared: dict[str, torch.nn.Parameter] = {}  # what is trained, where it is shared out

    @property
    def config(self) -> BagelConfig:
        """The model's dimensions."""
        return self.model.config

    # --- generation -----------------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        """See :meth:`ModelAdapter.generate`. Each image's noise comes from its own seed; what it is batched with
        changes float rounding only (which may, rarely, choose another word of a plan).

        Raises:
            ContractError: a prompt, with the plan that it may need, is longer than the model's context.
        """
        plans = self.plans(requests, sampling) if isinstance(sampling, Thinking) and sampling.think else None
        latents = self.latents(requests, sampling, plans)
        done: dict[int, Generated] = {}
        for members in grouped(one.shape for one in latents).values():
            pixels = self.autoencoder.decode(torch.stack([latents[index] for index in members]))
            for index, array in zip(members, to_uint8(pixels).cpu().numpy(), strict=True):
                done[index] = Generated(Image.fromarray(array), plans[index] if plans else None)
        return [done[index] for index in range(len(requests))]

    @torch.no_grad()
    def plans(self, requests: Sequence[GenerationRequest], sampling: Thinking) -> list[str]:
        """What the model writes before it draws: its greedy answer to the system prompt and the prompt. Candidates of
        one prompt share its plan."""
        texts = {request.prompt.text: self._texts(request, sampling) for request in requests}
        plans: dict[str, str] = {}
        for chunk in chunks(list(texts), self.images_per_call):
            context = self.model.prefill([texts[text] for text in chunk], None)
            written = greedy(self.model, context, sampling.think_tokens)
            plans |= {text: self.dialect.decode(ids) for text, ids in zip(chunk, written, strict=True)}
        return [plans[request.prompt.text] for request in requests]

    @torch.no_grad()
    def latents(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, plans: Sequence[str] | None = None
    ) -> list[Tensor]:
        """What :meth:`generate` draws before the autoencoder decodes it: latents (C, h, w), float32, of each request,
        given its plan if there are plans."""
        done: dict[int, Tensor] = {}
        sizes = grouped((request.width or self.size[0], request.height or self.size[1]) for request in requests)
        for size, members in sizes.items():
            grid = self.token_grid(*size)
            for part in chunks(members, max(1, TOKENS_PER_CALL // (grid[0] * grid[1]))):
                own = None if plans is None else [plans[index] for index in part]
                tokens = self._drawn([requests[index] for index in part], grid, sampling, own)
                done |= dict(zip(part, unpatchify(tokens, self.config.latent_patch_size, *grid), strict=True))
        return [done[index] for index in range(len(requests))]

    def _drawn(
        self,
        requests: Sequence[GenerationRequest],
        grid: tuple[int, int],
        sampling: Sampling,
        plans: Sequence[str] | None,
    ) -> Tensor:
        """Latent tokens (B, N, p * p * C), float32, of images of one (h, w) token grid."""
        shape = (grid[0] * grid[1], self.config.latent_token_dim)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(request.seed)) for request in requests]
        prompts = [self._texts(request, sampling) for request in requests]
        whole, away = prompts, [texts[:-1] for texts in prompts]  # guidance drops the prompt ...
        if plans is not None:  # ... and all that follows from it; image guidance, images and the plan alone
            whole = [[*texts, self._text(plan)] for texts, plan in zip(prompts, plans, strict=True)]
        context, unconditional = (self.model.prefill(texts, None) for texts in (whole, away))
        both = plans is not None and sampling.image_guidance > 1
        text_only = self.model.prefill(prompts, None) if both else None
        start = torch.stack(noise).to(self.model.device)
        return sample(self.model, context, unconditional, start, grid, sampling, text_only)

    def _texts(self, request: GenerationRequest, sampling: Sampling) -> list[Piece]:
        """The text pieces of a request: the system prompt where the model is to think, and the prompt."""
        pieces, plan, hint = [self._text(request.prompt.text)], 0, ""
        if isinstance(sampling, Thinking) and sampling.think:
            pieces.insert(0, self._text(sampling.think_prompt))
            plan, hint = (
                sampling.think_tokens + 2,
                f", or think_tokens, of which its plan may take {sampling.think_tokens}",
            )
        room = self.config.llm.max_position_embeddings - 1  # the image has one position
        used = sum(len(piece.ids) for piece in pieces) + plan
        if used > room:
            raise ContractError(
                f"the prompt {request.prompt.id!r} takes {used} positions of the model's {room}: shorten it{hint}"
            )
        return pieces

    def _text(self, text: str) -> Piece:
        return self.model.text(self.dialect.encode(text))

    # --- understanding --------------------------------------------------------------------------------------
    @torch.no_grad()
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """See :meth:`ModelAdapter.answer`. All questions about one image share one reading of it.

        Raises:
            ContractError: a question with the answer that it may get is longer than the model's context.
        """
        limit = decoding.max_tokens or self.dialect.longest_answer
        asked = [self._asked(question, limit) for question in questions]
        groups = list(grouped(id(question.image) for question in questions).values())
        done: dict[int, Answer] = {}
        for chunk in chunks(groups, self.images_per_call):
            vision = self._see([questions[members[0]].image for members in chunk])
            images = [_seen(tokens) for tokens in vision]
            read = self.model.prefill(images, torch.cat(vision))
            rows = [(index, row) for row, members in enumerate(chunk) for index in members]
            for part in chunks(rows, self.images_per_call):
                members, parents = zip(*part, strict=True)
                context = self.model.extend(read, [[asked[index]] for index in members], parents=parents)
                answers = self._continued(context, [questions[index] for index in members], decoding, limit)
                done |= dict(zip(members, answers, strict=True))
        return [done[index] for index in range(len(questions))]

    def _asked(self, question: Question, limit: int) -> Piece:
        """The question's text, if it leaves room for an answer of ``limit`` tokens."""
        piece = self._text(self.dialect.ask(question.text, question.box))
        room = self.config.llm.max_position_embeddings - 1  # the image has one position
        used = len(piece.ids) + 1 + limit
        if used > room:
            raise ContractError(
                f"the question {question.text[:80]!r} with an answer of {limit} tokens takes {used} positions of the "
                f"model's {room}: shorten it, or give the answer fewer tokens"
            )
        return piece

    def _continued(self, context: Cache, questions: Sequence[Question], decoding: Decoding, limit: int) -> list[Answer]:
        """The answers to questions that were read into the rows of the context."""

        def stopped(ids: Sequence[int]) -> bool:
            text = self.dialect.decode(ids)
            return decoding.cut(text) != text

        seeds = [question.seed for question in questions]
        choose = sampled(decoding, seeds) if decoding.temperature else likeliest
        written = write(self.model, context, limit, choose, stopped if decoding.stop else None)
        return [Answer(decoding.cut(self.dialect.decode(one.ids)), one.truncated, len(one.ids)) for one in written]

    @torch.no_grad()
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`ModelAdapter.choice_logprobs`. All questions about one image share one reading of it.

        Raises:
            ContractError: a question has no choices, or one without words.
        """
        groups = list(grouped(id(question.image) for question in questions).values())
        done: dict[int, tuple[float, ...]] = {}
        for chunk in chunks(groups, self.images_per_call):
            vision = self._see([questions[members[0]].image for members in chunk])
            sheets = [
                sheet(_seen(image), [self._choosing(index, questions[index]) for index in members], self.config.tokens)
                for members, image in zip(chunk, vision, strict=True)
            ]
            for part in within([one.size for one in sheets], choices.TOKENS):
                found = scores(self.model, [sheets[index] for index in part], torch.cat([vision[i] for i in part]))
                done |= {index: tuple(torch.tensor(own).log_softmax(dim=0).tolist()) for index, own in found.items()}
        return [done[index] for index in range(len(questions))]

    def _choosing(self, number: int, question: Question) -> Choosing:
        given = [self.dialect.encode(choice) for choice in question.choices]
        if not given or not all(given):
            raise ContractError(f"{question.text!r} needs choices, none of them empty; got {question.choices}")
        return Choosing(number, self._text(self.dialect.ask(question.text, question.box)).ids, given)

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """See :meth:`ModelAdapter.locate`. ``score`` is left open: a box in words carries none."""
        questions = [
            Question(image, self.dialect.ask_where(phrase))
            for image, wanted in zip(images, phrases, strict=True)
            for phrase in wanted
        ]
        answers = iter(self.answer(questions))
        located: list[list[Region | Failure]] = []
        for image, wanted in zip(images, phrases, strict=True):
            regions: list[Region | Failure] = []
            for phrase in wanted:
                boxes = self._read(next(answers), image.size, self.dialect.read_boxes)
                regions += [boxes] if isinstance(boxes, Failure) else [Region(box, phrase) for box in boxes]
            located.append(regions)
        return located

    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """See :meth:`ModelAdapter.locate_all`; as :meth:`locate`, ``score`` is left open."""
        pairs = list(zip(images, phrases, strict=True))
        answers = iter(self.answer([Question(image, self.dialect.ask_where_all(own)) for image, own in pairs if own]))
        located: list[list[Region | Failure]] = []
        for image, own in pairs:
            boxes = self._read(next(answers), image.size, self.dialect.read_named_boxes) if own else []
            regions: list[Region | Failure] = []
            regions += [boxes] if isinstance(boxes, Failure) else [labelled(name, own, box) for name, box in boxes]
            located.append(regions)
        return located

    def _read(
        self, answer: Answer, size: tuple[int, int], read: Callable[[str, tuple[int, int]], Read]
    ) -> Read | Failure:
        """The boxes of an answer that is whole: one that was cut off may lack some, or end in the middle of one."""
        if answer.truncated:
            detail = f"cut off after {self.dialect.longest_answer} tokens: {answer.text[:80]!r}"
            return Failure("truncated answer", detail)
        return read(answer.text, size)

    def _see(self, images: Sequence[Image.Image | None]) -> list[Tensor]:
        """Vision tokens (N, D) of each image; none where there is no image. An image given twice is read once, and
        images of one size together."""
        prepared = {id(image): self.preparation.seen(image) for image in images if image is not None}
        by_size: dict[torch.Size, list[int]] = {}
        for key, pixels in prepared.items():
            by_size.setdefault(pixels.shape, []).append(key)
        seen: dict[int, Tensor] = {}
        for keys in by_size.values():
            tokens = self.model.vision_tokens(torch.cat([prepared[key] for key in keys]).to(self.model.device))
            seen |= dict(zip(keys, tokens, strict=True))
        none = torch.empty(0, self.config.llm.hidden_size, dtype=self.model.dtype, device=self.model.device)
        return [none if image is None else seen[id(image)] for image in images]

    # --- training -------------------------------------------------------------------------------------------
    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of the latent token grid; sides must be multiples of the latent stride."""
        stride = self.config.latent_stride
        grid = (height // stride, width // stride)
        if width % stride or height % stride or max(grid) > self.config.max_latent_size:
            raise ContractError(
                f"images of {width} x {height} pixels do not fit: sides must be multiples of {stride} "
                f"up to {stride * self.config.max_latent_size}"
            )
        return grid

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """See :meth:`ModelAdapter.encode`."""
        pixels = torch.cat([self.preparation.encoded(image) for image in images])
        latents: Tensor = self.autoencoder.encode(pixels.to(self.model.device))
        return latents

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """t = shift(sigmoid(u)), u ~ N(0, 1), one per image; text dropped in a share of 0.1."""
        batch, device = len(latents), latents[0].device
        timestep = shifted(torch.sigmoid(torch.randn(batch, generator=generator)), self.config.timestep_shift)
        noise = [torch.randn(one.shape, generator=generator).to(device) for one in latents]
        drop = torch.rand(batch, generator=generator) < TEXT_DROPOUT
        return Draws(timestep.to(device), noise, drop.to(device))

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> FlowPrediction:
        """See :meth:`ModelAdapter.predict`: the velocity at x_t = (1 - t) x0 + t noise, all images in one forward."""
        patch = self.config.latent_patch_size
        grids = [(one.shape[1] // patch, one.shape[2] // patch) for one in latents]
        clean, noise = packed_tokens(latents, patch), packed_tokens(draws.noise, patch)
        counts = torch.tensor([height * width for height, width in grids], device=clean.device)
        time = draws.timestep.repeat_interleave(counts, output_size=len(clean))[:, None]
        texts = [
            [] if dropped else [self._text(prompt.text)]
            for prompt, dropped in zip(prompts, draws.drop.tolist(), strict=True)
        ]
        inputs = (texts, grids, (1 - time) * clean + time * noise, draws.timestep)
        if base and self.training.lora_rank:
            with torch.no_grad(), lora.without(self.model):
                velocity = self.model(*inputs)
        elif base:
            if self._base is None:
                raise ContractError("a prediction of the base was asked for, and start_training(base=False) kept none")
            if self._shared:
                with self._base.in_place(self._shared):
                    velocity = self.model(*inputs)
            else:
                velocity = self._base.call(self.model, *inputs)
        else:
            velocity = self.model(*inputs)
        return FlowPrediction(velocity, noise, patch)

    def start_training(self, training: Training, *, base: bool) -> dict[str, torch.nn.Parameter]:
        """See :meth:`ModelAdapter.start_training`. With low-rank adapters the base is the model without them; else it
        is a copy of what moves, held only if ``base`` asks for it."""
        model, self.training = self.model, training
        model.trains_reading = training.scope == "all"
        model.language_model.model.checkpointing = training.checkpointing
        if training.lora_rank:
            return lora.inject(model, LORA_TARGETS[training.scope], training.lora_rank, training.lora_alpha)
        generation = training.scope == "generation"
        parameters = model.generation_parameters() if generation else model.drawing_parameters()
        if base:
            self._base = BaseWeights.of(parameters)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    def shard(self, apply: Callable[[torch.nn.Module], None]) -> dict[str, torch.nn.Parameter]:
        """See :meth:`ModelAdapter.shard`: layer by layer, and all the rest together."""
        moving = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        for layer in self.model.language_model.model.layers:
            apply(layer)
        apply(self.model)
        found = dict(self.model.named_parameters())
        self._shared = {name: found[name] for name in moving}
        if self._base is not None:  # nothing has moved yet
            self._base = BaseWeights.of(self._shared)
        return self._shared

    def save(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.save`: a checkpoint folder like the one this was loaded from. Low-rank adapters are
        merged into the weights first, and are gone afterwards."""
        if self.training.lora_rank:
            lora.merge(self.model)
        self._write(folder)

    def _write(self, folder: Path) -> None:
        save_model(self.model, self.autoencoder, folder)

    def load_trained(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.load_trained`. The folder must hold a model of the same config."""
        if read_config(folder) != self.config:
            raise CheckpointError(f"{folder} holds a BAGEL of another config than the one that is loaded")
        load_weights(self.model, [folder / WEIGHTS], self.model.device)

    def understanding_digest(self) -> str:
        """sha256 over every weight but the generation half's, in order of name."""
        moving = set(self.model.generation_parameters())
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name not in moving:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
