"""Qwen2.5-VL's answers about images: open ones, choices, and boxes (blip3o.md 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from srum_blip3o.boxes import about, read_boxes, where_all_question, where_question
from srum_blip3o.qwen import Qwen
from srum_blip3o.reading import Context, last, logits, read_images, read_opening, read_texts, step
from srum_plugins.boxes import labelled
from srum_plugins.contracts import GREEDY, Answer, Decoding, Question
from srum_plugins.decoding import likeliest, sampled, write
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Failure, Region

Found = TypeVar("Found")

ANSWER_TOKENS = 512
"""After which an open answer is cut off, where nobody asks for another budget."""
ROWS_PER_CALL = 16
"""Images, questions or choices that are read in one forward, if it is not told otherwise."""


Labelled = Callable[[str, Box, tuple[str, ...]], Region | Failure]
"""Makes a region of a label, a box and what was mended of it."""


def _called(phrase: str) -> Labelled:
    """Every box is of the phrase that was asked for alone, however it is labelled."""
    return lambda label, box, mended: Region(box, phrase, mended=mended)


def _one_of(phrases: Sequence[str]) -> Labelled:
    """A box is of the phrase that its label stands for."""
    return lambda label, box, mended: labelled(label, phrases, box, mended)


@dataclass(frozen=True)
class _Asked:
    """A question as ids, its place among all, the row of the context that it follows, and the (width, height) that its
    image is seen in: (0, 0) without one."""

    index: int
    parent: int
    ids: list[int]
    seen: tuple[int, int]


@dataclass(frozen=True)
class _Answered:
    """An answer about an image that was seen in this (width, height)."""

    answer: Answer
    seen: tuple[int, int]


class Understanding:
    """Asks a Qwen. Images may be of different sizes, and each is read once for all that is asked about it in a call."""

    def __init__(self, qwen: Qwen, answer_tokens: int = ANSWER_TOKENS, rows_per_call: int = ROWS_PER_CALL) -> None:
        self.qwen, self.answer_tokens, self.rows_per_call = qwen, answer_tokens, rows_per_call

    @torch.no_grad()
    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.answer`. Neither the sampling nor the penalties of the
        release's generation config are used.

        Raises:
            ContractError: a question with the answer that it may get is longer than the model's context.
        """
        return [one.answer for one in self._answered(questions, decoding)]

    def _answered(self, questions: Sequence[Question], decoding: Decoding) -> list[_Answered]:
        limit = decoding.max_tokens or self.answer_tokens

        def answered(read: Context, asked: Sequence[_Asked]) -> list[_Answered]:
            context, first = self._questions(read, asked)
            chosen = [questions[one.index] for one in asked]
            answers = self._continued(context, first, chosen, decoding, limit)
            return [_Answered(answer, one.seen) for one, answer in zip(asked, answers, strict=True)]

        return self._found(questions, limit, answered)

    @torch.no_grad()
    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.choice_logprobs`. A choice counts with all its tokens and the
        one that ends the answer.

        Raises:
            ContractError: a question has no choices, or one without words, or is longer than the model's context.
        """
        encode = self.qwen.tokenizer.encode
        choices = [[encode(choice) for choice in question.choices] for question in questions]
        for question, ids in zip(questions, choices, strict=True):
            if not ids or not all(ids):
                raise ContractError(f"{question.text!r} needs choices, none of them empty; got {question.choices}")
        longest = max((len(ids) for wanted in choices for ids in wanted), default=0)

        def scored(read: Context, asked: Sequence[_Asked]) -> list[tuple[float, ...]]:
            context, first = self._questions(read, asked)
            branches = [(row, ids) for row, one in enumerate(asked) for ids in choices[one.index]]
            sums: list[Tensor] = []
            for start in range(0, len(branches), self.rows_per_call):
                sums += self._scored(context, first, branches[start : start + self.rows_per_call])
            scores = iter(sums)
            own = [torch.stack([next(scores) for _ in choices[one.index]]) for one in asked]
            return [tuple(torch.log_softmax(one, dim=0).tolist()) for one in own]

        return self._found(questions, longest, scored)

    @torch.no_grad()
    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.locate`. ``score`` is left open: a box in words carries none.

        Raises:
            ContractError: see :meth:`answer`.
        """
        questions = [
            Question(image, where_question(phrase))
            for image, wanted in zip(images, phrases, strict=True)
            for phrase in wanted
        ]
        answers = iter(self._answered(questions, GREEDY))
        located: list[list[Region | Failure]] = []
        for image, wanted in zip(images, phrases, strict=True):
            found: list[Region | Failure] = []
            for phrase in wanted:
                found += self._regions(next(answers), image.size, _called(phrase))
            located.append(found)
        return located

    @torch.no_grad()
    def locate_all(
        self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]
    ) -> list[list[Region | Failure]]:
        """See :meth:`srum_plugins.contracts.ModelAdapter.locate_all`; as :meth:`locate`, ``score`` is left open.

        Raises:
            ContractError: see :meth:`answer`.
        """
        pairs = list(zip(images, phrases, strict=True))
        questions = [Question(image, where_all_question(wanted)) for image, wanted in pairs if wanted]
        answers = iter(self._answered(questions, GREEDY))
        return [
            list(self._regions(next(answers), image.size, _one_of(wanted))) if wanted else [] for image, wanted in pairs
        ]

    def _regions(self, answered: _Answered, size: tuple[int, int], region: Labelled) -> Sequence[Region | Failure]:
        """The regions of an answer that is whole: one that was cut off may lack some."""
        text = answered.answer.text
        if answered.answer.truncated:
            return [Failure("truncated answer", f"cut off after {self.answer_tokens} tokens: {text[:80]!r}")]
        read = read_boxes(text, answered.seen, size)
        if isinstance(read, Failure):
            return [read]
        lost = [Failure("empty box", f"without area in the image: {text[:80]!r}")] * read.mended.get("dropped", 0)
        kept = zip(read.labels, read.boxes, read.notes, strict=True)
        return [*(region(*one) for one in kept), *lost]

    def _found(
        self, questions: Sequence[Question], room: int, work: Callable[[Context, Sequence[_Asked]], Sequence[Found]]
    ) -> list[Found]:
        """What ``work`` finds of questions after the context of their images, which leaves ``room`` tokens to answer;
        images and questions are taken so many at a time, and those without an image after all others."""
        groups: dict[int, tuple[Image.Image, list[int]]] = {}
        alone: list[int] = []
        for index, question in enumerate(questions):
            if question.image is None:
                alone.append(index)
            else:
                groups.setdefault(id(question.image), (question.image, []))[1].append(index)
        members, done = list(groups.values()), dict[int, Found]()
        for start in range(0, len(members), self.rows_per_call):
            part = members[start : start + self.rows_per_call]
            done |= self._found_of(partial(self._about_images, questions, part), questions, room, work)
        if alone:
            done |= self._found_of(partial(self._about_nothing, questions, alone), questions, room, work)
        return [done[index] for index in range(len(questions))]

    def _found_of(
        self,
        reading: Callable[[], tuple[Context, list[_Asked]]],
        questions: Sequence[Question],
        room: int,
        work: Callable[[Context, Sequence[_Asked]], Sequence[Found]],
    ) -> dict[int, Found]:
        """By its place, what ``work`` finds of each question about a few images. The context of the images, gigabytes
        for large ones, is gone when it returns: that of the next ones is never held beside it."""
        read, asked = reading()
        self._refuse_long(read, asked, questions, room)
        done: dict[int, Found] = {}
        for first in range(0, len(asked), self.rows_per_call):
            part = asked[first : first + self.rows_per_call]
            done |= zip((one.index for one in part), work(read, part), strict=True)
        return done

    def _about_images(
        self, questions: Sequence[Question], members: Sequence[tuple[Image.Image, list[int]]]
    ) -> tuple[Context, list[_Asked]]:
        """Images, each with the places of its questions."""
        prepared = self.qwen.preparation.prepare([image for image, _ in members])
        read = read_images(self.qwen, self.qwen.see(prepared.patches, prepared.grids), prepared.grids)
        asked = []
        for row, (image, own) in enumerate(members):
            seen = self.qwen.preparation.seen_size(prepared.grids[row])
            for index in own:
                text = about(questions[index].text, questions[index].box, seen, image.size)
                asked.append(_Asked(index, row, self.qwen.tokenizer.asking(text), seen))
        return read, asked

    def _about_nothing(self, questions: Sequence[Question], members: Sequence[int]) -> tuple[Context, list[_Asked]]:
        """Questions whose text alone answers them."""
        asking = self.qwen.tokenizer.asking_alone
        return read_opening(self.qwen), [_Asked(index, 0, asking(questions[index].text), (0, 0)) for index in members]

    def _refuse_long(self, read: Context, asked: Sequence[_Asked], questions: Sequence[Question], room: int) -> None:
        positions = self.qwen.language.config.max_position_embeddings
        for one in asked:
            used = read.places[one.parent] + len(one.ids) + room
            if used > positions:
                raise ContractError(
                    f"the question {questions[one.index].text[:80]!r} with its image, if it has one, and an answer of "
                    f"{room} tokens takes {used} positions of the model's {positions}: shorten it, or give the answer "
                    "fewer tokens"
                )

    def _questions(self, read: Context, asked: Sequence[_Asked]) -> tuple[Context, Tensor]:
        """The questions read after their images, and logits (B, V) of the first token of each answer."""
        parents, texts = [one.parent for one in asked], [one.ids for one in asked]
        context, hidden = read_texts(self.qwen, read, parents, texts)
        return context, logits(self.qwen, last(hidden, [len(ids) for ids in texts]))

    def _continued(
        self, context: Context, first: Tensor, questions: Sequence[Question], decoding: Decoding, limit: int
    ) -> list[Answer]:
        tokenizer = self.qwen.tokenizer

        def following(ids: Tensor) -> Tensor:
            nonlocal context
            context, found = step(self.qwen, context, ids)
            return found

        def stopped(ids: Sequence[int]) -> bool:
            text = tokenizer.decode(ids)
            return decoding.cut(text) != text

        seeds = [question.seed for question in questions]
        choose = sampled(decoding, seeds) if decoding.temperature else likeliest
        ends = (tokenizer.special.end, tokenizer.special.pad)
        written = write(first, following, ends, limit, choose, stopped if decoding.stop else None)
        return [Answer(decoding.cut(tokenizer.decode(one.ids)), one.truncated, len(one.ids)) for one in written]

    def _scored(self, context: Context, first: Tensor, branches: Sequence[tuple[int, list[int]]]) -> list[Tensor]:
        """The log-probability of each (row of the context, ids of an answer), its end included."""
        parents = [row for row, _ in branches]
        _, hidden = read_texts(self.qwen, context, parents, [ids for _, ids in branches])
        sums = []
        for (row, ids), states in zip(branches, hidden, strict=True):
            steps = torch.cat([first[row][None], logits(self.qwen, states[: len(ids)])]).double().log_softmax(dim=1)
            wanted = torch.tensor([*ids, self.qwen.tokenizer.special.end], device=steps.device)
            sums.append(steps.gather(1, wanted[:, None]).sum().cpu())
        return sums
