"""What a checkpoint of the drawn world can do: the figures of its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from srum_plugins.contracts import Decoding, GenerationRequest, ModelAdapter, Question
from srum_shapes.adapter import build
from srum_shapes.benchmark import ShapesBenchmark
from srum_shapes.instructions import lessons
from srum_shapes.options import AdapterOptions, BenchmarkOptions, SamplingOptions
from srum_shapes.prompts import prompt_list, sample_facts
from srum_shapes.questions import Item
from srum_shapes.vocabulary import encode
from srum_shapes.world import scene_for

CHUNK = 60
LONGEST_LESSON = 80
"""Tokens of an answer to an instruction."""


def measure_lessons(adapter: ModelAdapter, scenes: int, seed: int = 0) -> dict[str, float]:
    """The share of answers to judges' and grounders' instructions that are right, by kind, on so many fresh scenes; of
    ``score`` the number counts alone, of ``regions`` every line."""
    rng = np.random.default_rng([seed, 1])
    asked: list[tuple[Question, Item]] = []
    for _ in range(scenes):
        facts = sample_facts(rng)
        for lesson in lessons(facts, scene_for(facts, rng), rng):
            image = None if lesson.picture is None else Image.fromarray(lesson.picture)
            asked += [(Question(image, item.question), item) for item in lesson.items]
    answers = adapter.answer([question for question, _ in asked], Decoding(max_tokens=LONGEST_LESSON))
    right: dict[str, list[bool]] = {}
    for answer, (_, item) in zip(answers, asked, strict=True):
        got, wanted = (encode(text) for text in (answer.text, item.answer))
        if item.kind == "score":
            got, wanted = got[-1:], wanted[-1:]
        if item.kind == "regions":
            lines = zip(answer.text.split("\n"), item.answer.split("\n"), strict=False)
            right.setdefault(item.kind, []).extend(encode(a) == encode(b) for a, b in lines)
        else:
            right.setdefault(item.kind, []).append(got == wanted)
    return {kind: float(np.mean(found)) for kind, found in sorted(right.items())}


def measure(folder: Path, prompts: int, questions: int, guidances: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Understanding by kind of question, what is made of instructions (on as many scenes as ``prompts``), and ``full``
    and ``graded`` by guidance on validation prompts.

    ``prompts`` and ``questions`` are at least 1. Every guidance draws from the same noise: the seed of a prompt's image
    is its number in the list.
    """
    adapter = build(AdapterOptions(str(folder)), "cpu")
    benchmark = ShapesBenchmark(BenchmarkOptions(questions=questions, seed=seed))
    report = benchmark.understanding(adapter)
    assert report is not None, "questions are asked"
    chosen = prompt_list(prompts, seed, "validation")
    requests = [GenerationRequest(prompt, number) for number, prompt in enumerate(chosen)]
    generation: dict[str, dict[str, float]] = {}
    for guidance in guidances:
        sampling = replace(SamplingOptions(), guidance=guidance)
        images = [
            made.image
            for start in range(0, prompts, CHUNK)
            for made in adapter.generate(requests[start : start + CHUNK], sampling)
        ]
        values = [verdict.values for verdict in benchmark.score(chosen, images)]
        generation[f"{guidance:g}"] = {
            name: round(float(np.mean([row[name] for row in values])), 3) for name in ("full", "graded")
        }
    return {
        "lessons": {kind: round(value, 3) for kind, value in measure_lessons(adapter, prompts, seed).items()},
        "understanding": {kind: round(value, 3) for kind, value in report.accuracy.items()},
        "questions_per_kind": next(iter(report.questions.values())),
        "generation_by_guidance": generation,
        "prompts": prompts,
    }
