"""BLIP3o behind the framework's adapter contract."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from srum_blip3o import flow
from srum_blip3o.conditions import Conditions
from srum_blip3o.decoder import PixelDecoder
from srum_blip3o.eva import EvaTower, as_tokens
from srum_blip3o.options import LORA_TARGETS, Sampling, Training
from srum_blip3o.prior import TIMESTEPS, Prior
from srum_blip3o.prior_weights import load_prior
from srum_blip3o.qwen import Qwen
from srum_blip3o.understanding import Understanding
from srum_plugins import lora
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
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.records import Failure, Prompt, Region
from srum_plugins.weights import weight_files

TEXT_DROPOUT = 0.1
"""Share of training examples whose condition is dropped, as in BLIP3o's training (blip3o.md 3)."""
IMAGES_PER_CALL = 8
"""Images that are drawn in one forward."""
NOTHING = " "
"""What is drawn for the pixel decoder to be guided away from (blip3o.md 4.3)."""
NOTHING_SEED = 0
NO_TOWER = (
    "the checkpoint holds no EVA tower, which encoding images needs: give adapter.tower, a safetensors file of it, or "
    "train on the features that were drawn (train.latents=kept)"
)


@dataclass(frozen=True)
class FeaturePrediction:
    """A predicted velocity (B, C, g, g) of features, noise minus data, with the noise that it was made from."""

    velocity: Tensor
    noise: Tensor

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """mean_c (v - (noise - x0))^2 per feature token, (B * g * g,), float32."""
        return flow.token_losses(self.velocity, torch.stack(list(latents)), self.noise).flatten()

    def token_distance(self, other: Prediction) -> Tensor:
        """mean_c (v - v')^2 per feature token, (B * g * g,), float32."""
        if not isinstance(other, FeaturePrediction):
            raise ContractError(f"a prediction of features has no distance to a {type(other).__name__}")
        return (self.velocity.float() - other.velocity.float()).square().mean(dim=1).flatten()

    def velocities(self) -> Tensor:
        """See :class:`srum_plugins.contracts.ShowsVelocity`."""
        return self.velocity.detach().float().flatten(2).transpose(1, 2).flatten(0, 1)


class Blip3oAdapter(ModelAdapter):
    """Qwen, prior and pixel decoder; the EVA tower, of four billion weights, is loaded when an image is to be encoded,
    if there is one. Latents are EVA features (C, g, g): those that
    the prior drew are kept with an image, because it is only their rendering."""

    def __init__(
        self,
        qwen: Qwen,
        prior: Prior,
        decoder: PixelDecoder,
        conditions: Conditions,
        tower: Callable[[], EvaTower] | None,
        write: Callable[[Prior, Path], None],
        answer_tokens: int,
    ) -> None:
        self.qwen, self.prior, self.decoder = qwen, prior.requires_grad_(False), decoder
        self._conditions, self._load_tower = conditions, tower
        self.understanding = Understanding(qwen, answer_tokens)
        self.training = Training()
        self._write = write
        self._base: dict[str, Tensor] = {}
        self._nothing: dict[tuple[int, float], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.prior.latent_queries.device

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the images that it draws: no others."""
        _, height, width = self.decoder.noise_shape
        return width * self.decoder.downsample, height * self.decoder.downsample

    # --- generation -----------------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        """See :meth:`ModelAdapter.generate`. An image's noise, of its features and then of its pixels, comes from its
        own seed.

        Raises:
            ContractError: an image of another size than :attr:`size` is asked for, or a prompt is too long.
        """
        for request in requests:
            asked = (request.width or self.size[0], request.height or self.size[1])
            if asked != self.size:
                raise ContractError(
                    f"this BLIP3o draws images of {self.size[0]} x {self.size[1]} pixels, and {asked[0]} x {asked[1]} "
                    "was asked for: leave width and height open"
                )
        return [
            drawn
            for start in range(0, len(requests), IMAGES_PER_CALL)
            for drawn in self._drawn(requests[start : start + IMAGES_PER_CALL], sampling)
        ]

    def _drawn(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = self._noise(generators)
        painted = torch.stack([torch.randn(self.decoder.noise_shape, generator=one) for one in generators])
        condition = self._condition([request.prompt.text for request in requests])
        features = flow.sample(self.prior, condition, noise, sampling.prior_steps, sampling.prior_guidance)
        guided = sampling.guidance != 1
        away = as_tokens(self._away(sampling)) if guided else None
        images = self.decoder.decode(
            as_tokens(features), away, painted.to(self.device), sampling.guidance, sampling.steps
        )
        return [
            Generated(Image.fromarray(array), latents=kept)
            for array, kept in zip(images.cpu().numpy(), features, strict=True)
        ]

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = (self.prior.config.channels, self.prior.config.grid, self.prior.config.grid)
        return torch.stack([torch.randn(shape, generator=one) for one in generators]).to(self.device)

    def _away(self, sampling: Sampling) -> Tensor:
        """The features (1, C, g, g) of nothing, by a seed of their own: drawn once, unless weights are in training."""
        key = (sampling.prior_steps, sampling.prior_guidance)
        if key in self._nothing:
            return self._nothing[key]
        noise = self._noise([torch.Generator().manual_seed(NOTHING_SEED)])
        condition = self.qwen.bare_condition([NOTHING], self.prior.latent_queries)
        features = flow.sample(self.prior, condition, noise, *key)
        if not any(parameter.requires_grad for parameter in self.prior.parameters()):
            self._nothing[key] = features
        return features

    def _condition(self, texts: Sequence[str]) -> Tensor:
        """Conditions (B, Q, H) of captions: with a graph if training moves the queries, else each computed once."""
        if self.prior.latent_queries.requires_grad and torch.is_grad_enabled():
            return self.qwen.condition(texts, self.prior.latent_queries, self.training.checkpointing)
        return self._conditions.of(texts, self.prior.latent_queries)

    @cached_property
    def tower(self) -> EvaTower:
        """The EVA tower.

        Raises:
            CheckpointError: there is none.
        """
        if self._load_tower is None:
            raise CheckpointError(NO_TOWER)
        return self._load_tower()

    # --- understanding --------------------------------------------------------------------------------------
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """See :meth:`srum_blip3o.understanding.Understanding.answer`."""
        return self.understanding.answer(questions, decoding)

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`srum_blip3o.understanding.Understanding.choice_logprobs`."""
        return self.understanding.choice_logprobs(questions)

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """See :meth:`srum_blip3o.understanding.Understanding.locate`."""
        return self.understanding.locate(images, phrases)

    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """See :meth:`srum_blip3o.understanding.Understanding.locate_all`."""
        return self.understanding.locate_all(images, phrases)

    # --- training -------------------------------------------------------------------------------------------
    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """(8, 8), whatever the size; but images must be squares, of which the tower sees all."""
        if width != height:
            raise ContractError(f"BLIP3o trains on square images, got {width} x {height} pixels")
        return self.prior.config.grid, self.prior.config.grid

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """See :meth:`ModelAdapter.encode`: by the EVA tower, so many at a time.

        Raises:
            CheckpointError: there is no tower.
        """
        parts = [images[start : start + IMAGES_PER_CALL] for start in range(0, len(images), IMAGES_PER_CALL)]
        return torch.cat([self.tower.encode(part, self.prior.config.grid) for part in parts])

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """Noise levels of 1, 0.999, ..., 0.001, uniformly, one per image; conditions dropped in a share of 0.1
        (blip3o.md 3)."""
        batch, device = len(latents), latents[0].device
        sigma = flow.training_sigma(torch.rand(batch, generator=generator))
        noise = [torch.randn(one.shape, generator=generator).to(device) for one in latents]
        drop = torch.rand(batch, generator=generator) < TEXT_DROPOUT
        return Draws(sigma.to(device), noise, drop.to(device))

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> FeaturePrediction:
        """See :meth:`ModelAdapter.predict`: the velocity at x_t = (1 - t) x0 + t noise, without dropped conditions."""
        clean, noise = torch.stack(list(latents)), torch.stack(list(draws.noise))
        noisy = flow.noised(clean, noise, draws.timestep)
        texts = [prompt.text for prompt in prompts]
        time = draws.timestep.float() * TIMESTEPS
        if base:
            return FeaturePrediction(self._of_the_base(texts, noisy, time, draws.drop), noise)
        condition = _dropped(self._condition(texts), draws.drop)
        velocity: Tensor = self.prior(noisy, time, condition)
        return FeaturePrediction(velocity, noise)

    @torch.no_grad()
    def _of_the_base(self, texts: Sequence[str], noisy: Tensor, time: Tensor, drop: Tensor) -> Tensor:
        """The velocity by the weights that training found."""
        if self.training.lora_rank:
            with lora.without(self.prior):
                found: Tensor = self.prior(noisy, time, _dropped(self._condition(texts), drop))
            return found
        if not self._base:
            raise ContractError("a prediction of the base was asked for, and start_training(base=False) kept none")
        if (queries := self._base.get("latent_queries")) is None:
            condition = self._condition(texts)
        else:
            condition = self._conditions.of(texts, queries)
        found = torch.func.functional_call(self.prior, self._base, (noisy, time, _dropped(condition, drop)))
        return found

    def start_training(self, training: Training, *, base: bool) -> dict[str, torch.nn.Parameter]:
        """See :meth:`ModelAdapter.start_training`. With low-rank adapters the base is the prior without them; else it
        is a copy of what moves, held only if ``base`` asks for it."""
        self.training = training
        self._nothing.clear()
        vars(self).pop("tower", None)  # its work is done
        self.prior.checkpointing = training.checkpointing
        if training.lora_rank:
            return lora.inject(self.prior, LORA_TARGETS, training.lora_rank, training.lora_alpha)
        parameters = self.prior.prior_parameters(queries=training.scope == "prior+queries")
        if base:
            self._base = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    def save(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.save`: the checkpoint folder as it was, with the prior's weights as they are now.
        Low-rank adapters are merged into the weights first, and are gone afterwards."""
        if self.training.lora_rank:
            lora.merge(self.prior)
        self._write(self.prior, folder)

    def load_trained(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.load_trained`."""
        load_prior(self.prior, weight_files(folder, "model"), self.device)
        self._nothing.clear()

    def understanding_digest(self) -> str:
        """sha256 over every weight of the Qwen, in order of name."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.qwen.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _dropped(condition: Tensor, drop: Tensor) -> Tensor:
    """Conditions (B, Q, H) with zeros where dropped (B,), told on any device."""
    return condition.masked_fill(drop.to(condition.device)[:, None, None], 0.0)
