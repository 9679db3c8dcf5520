"""A BLIP3o without memory, by which ``srum doctor --memory`` estimates what a real one needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from srum_blip3o.adapter import Blip3oAdapter
from srum_blip3o.conditions import Conditions
from srum_blip3o.networks import Dimensions, new_networks, unsaved
from srum_blip3o.options import Sampling
from srum_blip3o.reading import Context, step
from srum_blip3o.understanding import Understanding
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.contracts import Answer, Decoding, Generated, GenerationRequest, Question, Weightless

STEPS = 2
"""Of a sampling: all take the same memory, and what one leaves is there in the next."""


class WeightlessConditions(Conditions):
    """Conditions of prompts, one of which is really read: they are as long as one another."""

    @torch.no_grad()
    def of(self, texts: Sequence[str], queries: Tensor) -> Tensor:
        """See :meth:`Conditions.of`."""
        return self._read(texts[:1], queries).repeat(len(texts), 1, 1)


class WeightlessUnderstanding(Understanding):
    """Its answers are as long as they may be, because no word of them can be read."""

    def _continued(
        self, context: Context, first: Tensor, questions: Sequence[Question], decoding: Decoding, limit: int
    ) -> list[Answer]:
        """Holds all but the last word of an answer, and writes that."""
        for number, layer in enumerate(context.cache.layers):
            keys, values = (
                part.new_empty(*part.shape[:2], limit - 1, part.shape[3]) for part in (layer.keys, layer.values)
            )
            context.cache.update(keys, values, number)
        places = tuple(place + limit - 1 for place in context.places)
        word = torch.zeros(len(questions), dtype=torch.long, device=first.device)
        context, first = step(self.qwen, replace(context, places=places), word)
        return super()._continued(context, first, questions, decoding, limit)


class WeightlessBlip3o(Blip3oAdapter):
    """What is in the Qwen are networks of its own, to be told apart."""

    def __init__(self, dimensions: Dimensions, dtype: torch.dtype, answer_tokens: int) -> None:
        networks = new_networks(dimensions, torch.device("meta"), dtype, SDPA())
        qwen = networks.qwen
        conditions = WeightlessConditions(qwen.condition, "", None)
        super().__init__(qwen, networks.prior, networks.decoder, conditions, networks.tower, unsaved, answer_tokens)
        self.understanding = WeightlessUnderstanding(qwen, answer_tokens)
        self.language_model = nn.ModuleList([qwen.language, qwen.model.lm_head])
        self.vision_tower: nn.Module = qwen.model.model.visual

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        """See :meth:`Blip3oAdapter.generate`."""
        few = replace(sampling, prior_steps=min(sampling.prior_steps, STEPS), steps=min(sampling.steps, STEPS))
        return super().generate(requests, few)


def weightless(dimensions: Dimensions, dtype: torch.dtype, answer_tokens: int) -> Weightless:
    """A BLIP3o of these dimensions with weights of ``dtype`` on torch's ``meta`` device; open answers have at most so
    many tokens."""
    model = WeightlessBlip3o(dimensions, dtype, answer_tokens)
    prior = dimensions.prior
    return Weightless(model, model.size, (prior.channels, prior.grid, prior.grid))
