"""The half of Janus that looks: open answers and choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from srum_janus.chat import Chat
from srum_janus.image_tokens import ROWS_PER_CALL, ImageTokens, alike, read
from srum_plugins.contracts import Answer, Decoding, Question
from srum_plugins.decoding import likeliest, sampled, write
from srum_plugins.errors import ContractError
from srum_plugins.pixels import on_white


class Understanding:
    """Asks the language model, with the vision tower's view of an image. Janus knows no coordinates: a question about a
    box is asked about what lies in it."""

    def __init__(self, network: ImageTokens, chat: Chat, processor: Any, answer_tokens: int) -> None:
        self._network, self._janus, self._chat = network, network.janus, chat
        self._processor, self._answer_tokens = processor, answer_tokens

    @torch.no_grad()
    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.answer`.

        Raises:
            ContractError: a question is longer than the model's context.
        """
        limit = decoding.max_tokens or self._answer_tokens
        rows = self._rows(questions, limit)
        answers: dict[int, Answer] = {}
        for places in alike([len(row) for row in rows]):
            chosen = [questions[place] for place in places]
            written = self._written(torch.stack([rows[place] for place in places]), chosen, decoding, limit)
            answers |= zip(places, written, strict=True)
        return [answers[place] for place in range(len(questions))]

    def _written(self, rows: Tensor, questions: Sequence[Question], decoding: Decoding, limit: int) -> list[Answer]:
        cache = DynamicCache()

        def following(embedded: Tensor) -> Tensor:
            found = self._janus.model.language_model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
            logits: Tensor = self._janus.lm_head(found.last_hidden_state[:, -1])
            return logits

        def stopped(ids: Sequence[int]) -> bool:
            text = self._chat.decode(ids)
            return decoding.cut(text) != text

        choose = sampled(decoding, [question.seed for question in questions]) if decoding.temperature else likeliest
        written = write(
            following(rows),
            lambda ids: following(self._janus.get_input_embeddings()(ids[:, None])),
            (self._chat.ids["end"], self._chat.ids["pad"]),
            limit,
            choose,
            stopped if decoding.stop else None,
        )
        return [Answer(decoding.cut(self._chat.decode(one.ids)), one.truncated, len(one.ids)) for one in written]

    @torch.no_grad()
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.choice_logprobs`. A choice counts with all its tokens and the
        one that ends the answer.

        Raises:
            ContractError: a question has no choices, or an empty one, or is longer than the model's context.
        """
        for question in questions:
            if not question.choices or not all(choice.strip() for choice in question.choices):
                raise ContractError(f"{question.text!r} needs choices, none of them empty; got {question.choices}")
        choices = [[self._chat.answering(choice) for choice in question.choices] for question in questions]
        longest = max((len(ids) for own in choices for ids in own), default=0)
        rows = self._rows(questions, longest)
        pairs = [(row, ids) for row, own in zip(rows, choices, strict=True) for ids in own]
        parts = [pairs[start : start + ROWS_PER_CALL] for start in range(0, len(pairs), ROWS_PER_CALL)]
        scores = iter([score for part in parts for score in self._scored(part)])
        summed = [torch.stack([next(scores) for _ in own]) for own in choices]
        return [tuple(torch.log_softmax(one, dim=0).tolist()) for one in summed]

    def _scored(self, pairs: Sequence[tuple[Tensor, list[int]]]) -> list[Tensor]:
        """The log-probability of each answer's ids after its question."""
        rows = [torch.cat([row, self._network.words(ids)[:-1]]) for row, ids in pairs]
        scores = []
        for (row, ids), states in zip(pairs, read(self._janus.model.language_model, rows), strict=True):
            logits = self._janus.lm_head(states[len(row) - 1 :][: len(ids)]).double()
            wanted = torch.tensor(ids, device=logits.device)
            scores.append(logits.log_softmax(dim=1).gather(1, wanted[:, None]).sum().cpu())
        return scores

    def _rows(self, questions: Sequence[Question], room: int) -> list[Tensor]:
        """The embeddings (L, H) of each question with its image; ``room`` tokens of an answer must fit after them."""
        views = {_view(one): one for one in questions if one.image is not None}
        seen = dict(zip(views, self._seen([_looked_at(one) for one in views.values()]), strict=True))
        rows = []
        for question in questions:
            if question.image is None:
                row = self._network.words(self._chat.asking_alone(question.text))
            else:
                before, after = self._chat.looking(), self._chat.asking(question.text)
                row = torch.cat([self._network.words(before), seen[_view(question)], self._network.words(after)])
            most = self._network.positions
            if len(row) + room > most:
                raise ContractError(
                    f"the question {question.text[:80]!r} and an answer of {room} tokens take {len(row) + room} "
                    f"positions of the model's {most}: shorten it, or give the answer fewer tokens"
                )
            rows.append(row)
        return rows

    def _seen(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Image features (n, H) of pictures of any sizes."""
        seen: list[Tensor] = []
        for start in range(0, len(images), ROWS_PER_CALL):
            part = [on_white(image) for image in images[start : start + ROWS_PER_CALL]]
            pixels = self._processor(part, return_tensors="pt")["pixel_values"]
            weight = self._janus.model.aligner.fc1.weight
            seen += self._janus.model.get_image_features(pixels.to(weight.device, weight.dtype)).pooler_output
        return seen


def _view(question: Question) -> tuple[object, ...]:
    return (id(question.image), question.box)


def _looked_at(question: Question) -> Image.Image:
    """The image, or every pixel of it that the box touches."""
    image, box = question.image, question.box
    assert image is not None
    if box is None:
        return image
    return image.crop((math.floor(box.x0), math.floor(box.y0), math.ceil(box.x1), math.ceil(box.y1)))
