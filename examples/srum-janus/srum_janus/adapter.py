"""Janus behind the adapter contract of srum-plugins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from srum_janus.chat import Chat
from srum_janus.image_tokens import ImageTokens, alike
from srum_janus.options import Sampling, Training
from srum_janus.understanding import Understanding
from srum_plugins import lora
from srum_plugins.base_weights import BaseWeights
from srum_plugins.checkpoint_config import read_json
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
from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.records import Prompt
from srum_plugins.weights import opened, refuse_misfits, save_weights, shapes

DROPOUT = 0.1
"""Share of training examples whose prompt is dropped, so that drawing can still be guided away from no prompt."""
HEAD = ("model.generation_head.",)
DRAWING = (*HEAD, "model.generation_embeddings.", "model.generation_aligner.")
"""How the names begin of weights that only drawing reads, and of those that understanding reads."""
LOOKING = ("model.vision_model.", "model.aligner.", "model.language_model.", "lm_head.")
LORA_TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
WEIGHTS, SETTINGS = "generation.safetensors", "generation.json"


@dataclass(frozen=True)
class TokenPrediction:
    """Logits (B, N, V), float32, of every image token after those before it."""

    logits: Tensor

    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        """Cross-entropy (B * N,) in nats against the token ids (1, h, w) of each image."""
        return F.cross_entropy(self.logits.flatten(0, 1), _ids(latents).flatten(), reduction="none")

    def token_distance(self, other: Prediction) -> Tensor:
        """KL(this || other) per token (B * N,), in nats, over the whole vocabulary: 0 or more, and not symmetric."""
        if not isinstance(other, TokenPrediction):
            raise ContractError(f"a prediction of image tokens has no distance to a {type(other).__name__}")
        own, others = self.logits.log_softmax(dim=-1), other.logits.log_softmax(dim=-1)
        return F.kl_div(others, own, reduction="none", log_target=True).sum(dim=-1).flatten()


class JanusAdapter(ModelAdapter):
    """Latents are ids of image tokens, (1, h, w) in row-major order, as float32, which holds them exactly. Those that
    were drawn are kept with an image: encoding it would find others."""

    def __init__(self, network: ImageTokens, chat: Chat, processor: Any, answer_tokens: int) -> None:
        self.network, self.chat = network.requires_grad_(False), chat
        self.understanding = Understanding(network, chat, processor, answer_tokens)
        self._adapters = Training()
        self._base: BaseWeights | None = None

    # --- generation ---------------------------------------------------------------------------------------------------
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        """See :meth:`ModelAdapter.generate`. Every image has its own random numbers, one a token.

        Raises:
            ContractError: an image of another size than the model's is asked for, or a prompt leaves none room.
        """
        for request in requests:
            self.token_grid(request.width or self.network.pixels, request.height or self.network.pixels)
        prompts = [self._drawing(request.prompt) for request in requests]
        decoding, done = Decoding(sampling.temperature, sampling.top_p), dict[int, Generated]()
        for places in alike([len(ids) for ids in prompts]):
            own = [prompts[place] for place in places]
            seeds = [requests[place].seed for place in places]
            choose = sampled(decoding, seeds) if sampling.temperature else likeliest
            tokens = self.network.drawn(own, [self.chat.undrawn(ids) for ids in own], sampling.guidance, choose)
            grids = tokens.reshape(-1, 1, self.network.side, self.network.side).float().cpu()
            drawn = zip(self.network.images(tokens), grids, strict=True)
            done |= zip(places, (Generated(image, latents=grid) for image, grid in drawn), strict=True)
        return [done[place] for place in range(len(requests))]

    def _drawing(self, prompt: Prompt) -> list[int]:
        """Ids that ask for the image of a prompt, which must fit after them."""
        ids, room = self.chat.drawing(prompt.text), self.network.side**2
        if len(ids) + room > self.network.positions:
            raise ContractError(
                f"the prompt {prompt.text[:80]!r} and an image of {room} tokens take {len(ids) + room} positions of "
                f"the model's {self.network.positions}: shorten it"
            )
        return ids

    # --- understanding ------------------------------------------------------------------------------------------------
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """See :meth:`srum_janus.understanding.Understanding.answer`."""
        with self._without_adapters():
            return self.understanding.answer(questions, decoding)

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`srum_janus.understanding.Understanding.choice_logprobs`."""
        with self._without_adapters():
            return self.understanding.choice_logprobs(questions)

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """The language model as it was released."""
        if not self._adapters.lora_rank:
            yield
            return
        with lora.without(self.network):
            yield

    # --- training -----------------------------------------------------------------------------------------------------
    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """See :meth:`ModelAdapter.token_grid`.

        Raises:
            ContractError: it is not the size of this model's images, the only one.
        """
        if (width, height) != (self.network.pixels, self.network.pixels):
            raise ContractError(
                f"this Janus has images of {self.network.pixels} x {self.network.pixels} pixels, not {width} x "
                f"{height}: leave width and height open"
            )
        return self.network.side, self.network.side

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Token ids (B, 1, h, w), float32, by the frozen VQ encoder.

        Raises:
            ContractError: an image of another size.
        """
        grids = [self.token_grid(*image.size) for image in images]
        return self.network.tokens(images).reshape(len(images), 1, *grids[0]).float()

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """Nothing but which prompts are dropped: there is no noise and no timestep, and these are zeros."""
        drop = torch.rand(len(latents), generator=generator) < DROPOUT
        device = latents[0].device
        noise = [torch.zeros((), device=device).expand(one.shape) for one in latents]
        return Draws(torch.zeros(len(latents), device=device), noise, drop.to(device))

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> TokenPrediction:
        """See :meth:`ModelAdapter.predict`: each token after the prompt and the tokens of the image before it."""
        asked = [self._drawing(prompt) for prompt in prompts]
        dropped = draws.drop.tolist()
        asked = [self.chat.undrawn(ids) if drop else ids for ids, drop in zip(asked, dropped, strict=True)]
        if not base:
            return TokenPrediction(self.network(asked, _ids(latents)))
        if self._base is None:
            raise ContractError("a prediction of the base was asked for, and start_training(base=False) kept none")
        return TokenPrediction(self._base.call(self.network, asked, _ids(latents)))

    def start_training(self, training: Training, *, base: bool) -> dict[str, nn.Parameter]:
        """See :meth:`ModelAdapter.start_training`."""
        moved = self._adapted(training.lora_rank, training.lora_alpha) if training.lora_rank else {}
        moved = self._named(HEAD if training.scope == "head" else DRAWING) | moved
        self._base = BaseWeights.of(self._own()) if base else None  # adapters too, which may be trained already
        self.network.requires_grad_(False)
        for parameter in moved.values():
            parameter.requires_grad_(True)
        return moved

    def _named(self, prefixes: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Parameters whose names in transformers' model begin so."""
        prefixes = tuple(f"janus.{prefix}" for prefix in prefixes)
        return {name: value for name, value in self.network.named_parameters() if name.startswith(prefixes)}

    def _adapted(self, rank: int, alpha: float) -> dict[str, nn.Parameter]:
        """The low-rank adapters, put in if they are not there yet."""
        wanted = Training(lora_rank=rank, lora_alpha=alpha)
        if self._adapters.lora_rank and self._adapters != wanted:
            raise ContractError(f"this Janus has adapters by {self._adapters} already: load it anew for {wanted}")
        if not self._adapters.lora_rank:
            lora.inject(self.network, rf"janus\.{LORA_TARGETS}", rank, alpha)
            self._adapters = wanted
        return {name: value for name, value in self.network.named_parameters() if ".lora_" in name}

    def save(self, folder: Path) -> None:
        """Write all that drawing has of its own, under transformers' names, and the low-rank adapters. The rest is in
        the checkpoint."""
        (folder / SETTINGS).write_text(json.dumps(asdict(self._adapters)), encoding="utf-8")
        save_weights(self._saved(), folder / WEIGHTS)

    def load_trained(self, folder: Path) -> None:
        """See :meth:`ModelAdapter.load_trained`.

        Raises:
            CheckpointError: a file is missing or damaged, or of another model. Then nothing was loaded.
        """
        try:
            told = Training(**read_json(folder / SETTINGS, "it was not saved by srum-janus"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / SETTINGS} is damaged: {error}") from error
        if self._adapters.lora_rank and told != self._adapters:
            raise CheckpointError(f"{folder / SETTINGS} is of {told}, and this Janus has adapters by {self._adapters}")
        if told.lora_rank:
            self._adapted(told.lora_rank, told.lora_alpha)
        own = self._saved()
        refuse_misfits(
            shapes([folder / WEIGHTS]), {name: tuple(value.shape) for name, value in own.items()}, folder / WEIGHTS
        )
        with opened(folder / WEIGHTS) as handle, torch.no_grad():
            for name, value in own.items():
                value.copy_(handle.get_tensor(name))

    def _own(self) -> dict[str, nn.Parameter]:
        """All that drawing has of its own."""
        own = self._named(DRAWING)
        own |= self._adapted(self._adapters.lora_rank, self._adapters.lora_alpha) if self._adapters.lora_rank else {}
        return own

    def _saved(self) -> dict[str, Tensor]:
        """The same under transformers' names."""
        return {name.removeprefix("janus."): value for name, value in self._own().items()}

    def understanding_digest(self) -> str:
        """sha256 over every weight that understanding reads, in order of name: all but what draws, the VQ codes and
        the adapters, which are off when it reads."""
        digest = hashlib.sha256()
        stored = {name.replace(".base_layer", ""): value for name, value in self.network.janus.state_dict().items()}
        for name, tensor in sorted(stored.items()):
            if name.startswith(LOOKING) and ".lora_" not in name:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _ids(latents: Sequence[Tensor]) -> Tensor:
    """Token ids (B, N) of latents (1, h, w)."""
    return torch.stack(list(latents)).flatten(1).long()
