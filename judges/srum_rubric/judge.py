"""Asks the model for its scores, and again for those that it failed to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from srum_plugins.contracts import Answer, Decoding, Judge, Located, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.marking import boxes_marked, crops_marked, region_name
from srum_plugins.records import BACKGROUND, Failure, Grounding, Judgement, Region, Score, total
from srum_plugins.runs.fingerprint import fingerprint, stable_seed
from srum_rubric.options import RubricOptions
from srum_rubric.parsing import NO_SCORE, parse_global, parse_regions
from srum_rubric.wording import ANYTHING, CROP, CROPS, REGION, REGIONS, THINK, filled

Ask = Callable[[Sequence[Question], Decoding], Sequence[Answer | Failure]]
"""Gives an answer a question, in order, or why there is none: a model's ``answer``, or an endpoint's."""

_UNASKED = Failure(NO_SCORE, "not asked yet")


@dataclass
class _Case:
    """One candidate, and what is known of it so far. ``local`` holds a result a region; ``answers`` are in the order of
    asking. ``given_up`` are the indices of regions whose question had no answer at all, None for the whole image."""

    item: Located
    regions: Sequence[Region]
    alpha: Score | Failure = _UNASKED
    local: list[Score | Failure] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    given_up: set[int | None] = field(default_factory=set)

    @property
    def open(self) -> list[int]:
        """The indices of the regions without a score that may still get one."""
        failed = [index for index, score in enumerate(self.local) if isinstance(score, Failure)]
        return [index for index in failed if index not in self.given_up]


@dataclass(frozen=True)
class _Ask:
    """A question about a candidate's regions of these indices, or without any about the whole image."""

    case: _Case
    indices: Sequence[int]
    question: Question


class RubricJudge(Judge):
    """alpha: the score that the model writes for the whole image. local: those that it writes for the marked regions,
    all in one answer; 0 for the background, which is not asked about."""

    def __init__(self, options: RubricOptions) -> None:
        self._options = options
        crops = options.show == "crops"
        self._regions_template = options.regions_template or (CROPS if crops else REGIONS)
        self._region_template = options.region_template or (CROP if crops else REGION)
        wording = [options.global_template, self._regions_template, self._region_template, ANYTHING]
        self._wording = fingerprint([*wording, THINK if options.think else "", options.show])

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        """See :meth:`judge_with`; the model answers."""
        if model is None:
            raise ContractError("the judge 'rubric' needs a model")
        return self.judge_with(model.answer, items, groundings)

    def judge_with(self, ask: Ask, items: Sequence[Located], groundings: Sequence[Grounding]) -> list[Judgement]:
        """The questions about all items are asked in one call, and so is each round of retries, which asks for what is
        still missing. What stays without a score is the Failure of its last answer (see :mod:`srum_rubric.parsing`). A
        question that has no answer is not asked again: its scores are the Failure that says why. The same items have
        the same judgements if the answers are the same."""
        cases = [
            _Case(item, grounding.regions, local=[BACKGROUND if r.background else _UNASKED for r in grounding.regions])
            for item, grounding in zip(items, groundings, strict=True)
        ]
        for round_number in range(1 + self._options.retries):
            asks = [one for case in cases for one in self._asks(case, round_number)]
            if not asks:
                break
            answers = ask([one.question for one in asks], self._decoding(again=round_number > 0))
            if len(answers) != len(asks):
                raise ContractError(f"the model answered {len(answers)} of {len(asks)} questions")
            for one, answer in zip(asks, answers, strict=True):
                _take(one, answer)
        return [self._judgement(case) for case in cases]

    def _asks(self, case: _Case, round_number: int) -> list[_Ask]:
        """What is to be asked about a candidate: the whole image and all regions, then only what has no score."""
        asks = []
        identifier = case.item.candidate.id
        if isinstance(case.alpha, Failure) and None not in case.given_up:
            text = self._text(self._options.global_template, {"text": case.item.prompt.text})
            seed = stable_seed("rubric", self._options.seed, identifier, "global", round_number)
            asks.append(_Ask(case, (), Question(case.item.image, text, seed=seed)))
        if indices := case.open:
            boxes = [case.regions[index].box for index in indices]
            mark = crops_marked if self._options.show == "crops" else boxes_marked
            lines = "\n".join(self._region_line(index, case.regions[index]) for index in indices)
            text = self._text(self._regions_template, {"text": case.item.prompt.text, "regions": lines})
            seed = stable_seed("rubric", self._options.seed, identifier, "regions", round_number)
            asks.append(_Ask(case, indices, Question(mark(case.item.image, boxes, indices), text, seed=seed)))
        return asks

    def _text(self, template: str, values: Mapping[str, str]) -> str:
        return filled(template, values) + (f"\n{THINK}" if self._options.think else "")

    def _region_line(self, index: int, region: Region) -> str:
        phrase = " ".join(region.phrase.split()) or ANYTHING
        sides = {side: str(round(getattr(region.box, side))) for side in ("x0", "y0", "x1", "y1")}
        return filled(self._region_template, {"name": region_name(index), "phrase": phrase, **sides})

    def _decoding(self, again: bool) -> Decoding:
        options, budget = self._options, self._options.max_tokens
        if budget is not None and options.think:
            budget += options.think_tokens
        if again:
            return Decoding(options.temperature, options.top_p, budget)
        return Decoding(max_tokens=budget)

    def _judgement(self, case: _Case) -> Judgement:
        tokens = total(answer.tokens for answer in case.answers)
        raw = tuple(answer.text for answer in case.answers)
        return Judgement(case.item.candidate.id, case.alpha, tuple(case.local), raw, tokens, self._wording)


def _take(ask: _Ask, answer: Answer | Failure) -> None:
    """Keep what an answer says of its case."""
    case, asked = ask.case, ask.question.text
    if isinstance(answer, Failure):
        case.given_up.update(ask.indices or [None])
        if not ask.indices:
            case.alpha = answer
        for index in ask.indices:
            case.local[index] = answer
        return
    case.answers.append(answer)
    if not ask.indices:
        case.alpha = parse_global(answer, asked)
        return
    found = parse_regions(answer, [region_name(index) for index in ask.indices], asked)
    for index, score in zip(ask.indices, found.values(), strict=True):
        case.local[index] = score
