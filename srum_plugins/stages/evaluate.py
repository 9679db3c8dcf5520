"""Stage ``evaluate``: the benchmark before and after training, with the same prompts and seeds.

The images before training depend on the adapter, the benchmark, the sampling and the seed only; they live in a
directory of their own (``baseline``), so that all arms of an experiment share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from srum_plugins.contracts import GenerationRequest, ModelAdapter
from srum_plugins.errors import CapabilityError, ContractError
from srum_plugins.pictures import before_after
from srum_plugins.providers import Kind
from srum_plugins.records import from_json, to_json
from srum_plugins.report import splits
from srum_plugins.runs.files import read_sealed, write_sealed
from srum_plugins.runs.fingerprint import stable_seed
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import train
from srum_plugins.stages.generate import generate_checked
from srum_plugins.stages.session import Part, Session, Stage, file_name, run_chunks, same_ids
from srum_plugins.stats import paired_bootstrap

SHOWN = 16  # prompts on the before/after sheet
RESERVED = ("understanding", "arm", "seconds", "stopped")


@dataclass(frozen=True)
class Measured:
    """One benchmark prompt: the image made for it and the figures that the benchmark gave it, each in [0, 1]."""

    prompt_id: str
    split: str
    category: str
    seed: int
    image: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Understanding:
    """The model's accuracy by question kind (null: the benchmark has no questions) and the digest of its understanding
    half (null: the adapter gives none)."""

    digest: str | None
    accuracy: Mapping[str, float] | None
    questions: Mapping[str, int] = field(default_factory=dict)


def _settings(session: Session) -> dict[str, Any]:
    return {
        "benchmark": session.prompts_ingredient(Kind.BENCHMARK, session.benchmark_prompts),
        "evaluate": session.info.config["evaluate"],
    }


def baseline_ingredients(session: Session) -> dict[str, Any]:
    """What the figures before training depend on."""
    return {"adapter": session.ingredient(Kind.ADAPTER), "device": session.device_type, **_settings(session)}


def ingredients(session: Session) -> dict[str, Any]:
    """What the figures after training depend on, besides the trained weights."""
    return _settings(session)


def shards(session: Session, directory: StageDirectory) -> Shards[Measured]:
    """The figures on disk, in the order of the benchmark's prompts."""
    return Shards(directory.path, Measured, len(session.benchmark_prompts), session.config.evaluate.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) images, before and after training together."""
    before = shards(session, session.directory(BASELINE))
    return before.done() + shards(session, directory).done(), 2 * before.total


def make(session: Session, directory: StageDirectory) -> None:
    """Measure what is missing of both sides."""
    baseline, world = session.directory(BASELINE), session.world
    if not world.tell("is the baseline complete", lambda: baseline.complete):
        if world.main:
            baseline.begin(session.made_with)
        world.meet("baseline begun")
        _measure(session, baseline, session.model, directory, before=0)
        if world.main:
            baseline.finish({"prompts": len(session.benchmark_prompts)})
    trained = train.weights(session.directory(train.STAGE))
    _measure(session, directory, lambda: session.model(trained), directory, before=len(session.benchmark_prompts))


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Compare, and write the summary."""
    baseline = session.directory(BASELINE)
    before, after = shards(session, baseline).read(), shards(session, directory).read()
    summary = summarise(before, after, session.config.run.seed)
    summary["understanding"] = _compare_understanding(_read_understanding(baseline), _read_understanding(directory))
    write_sealed(directory.path / "summary.json", summary)
    everything = range(len(after))
    session.picture(directory, "before-after", _sheet(session, before, after, everything))
    changed = [index for index in everything if before[index].values["full"] != after[index].values["full"]]
    if changed:
        session.picture(directory, "changed", _sheet(session, before, after, changed))
    facts: dict[str, Any] = {"prompts": len(after)}
    for split in splits(summary):
        facts.update({f"{split}_{name}": summary[split][name] for name in ("before", "after", "delta")})
    return facts


def _measure(
    session: Session,
    directory: StageDirectory,
    model: Callable[[], ModelAdapter],
    stage: StageDirectory,
    before: int,
) -> None:
    """Make what is missing of one side; ``before`` counts the images of the side before it."""
    prompts, who, settings = session.benchmark_prompts, session.choice(Kind.BENCHMARK), session.config.evaluate

    def work(items: range) -> tuple[list[Measured], dict[str, Image.Image]]:
        chosen = [prompts[item] for item in items]
        seeds = [stable_seed(session.config.run.seed, "evaluate", prompt.id) for prompt in chosen]
        requests = [
            GenerationRequest(prompt, seed, settings.width, settings.height)
            for prompt, seed in zip(chosen, seeds, strict=True)
        ]
        images = [result.image for result in generate_checked(model(), requests, session.config.sampling["evaluate"])]
        verdicts = session.benchmark.score(chosen, images)
        same_ids([prompt.id for prompt in chosen], [verdict.prompt_id for verdict in verdicts], who)
        records, files = [], {}
        for prompt, seed, image, verdict in zip(chosen, seeds, images, verdicts, strict=True):
            values = {name: float(value) for name, value in verdict.values.items()}
            if "full" not in values or not all(0.0 <= value <= 1.0 for value in values.values()):
                raise ContractError(
                    f"benchmark {who.name!r}: the verdict of {prompt.id!r} needs `full` and values in [0, 1]: {values}"
                )
            name = f"images/{file_name(prompt.id)}.png"
            files[name] = image
            records.append(Measured(prompt.id, prompt.split or "all", prompt.category, seed, name, values))
        return records, files

    measured = shards(session, directory)
    run_chunks(session, measured, work, stage, before=before, total=2 * len(prompts))
    path = directory.path / "understanding.json"
    if session.world.main and not path.exists():
        torch.manual_seed(stable_seed(session.config.run.seed, "understanding"))  # as in run_chunks
        report = session.benchmark.understanding(model())
        try:
            digest = model().understanding_digest()
        except CapabilityError:  # an adapter need not have one; the summary then says null
            digest = None
        accuracy, questions = (dict(report.accuracy), dict(report.questions)) if report else (None, {})
        write_sealed(path, to_json(Understanding(digest, accuracy, questions)))
        stage.tick()


def _read_understanding(directory: StageDirectory) -> Understanding:
    return from_json(Understanding, read_sealed(directory.path / "understanding.json"))


def _compare_understanding(before: Understanding, after: Understanding) -> dict[str, Any]:
    identical = None if before.digest is None or after.digest is None else before.digest == after.digest
    accuracy = [dict(side.accuracy) if side.accuracy is not None else None for side in (before, after)]
    return {
        "before": accuracy[0],
        "after": accuracy[1],
        "questions": dict(after.questions),
        "identical": identical,
    }


def summarise(before: Sequence[Measured], after: Sequence[Measured], seed: int) -> dict[str, Any]:
    """The figures of each split: ``before``, ``after``, ``delta`` and ``ci95`` of full accuracy, the same by category
    under ``categories``, and of every other figure under ``graded``."""
    same = [(old.prompt_id, old.seed) for old in before] == [(new.prompt_id, new.seed) for new in after]
    if not same:
        raise ContractError("before and after do not have the same prompts and seeds")
    pairs = list(zip(before, after, strict=True))
    summary: dict[str, Any] = {}
    for split in dict.fromkeys(record.split for record in after):
        if split in RESERVED:
            raise ContractError(
                f"the benchmark names a split {split!r}, which is the name of another entry of a summary"
            )
        chosen = [pair for pair in pairs if pair[1].split == split]
        categories = sorted({new.category for _, new in chosen if new.category})
        # A benchmark may give a figure for some prompts only.
        graded = dict.fromkeys(name for old, new in chosen for name in new.values if name in old.values)
        del graded["full"]
        summary[split] = {
            **_figures(chosen, "full", seed),
            "categories": {
                category: _figures([pair for pair in chosen if pair[1].category == category], "full", seed)
                for category in categories
            },
        }
        if graded:
            summary[split]["graded"] = {name: _figures(chosen, name, seed) for name in graded}
    return summary


def _figures(pairs: Sequence[tuple[Measured, Measured]], name: str, seed: int) -> dict[str, Any]:
    held = [(old.values[name], new.values[name]) for old, new in pairs if name in old.values and name in new.values]
    before, after = np.array(held).T
    interval = paired_bootstrap(before, after, seed=seed)
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "delta": interval.delta,
        "ci95": [interval.low, interval.high],
        "prompts": len(held),
    }


def in_turn(records: Sequence[Measured], indices: Sequence[int], most: int) -> list[int]:
    """At most so many of the indices: the first of each split and category in turn, so that all are seen."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index in indices:
        groups.setdefault((records[index].split, records[index].category), []).append(index)
    rounds = range(max((len(group) for group in groups.values()), default=0))
    return [group[turn] for turn in rounds for group in groups.values() if turn < len(group)][:most]


def _sheet(
    session: Session, before: Sequence[Measured], after: Sequence[Measured], indices: Sequence[int]
) -> Image.Image:
    shown = in_turn(after, indices, SHOWN)

    def images(side: Sequence[Measured], part: Part) -> list[Image.Image]:
        files = shards(session, session.directory(part))
        return [files.image(side[index].image) for index in shown]

    return before_after(
        [session.benchmark_prompts[index].text for index in shown],
        images(before, BASELINE),
        images(after, STAGE),
        marks=[(before[index].values["full"] == 1.0, after[index].values["full"] == 1.0) for index in shown],
    )


BASELINE = Part("baseline", inputs=(), ingredients=baseline_ingredients)
STAGE = Stage("evaluate", (train.STAGE,), ingredients=ingredients, progress=progress, make=make, conclude=conclude)
