"""The report of one run: what its stages have on disk, as sections of a page.

Nothing is loaded and nothing is made again. A run that is not complete has the sections of the stages that are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from srum_plugins.errors import StageError
from srum_plugins.records import Noted
from srum_plugins.report import rows
from srum_plugins.reporting import sections
from srum_plugins.reporting.page import page
from srum_plugins.reporting.sections import Card, Cost, Failed, Made, Section
from srum_plugins.reporting.sides import Side, strips
from srum_plugins.runs.files import read_sealed, write_if_different
from srum_plugins.runs.fingerprint import SHORT
from srum_plugins.runs.store import QUARANTINE
from srum_plugins.stages import evaluate, generate, ground, judge, reward, train
from srum_plugins.stages.monitoring import read_noted, stopped_early
from srum_plugins.stages.session import Part, Session
from srum_plugins.training.checkpoints import MONITORS, read_metrics

REPORT = "report.html"
SHOWN = 12  # prompts with their images, and as many whose verdict has changed
PARTS: tuple[Part, ...] = (
    generate.STAGE,
    ground.STAGE,
    judge.STAGE,
    reward.STAGE,
    train.STAGE,
    *evaluate.STAGE.parts,
    evaluate.STAGE,
)


def write(session: Session, summary: Mapping[str, Any]) -> Path:
    """Write the report of a run into its directory. ``summary`` is the run's, empty if it is not evaluated.

    Raises:
        StageError: no stage of this configuration is complete.
        DamagedError: a file that the report shows is not as it was written.
        StorageError: the disk is full, or may not be written.
    """
    path = session.config.directory / REPORT
    write_if_different(path, run_page(session, summary).encode())
    return path


def run_page(session: Session, summary: Mapping[str, Any]) -> str:
    """The report of a run as HTML. Raises what :func:`write` raises of files."""
    config = session.config
    done = {part.name for part in PARTS if session.directory(part).complete}
    if not done:
        raise StageError(
            f"nothing to report: no stage of this configuration is complete in {config.directory}. "
            "`srum run` with the same arguments makes it"
        )
    missing = [part.name for part in PARTS if part.name not in done]
    facts = [*providers(session), f"seed {config.run.seed}"]
    if missing:
        facts.append(f"not complete: {', '.join(missing)}")
    if "train" in done and (stopped := stopped_early(session.directory(train.STAGE).facts())):
        facts.append(stopped)
    return page(f"{config.run.name}: {config.arm}", facts, run_sections(session, summary, done))


def providers(session: Session) -> list[str]:
    """The kind and the name of every provider that a run uses."""
    chosen = session.config.providers.items()
    return [f"{kind.value} {'+'.join(choice.members) or choice.name}" for kind, choice in chosen]


def run_sections(session: Session, summary: Mapping[str, Any], done: set[str]) -> list[Section]:
    """The sections of a run of which the stages ``done`` are complete."""
    found = []
    if summary:
        found += [sections.headline(summary), *galleries(session)]
    if {"generate", "ground", "judge", "reward"} <= done:
        found.append(
            sections.rewards(
                reward_cards(session),
                "The best and the worst candidate of the prompts in which "
                "they differ most. The map is what training weighs each token with.",
            )
        )
    if summary:
        found.append(sections.results(rows(summary)))
    if "train" in done:
        directory = session.directory(train.STAGE)
        found.append(sections.curves({session.config.run.name: read_metrics(directory)}))
        if noted := read_noted(directory.path / MONITORS):
            found.append(sections.monitors([reading(one) for one in noted]))
    found += [
        sections.quarantine(failed_records(session, PARTS)),
        sections.costs(stage_costs(session, done)),
        sections.made(
            OmegaConf.to_yaml(OmegaConf.create(dict(session.info.config))),
            session.info.versions,
            [made(session, part, part.name) for part in PARTS if part.name in done],
        ),
    ]
    return found


def galleries(session: Session) -> list[Section]:
    """Images before and after training: the first of each split and category, and those whose verdict has changed."""
    sides = [
        Side.read(session, "before", evaluate.BASELINE_IMAGES, evaluate.BASELINE),
        Side.read(session, "after", evaluate.IMAGES, evaluate.STAGE),
    ]
    before, after = (side.records for side in sides)
    texts = {prompt.id: prompt.text for prompt in session.benchmark_prompts}
    first = evaluate.in_turn(after, range(len(after)), SHOWN)
    changed = evaluate.changed(before, after)
    found = [
        sections.gallery(
            "Before and after",
            strips(texts, sides, [after[index] for index in first]),
            f"The first prompts of each split and category, {len(first)} of {len(after)}, not chosen by their result. "
            "The same prompt has the same seed before and after.",
        )
    ]
    if changed:
        shown = evaluate.in_turn(after, changed, SHOWN)
        gained = sum(after[index].values["full"] > before[index].values["full"] for index in changed)
        found.append(
            sections.gallery(
                "Changed verdicts",
                strips(texts, sides, [after[index] for index in shown]),
                f"For the better: {gained}; for the worse: {len(changed) - gained}. Shown: {len(shown)}.",
                key="changed",
                folded=True,
            )
        )
    return found


def reward_cards(session: Session) -> list[Card]:
    """The best and the worst candidate of the prompts in which they differ most."""
    items, rewards = reward.read_judged(session), reward.read_rewards(session)
    shown = reward.extremes(items, rewards)
    located = generate.locate(session, generate.saved(session), [item.candidate for item, _ in shown])
    grid = session.directory(generate.STAGE).facts()["token_grid"]
    return [
        Card(
            title=f"candidate {item.candidate.id} · reward {given.score:+.3f}",
            prompt=item.prompt.text,
            image=place.image,
            regions=item.grounding.regions,
            alpha=item.judgement.alpha,
            local=item.judgement.local,
            map=given.map,
            grid=(grid[0], grid[1]) if grid else (place.image.height, place.image.width),
            answers=item.judgement.raw,
        )
        for place, (item, given) in zip(located, shown, strict=True)
    ]


def failed_records(session: Session, parts: Sequence[Part]) -> list[Failed]:
    """What these stages have set apart, in their order."""
    return [
        Failed(part.name, str(row["candidate"]), str(row["cause"]), str(row["detail"]))
        for part in parts
        for row in _lines(session.directory(part).path / QUARANTINE)
    ]


def stage_costs(session: Session, done: set[str]) -> list[Cost]:
    """The time of each complete stage, and the tokens of the judge."""
    found = []
    for part in PARTS:
        if part.name not in done or part in evaluate.STAGE.parts:  # the time of evaluate has theirs
            continue
        directory = session.directory(part)
        tokens = [read_sealed(path)["tokens"] for path in sorted(directory.path.glob("cost-*.json"))]
        found.append(Cost(part.name, directory.seconds(), tokens))
    return found


def made(session: Session, part: Part, name: str) -> Made:
    """What a complete part is of; ``name`` is what the page calls it."""
    directory = session.directory(part)
    manifest = read_sealed(directory.path / "manifest.json")
    return Made(name, directory.fingerprint[:SHORT], manifest.get("made_with", {}))


def reading(noted: Noted) -> dict[str, Any]:
    """A row of :func:`srum_plugins.reporting.sections.monitors`. Those on the last weights are named apart."""
    reading = noted.reading
    failure = reading.failure
    return {
        "name": f"{noted.monitor}: {reading.name}{', last weights' if noted.phase == 'after' else ''}",
        "step": noted.step,
        "value": reading.value if failure is None else f"{failure.cause} {failure.detail}".rstrip(),
        "level": reading.level,
        "message": reading.message,
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
