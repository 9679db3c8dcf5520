"""Speed of the judges that ask the model itself: python benchmarks/judges.py --size small --images 8

Drawn scenes, four candidates a prompt, are judged by `choice`, `questions` and `rubric` on one model in one process, in
turns; the median of the rounds counts. A judge is made anew for each round, so that `questions` writes its lists again.

`--size small` and `7b` are BAGELs of benchmarks/bagel.py with random weights, to which every word is a token; `shapes`
is the shipped model with its own words. These have not learned to think, and random ones say nothing at all. What they
write is made as long as it may be: the end token is barred wherever `rubric` writes, and wherever random weights do. So
each answer of `rubric` has all its think tokens and those of the answer besides; what was written is counted, and told.
Nothing is asked again, and words of random weights are passed off as questions of six words. `choice` and `questions`
ask what the prompts and regions of the scenes make them ask.

Writes a JSON file and prints a table: images/s, tokens written an image, and how many times faster `choice` is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bagel import LONGEST_ANSWER, SIZES, build
from measure import kernel, name_of, timed
from PIL import Image
from srum_bagel.adapter import BagelAdapter
from srum_bagel.config import BagelConfig
from srum_bagel.memory import Words
from srum_choice.judge import ChoiceJudge
from srum_choice.options import ChoiceOptions
from srum_questions.judge import QuestionsJudge
from srum_questions.options import QuestionsOptions
from srum_rubric.judge import RubricJudge
from srum_rubric.options import RubricOptions
from srum_shapes import adapter as shapes
from srum_shapes.options import AdapterOptions
from srum_shapes.prompts import sample_facts, to_prompt
from srum_shapes.world import SIDE, render, scene_for

from srum_plugins.attention.contract import Heads
from srum_plugins.contracts import GREEDY, Answer, Decoding, Judge, Located, ModelAdapter, Question
from srum_plugins.records import Box, Candidate, Failure, Grounding, Judgement, Region

CANDIDATES = 4
"""Images of a prompt."""
WORDS = 6
"""Of a question that random weights write."""
BARRED = -1e4
"""Added to the logit of the end token."""


class Questioning(Words):
    """Says questions of six words each, one in a line."""

    def decode(self, ids: Iterable[int]) -> str:
        """As many words as ids, each its id, so that questions differ."""
        words = [f"word{index}" for index in ids]
        return " ?\n".join(" ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS)) + " ?"


class Counting(ModelAdapter):
    """A model, and what was asked of it: questions that it chose an answer to, and tokens of each one that it wrote."""

    def __init__(self, model: ModelAdapter) -> None:
        self.model = model
        self.chosen = 0
        self.written: list[int] = []

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        answers = self.model.answer(questions, decoding)
        self.written += [answer.tokens or 0 for answer in answers]
        return answers

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        self.chosen += len(questions)
        return self.model.choice_logprobs(questions)


@contextmanager
def endless(adapter: BagelAdapter) -> Iterator[None]:
    """While it lasts, no answer ends before its budget does."""
    head = adapter.model.language_model.lm_head
    bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
    bias[adapter.config.tokens.eos] = BARRED
    head.bias = torch.nn.Parameter(bias, requires_grad=False)
    try:
        yield
    finally:
        head.bias = None


def scenes(count: int, side: int) -> tuple[list[Located], list[Grounding]]:
    """Drawn images of this side in pixels, every fourth of another prompt, with a region for each object."""
    rng = np.random.default_rng(0)
    items, groundings = [], []
    for index in range(count):
        if index % CANDIDATES == 0:
            facts = sample_facts(rng)
        prompt = to_prompt(facts, f"p{index // CANDIDATES}", "")
        scene = scene_for(facts, rng)
        image = Image.fromarray(render(scene, rng)).resize((side, side))
        name, scale = f"c{index}", side / SIDE
        regions = [
            Region(Box(*(scale * each for each in (box.x0, box.y0, box.x1, box.y1))), item.phrase)
            for item in scene.objects
            for box in [item.box]
        ]
        items.append(Located(prompt, Candidate(name, prompt.id, index, 0, f"{name}.png", side, side), image))
        groundings.append(Grounding(name, tuple(regions)))
    return items, groundings


def model_of(size: str, attention: str, device: torch.device) -> tuple[BagelAdapter, int, str]:
    """The model, the side of its images, and the attention kernel's name."""
    if size == "shapes":
        options = AdapterOptions()
        chosen, found = kernel(attention, [shapes.heads(options)], device)
        return shapes.build(options, str(device), found), SIDE, chosen
    config, side = SIZES[size]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen, found = kernel(attention, [heads_of(config, dtype)], device)
    adapter = build(config, side, device, dtype, found)
    adapter.dialect = Questioning(LONGEST_ANSWER)
    return adapter, side, chosen


def heads_of(config: BagelConfig, dtype: torch.dtype) -> Heads:
    llm = config.llm
    return Heads(llm.num_attention_heads, llm.num_key_value_heads, llm.head_dim, str(dtype).removeprefix("torch."))


def judges(think_tokens: int, answer_tokens: int, list_tokens: int) -> dict[str, Callable[[], Judge]]:
    rubric = RubricOptions(think=True, think_tokens=think_tokens, max_tokens=answer_tokens, retries=0)
    return {
        "choice": lambda: ChoiceJudge(ChoiceOptions()),
        "questions": lambda: QuestionsJudge(QuestionsOptions(list_tokens=list_tokens, retries=0)),
        "rubric": lambda: RubricJudge(rubric),
    }


def judged(
    judge: Judge, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter, device: torch.device
) -> tuple[float, list[Judgement]]:
    """Seconds, and the judgements."""
    given: list[Judgement] = []
    return timed(lambda: given.extend(judge.judge(items, groundings, model)), device), given


def figures(seconds: Sequence[float], counted: Counting, images: int, failed: int) -> dict[str, Any]:
    """Of one round, by the median of its times."""
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "images_per_second": images / median,
        "rounds": list(seconds),
        "choice_questions_per_image": counted.chosen / images,
        "answers_written": len(counted.written),
        "tokens_per_answer": [min(counted.written, default=0), max(counted.written, default=0)],
        "tokens_written_per_image": sum(counted.written) / images,
        "images_without_alpha": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "shapes"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=8, help="judged in one call: judging.chunk of a config")
    parser.add_argument("--think-tokens", type=int, default=256)
    parser.add_argument("--answer-tokens", type=int, default=32, help="of each answer of rubric, after thinking")
    parser.add_argument("--list-tokens", type=int, default=48, help="of a list of questions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", default="auto", help="kernel, as in a config")
    parser.add_argument("--output", type=Path, help="JSON file (default: runs/judges-SIZE.json)")
    options = parser.parse_args()
    device = torch.device(options.device)
    adapter, side, attention = model_of(options.size, options.attention, device)
    items, groundings = scenes(options.images, side)
    makers = judges(options.think_tokens, options.answer_tokens, options.list_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    found: dict[str, dict[str, Any]] = {}
    for number in range(options.rounds + 1):
        for name, make in makers.items():
            counted = Counting(adapter)
            with endless(adapter) if name == "rubric" or options.size != "shapes" else nullcontext():
                spent, given = judged(make(), items, groundings, counted, device)
            if number:  # the first round warms up
                seconds[name].append(spent)
                failed = sum(isinstance(one.alpha, Failure) for one in given)
                found[name] = figures(seconds[name], counted, options.images, failed)
    rates = {name: one["images_per_second"] for name, one in found.items()}
    report = {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "attention": attention,
        "size": options.size,
        "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
        "side": side,
        "images": options.images,
        "regions": sum(len(grounding.regions) for grounding in groundings),
        "think_tokens": options.think_tokens,
        "choice_over_rubric": rates["choice"] / rates["rubric"],
        **found,
    }
    output = options.output or Path(f"runs/judges-{options.size}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"{json.dumps(report, indent=1)}\n")
    print(f"{'judge':<10} {'images/s':>9} {'seconds':>9} {'tokens an image':>16} {'tokens an answer':>17}")
    for name, one in found.items():
        least, most = one["tokens_per_answer"]
        print(
            f"{name:<10} {one['images_per_second']:>9.3g} {one['seconds']:>9.3g} "
            f"{one['tokens_written_per_image']:>16.1f} {f'{least} to {most}':>17}"
        )
    print(f"choice judges {report['choice_over_rubric']:.1f} times the images per second of rubric")


if __name__ == "__main__":
    main()
