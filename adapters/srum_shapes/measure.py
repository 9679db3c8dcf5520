"""What a checkpoint of the drawn world can do: the figures of its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from srum_plugins.contracts import GenerationRequest
from srum_shapes.adapter import build
from srum_shapes.benchmark import ShapesBenchmark
from srum_shapes.options import AdapterOptions, BenchmarkOptions, SamplingOptions
from srum_shapes.prompts import prompt_list

CHUNK = 60


def measure(folder: Path, prompts: int, questions: int, guidances: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Understanding by kind of question, and ``full`` and ``graded`` by guidance on validation prompts.

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
        "understanding": {kind: round(value, 3) for kind, value in report.accuracy.items()},
        "questions_per_kind": next(iter(report.questions.values())),
        "generation_by_guidance": generation,
        "prompts": prompts,
    }
