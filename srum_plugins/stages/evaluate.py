"""Stage ``evaluate``: the benchmark before and after training, with the same prompts and seeds.

The images of both sides are drawn first, and are then scored: a judge that is the base model is loaded once for both,
and what was drawn outlives a judge that fails. Images and figures before training do not depend on training; they live
in directories of their own (``baseline-images``, ``baseline``), so that all arms of an experiment share them. Images do
not depend on how they are scored: another judge, or another wording, draws none anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from srum_plugins.contracts import Composite, GenerationRequest, ModelAdapter
from srum_plugins.errors import CapabilityError, ContractError
from srum_plugins.pictures import before_after
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.records import Failure, Prompt, from_json, to_json
from srum_plugins.report import splits
from srum_plugins.result_checks import same_ids
from srum_plugins.runs.files import read_sealed, write_sealed
from srum_plugins.runs.fingerprint import fingerprint, stable_seed
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.stages import train
from srum_plugins.stages.generate import generate_checked
from srum_plugins.stages.quarantine import Failing
from srum_plugins.stages.session import Part, Session, Stage, file_name, run_chunks
from srum_plugins.stats import Interval, paired_bootstrap, stratified_bootstrap

SHOWN = 16  # prompts on the before/after sheet
RESERVED = ("understanding", "measured", "arm", "seconds", "stopped")


@dataclass(frozen=True)
class Drawn:
    """The image made for one benchmark prompt and, in think mode, the plan that led to it."""

    prompt_id: str
    seed: int
    image: str
    width: int
    height: int
    plan: str | None = None


@dataclass(frozen=True)
class Measured:
    """One benchmark prompt: the figures that the benchmark gave its image, each in [0, 1], and those that it could not
    give, with why. ``raw`` and ``tokens`` are those of the :class:`srum_plugins.contracts.Verdict`."""

    prompt_id: str
    split: str
    category: str
    seed: int
    values: Mapping[str, float]
    failures: Mapping[str, Failure] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True)
class Understanding:
    """The model's accuracy by question kind (null: the benchmark has no questions) and the digest of its understanding
    half (null: the adapter gives none)."""

    digest: str | None
    accuracy: Mapping[str, float] | None
    questions: Mapping[str, int] = field(default_factory=dict)


def _section(session: Session) -> dict[str, Any]:
    """The settings of the stage, with the size that images are drawn in."""
    width, height = session.benchmark_size
    return {**session.info.config["evaluate"], "width": width, "height": height}


def _settings(session: Session) -> dict[str, Any]:
    return {
        "benchmark": session.prompts_ingredient(Kind.BENCHMARK, session.benchmark_prompts),
        "evaluate": _section(session),
    }


def _drawing(session: Session) -> dict[str, Any]:
    """What images depend on, besides the model: the prompts, whatever scores them."""
    content = fingerprint([to_json(prompt) for prompt in session.benchmark_prompts])
    return {"prompts": content, "evaluate": _section(session)}


def _base(session: Session) -> dict[str, Any]:
    return {"adapter": session.ingredient(Kind.ADAPTER), "device": session.device_type}


def ingredients(session: Session) -> dict[str, Any]:
    """What the figures after training depend on, besides the trained weights."""
    return _settings(session)


def shards(session: Session, directory: StageDirectory) -> Shards[Measured]:
    """The figures on disk of one side (``BASELINE`` or ``STAGE``), in the order of the benchmark's prompts."""
    return Shards(directory.path, Measured, len(session.benchmark_prompts), session.config.evaluate.chunk)


def images(session: Session, directory: StageDirectory) -> Shards[Drawn]:
    """The images on disk of one side (``BASELINE_IMAGES`` or ``IMAGES``), in the order of the benchmark's prompts."""
    return Shards(directory.path, Drawn, len(session.benchmark_prompts), session.config.evaluate.chunk)


def progress(session: Session, directory: StageDirectory) -> tuple[int, int]:
    """(done, total) images drawn and figures taken, before and after training together."""
    figures = sum(shards(session, each).done() for each in (session.directory(BASELINE), directory))
    drawn = sum(images(session, session.directory(part)).done() for part in (BASELINE_IMAGES, IMAGES))
    return drawn + figures, 4 * len(session.benchmark_prompts)


def make(session: Session, directory: StageDirectory) -> None:
    """Draw what is missing of both sides, then score what is missing."""
    baseline, world = session.directory(BASELINE), session.world
    trained = train.weights(session.directory(train.STAGE))
    complete = world.tell("is the baseline complete", lambda: baseline.complete)
    if not complete:
        if world.main:
            baseline.begin(session.made_with)
        world.meet("baseline begun")
    _draw(session, BASELINE_IMAGES, session.model, directory, before=0)
    if not complete:
        _understand(session, baseline, session.model, directory)
    _draw(session, IMAGES, lambda: session.model(trained), directory, before=1)
    _understand(session, directory, lambda: session.model(trained), directory)
    if not complete:
        _score(session, baseline, BASELINE_IMAGES, directory, before=2)
        if world.main:
            baseline.finish({"prompts": len(session.benchmark_prompts)})
    _score(session, directory, IMAGES, directory, before=3)


def conclude(session: Session, directory: StageDirectory) -> dict[str, Any]:
    """Compare, and write the summary."""
    baseline = session.directory(BASELINE)
    before, after = shards(session, baseline).read(), shards(session, directory).read()
    summary = summarise(before, after, session.config.run.seed, session.benchmark.composites())
    summary["understanding"] = _compare_understanding(_read_understanding(baseline), _read_understanding(directory))
    summary["measured"] = {**_base(session), **_settings(session), "seed": session.config.run.seed}
    write_sealed(directory.path / "summary.json", summary)
    everything = range(len(after))
    session.picture(directory, "before-after", _sheet(session, before, after, everything))
    if different := changed(before, after):
        session.picture(directory, "changed", _sheet(session, before, after, different))
    facts: dict[str, Any] = {"prompts": len(after)}
    facts |= {f"failed_{name}": sum("full" in one.failures for one in side) for name, side in _sides(before, after)}
    for split in splits(summary):
        facts.update({f"{split}_{name}": summary[split][name] for name in ("before", "after", "delta")})
    return facts


def _sides(before: Sequence[Measured], after: Sequence[Measured]) -> list[tuple[str, Sequence[Measured]]]:
    return [("before", before), ("after", after)]


def _draw(session: Session, part: Part, model: Callable[[], ModelAdapter], stage: StageDirectory, before: int) -> None:
    """Draw what is missing of one side; ``before`` counts the parts of the stage before it."""
    prompts, size, world = session.benchmark_prompts, session.benchmark_size, session.world
    directory = session.directory(part)
    if world.tell(f"is {part.name} complete", lambda: directory.complete):
        return
    if world.main:
        directory.begin(session.made_with)
    world.meet(f"{part.name} begun")

    def work(items: range) -> tuple[list[Drawn], dict[str, Image.Image]]:
        requests = [GenerationRequest(prompts[item], _seed(session, prompts[item]), *size) for item in items]
        results = generate_checked(model(), requests, session.config.sampling["evaluate"])
        records, files = [], {}
        for request, result in zip(requests, results, strict=True):
            name = f"images/{file_name(request.prompt.id)}.png"
            files[name] = result.image
            records.append(Drawn(request.prompt.id, request.seed, name, *result.image.size, result.plan))
        return records, files

    run_chunks(session, images(session, directory), work, stage, before=before * len(prompts), total=4 * len(prompts))
    if world.main:
        directory.finish({"images": len(prompts)})


def _score(session: Session, directory: StageDirectory, drawn: Part, stage: StageDirectory, before: int) -> None:
    """Score what is missing of one side; ``before`` counts the parts of the stage before it."""
    prompts, who = session.benchmark_prompts, session.choice(Kind.BENCHMARK)
    files = images(session, session.directory(drawn))
    records = files.read()

    def work(items: range) -> tuple[list[Measured], dict[str, Image.Image]]:
        chosen = [prompts[item] for item in items]
        shown = [files.image(one.image, (one.width, one.height)) for one in (records[item] for item in items)]
        judge = session.model() if session.benchmark.asks_model else None
        verdicts = session.benchmark.score(chosen, shown, judge)
        same_ids([prompt.id for prompt in chosen], [verdict.prompt_id for verdict in verdicts], who.source)
        return [
            Measured(
                prompt.id,
                prompt.split or "all",
                prompt.category,
                _seed(session, prompt),
                {name: float(value) for name, value in verdict.values.items()},
                dict(verdict.failures),
                tuple(verdict.raw),
                verdict.tokens,
            )
            for prompt, verdict in zip(chosen, verdicts, strict=True)
        ], {}

    def failed(item: int, failure: Failure) -> Measured:
        prompt = prompts[item]
        return Measured(
            prompt.id, prompt.split or "all", prompt.category, _seed(session, prompt), {}, {"full": failure}
        )

    run_chunks(
        session,
        shards(session, directory),
        work,
        stage,
        before=before * len(prompts),
        total=4 * len(prompts),
        failing=Failing(failed, lambda record: record.failures.get("full")),
    )


def _seed(session: Session, prompt: Prompt) -> int:
    """The seed of a prompt's image, the same on both sides."""
    return stable_seed(session.config.run.seed, "evaluate", prompt.id)


def _understand(
    session: Session, directory: StageDirectory, model: Callable[[], ModelAdapter], stage: StageDirectory
) -> None:
    """Measure the understanding of one side, in the main process, if that is missing."""
    path = directory.path / "understanding.json"
    if session.world.main and not path.exists():
        seed_torch(stable_seed(session.config.run.seed, "understanding"))  # as in run_chunks
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


def summarise(
    before: Sequence[Measured], after: Sequence[Measured], seed: int, composites: Sequence[Composite] = ()
) -> dict[str, Any]:
    """The figures of each split: ``before``, ``after``, ``delta`` and ``ci95`` of ``full``, the same by category under
    ``categories``, of every other figure under ``graded``, and of the benchmark's ``composites``.

    All are over the prompts that have the figure on both sides, which ``prompts`` counts, and are null without any.
    ``failed`` counts those that could not be had on each side, and ``causes`` says of the whole split why."""
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
        names = sorted({new.category for _, new in chosen if new.category})
        categories = {name: [pair for pair in chosen if pair[1].category == name] for name in names}
        # A benchmark may give a figure for some prompts only.
        graded = dict.fromkeys(name for pair in chosen for side in pair for name in (*side.values, *side.failures))
        del graded["full"]
        summary[split] = {
            **_figures(chosen, "full", seed),
            "categories": {name: _figures(own, "full", seed) for name, own in categories.items()},
        }
        if graded:
            summary[split]["graded"] = {name: _figures(chosen, name, seed) for name in graded}
        if composites:
            summary[split]["composites"] = {one.name: _composite(categories, one, seed) for one in composites}
        causes = Counter(failure.cause for pair in chosen for side in pair for failure in side.failures.values())
        if causes:
            summary[split]["causes"] = dict(causes.most_common())
    return summary


def _held(pairs: Sequence[tuple[Measured, Measured]], name: str) -> tuple[list[float], list[float]]:
    """A figure before and after, of the prompts that have it on both sides."""
    held = [(old.values[name], new.values[name]) for old, new in pairs if name in old.values and name in new.values]
    return [old for old, _ in held], [new for _, new in held]


def _failed(pairs: Sequence[tuple[Measured, Measured]], name: str) -> dict[str, int]:
    return {side: sum(name in pair[index].failures for pair in pairs) for index, side in enumerate(("before", "after"))}


def _figures(pairs: Sequence[tuple[Measured, Measured]], name: str, seed: int) -> dict[str, Any]:
    before, after = _held(pairs, name)
    failed = _failed(pairs, name)
    if not before:
        return _entry(None, None, None, failed)
    return _entry(float(np.mean(before)), float(np.mean(after)), paired_bootstrap(before, after, seed=seed), failed)


def _composite(
    categories: Mapping[str, Sequence[tuple[Measured, Measured]]], composite: Composite, seed: int
) -> dict[str, Any]:
    """As :func:`_figures`. ``missing`` names the categories without a figure, for lack of which there is none."""
    held = {name: _held(categories.get(name, ()), composite.figure) for name in composite.weights}
    failed = _failed([pair for name in held for pair in categories.get(name, ())], composite.figure)
    if missing := [name for name, (before, _) in held.items() if not before]:
        return {**_entry(None, None, None, failed), "missing": missing}
    weights = list(composite.weights.values())
    before, after = ([sides[index] for sides in held.values()] for index in (0, 1))
    old, new = (
        float(sum(weight * np.mean(values) for weight, values in zip(weights, side, strict=True)))
        for side in (before, after)
    )
    return _entry(old, new, stratified_bootstrap(before, after, weights, seed=seed), failed)


def _entry(
    before: float | None, after: float | None, interval: Interval | None, failed: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "delta": None if interval is None else interval.delta,
        "ci95": None if interval is None else [interval.low, interval.high],
        "prompts": 0 if interval is None else interval.n,
        "failed": dict(failed),
    }


def in_turn(records: Sequence[Measured], indices: Sequence[int], most: int) -> list[int]:
    """At most so many of the indices: the first of each split and category in turn, so that all are seen."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index in indices:
        groups.setdefault((records[index].split, records[index].category), []).append(index)
    rounds = range(max((len(group) for group in groups.values()), default=0))
    return [group[turn] for turn in rounds for group in groups.values() if turn < len(group)][:most]


def changed(before: Sequence[Measured], after: Sequence[Measured]) -> list[int]:
    """The indices of the prompts that have ``full`` on both sides, and not the same."""
    pairs = [(old.values.get("full"), new.values.get("full")) for old, new in zip(before, after, strict=True)]
    return [index for index, (old, new) in enumerate(pairs) if None not in (old, new) and old != new]


def _sheet(
    session: Session, before: Sequence[Measured], after: Sequence[Measured], indices: Sequence[int]
) -> Image.Image:
    shown = in_turn(after, indices, SHOWN)

    def pictures(part: Part) -> list[Image.Image]:
        files = images(session, session.directory(part))
        records = files.read()
        return [files.image(records[index].image) for index in shown]

    marks = [(before[index].values.get("full"), after[index].values.get("full")) for index in shown]
    # A tick would say of a score such as 0.9 that the prompt is not met.
    plain = all(side.values.get("full") in (0.0, 1.0) for index in shown for side in (before[index], after[index]))
    return before_after(
        [session.benchmark_prompts[index].text for index in shown],
        pictures(BASELINE_IMAGES),
        pictures(IMAGES),
        marks=[(old == 1.0, new == 1.0) for old, new in marks] if plain else None,
    )


BASELINE_IMAGES = Part(
    "baseline-images", inputs=(), ingredients=lambda session: {**_base(session), **_drawing(session)}
)
BASELINE = Part("baseline", inputs=(), ingredients=lambda session: {**_base(session), **_settings(session)})
IMAGES = Part("evaluate-images", inputs=(train.STAGE,), ingredients=_drawing)
STAGE = Stage(
    "evaluate",
    (train.STAGE,),
    ingredients=ingredients,
    progress=progress,
    make=make,
    conclude=conclude,
    parts=(BASELINE_IMAGES, BASELINE, IMAGES),
)
