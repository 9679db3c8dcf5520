"""Whether every file of a run is as it was written, and what to remove so that the next run makes the rest again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srum_plugins.errors import DamagedError
from srum_plugins.runs.files import ASIDE, read_sealed, storing
from srum_plugins.runs.lock import held
from srum_plugins.runs.shards import Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import SUMS, damage
from srum_plugins.stages import evaluate, generate, ground, judge, reward, train
from srum_plugins.stages.session import Part, Session
from srum_plugins.training.checkpoints import checkpoints

Seen = Callable[[Path], None]
PARTS: tuple[Part, ...] = (
    generate.STAGE,
    ground.STAGE,
    judge.STAGE,
    reward.STAGE,
    train.STAGE,
    *evaluate.STAGE.parts,
    evaluate.STAGE,
)
SHARDS: dict[str, Callable[[Session, StageDirectory], Shards[Any]]] = {
    "generate": generate.shards,
    "ground": ground.shards,
    "judge": judge.shards,
    "reward": reward.shards,
    "baseline-images": evaluate.images,
    "baseline": evaluate.shards,
    "evaluate-images": evaluate.images,
    "evaluate": evaluate.shards,
}
OUTCOMES = {"baseline": ("understanding.json",), "evaluate": ("understanding.json", "summary.json")}
FIGURES = ("seconds.json", "cost-")  # time and money spent: nothing is made of them, so that nothing is made again
MANIFEST, DONE = "manifest.json", "done.json"


@dataclass(frozen=True)
class Finding:
    """A file of a stage that is not as it was written, what is wrong with it, and what :func:`repair` removes."""

    stage: str
    file: Path
    problem: str
    removed: tuple[Path, ...]


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` found. ``files`` and ``size`` (bytes) count what was read, ``unfinished`` names the stages
    that the next run goes on with."""

    findings: tuple[Finding, ...]
    files: int
    size: int
    unfinished: tuple[str, ...]


def verify(session: Session, tell: Callable[[str, int, int], None] = lambda stage, files, size: None) -> Verified:
    """Read every file of the run's current stage directories. Nothing is written, and no model is loaded.

    A run that goes on meanwhile may replace what is being read. ``tell`` hears the stage, and the files and bytes so
    far, before each file.
    """
    files, size = 0, 0
    findings: list[Finding] = []
    for part in PARTS:

        def seen(path: Path, stage: str = part.name) -> None:
            nonlocal files, size
            tell(stage, files, size)
            files, size = files + 1, size + (path.stat().st_size if path.is_file() else 0)

        findings.extend(_findings(session, part, seen))
    unfinished = tuple(part.name for part in PARTS if not (session.directory(part).path / DONE).exists())
    return Verified(tuple(findings), files, size, unfinished)


def repair(session: Session, findings: Sequence[Finding], say: Callable[[str], None]) -> None:
    """Remove what is damaged, tell ``say`` each file or folder, and write missing manifests anew.

    Raises:
        StageError: the run directory is being run.
        StorageError: the disk is read-only.
    """
    with held(session.config.directory, session.world):
        for path in dict.fromkeys(path for finding in findings for path in finding.removed):
            if path.exists() or path.is_symlink():
                with storing(path):
                    _remove(path)
                say(f"removed {path.relative_to(session.config.directory)}")
        for part in PARTS:  # a manifest follows from the configuration: nothing need run for it
            if any(finding.stage == part.name for finding in findings):
                session.directory(part).describe()  # what it was made with, nobody knows any more


def _findings(session: Session, part: Part, seen: Seen) -> Iterator[Finding]:
    """All findings of one stage. A chunk goes with the stage's done.json, so that the stage makes it again; those below
    keep theirs, because it gets the same bytes."""
    directory = session.directory(part)
    folder, name = directory.path, part.name
    if not folder.exists():
        return
    again = [folder / DONE] + ([session.directory(evaluate.STAGE).path / DONE] if part in evaluate.STAGE.parts else [])

    def finding(error: DamagedError, *removed: Path) -> Finding:
        return Finding(name, error.file, error.problem, removed)

    for file in sorted(folder.glob("[!.]*.json")):
        seen(file)
        try:
            read_sealed(file)
        except DamagedError as error:
            keeps = file.name == MANIFEST or file.name.startswith(FIGURES)
            yield finding(error, file, *([] if keeps else again))
    for file, problem in _absent(session, directory, part):
        yield finding(DamagedError(file, problem), *([] if file.name == MANIFEST else again))
    done = (folder / DONE).exists()
    if name in SHARDS:
        shards = SHARDS[name](session, directory)
        for index in range(len(shards)):
            if shards.part(index).exists():
                for wrong in shards.damage(index, seen):
                    yield finding(wrong, shards.part(index), shards.sums(index), *again)
            elif done:
                yield finding(DamagedError(shards.part(index), "it is missing"), *again)
    if part is train.STAGE:
        for _, checkpoint in checkpoints(directory):
            for wrong in damage(checkpoint, seen):
                if checkpoint.exists():  # else a newer one has replaced it meanwhile
                    yield finding(wrong, checkpoint)
        weights = train.weights(directory)
        if done or weights.exists():
            for wrong in damage(weights, seen):
                yield finding(wrong, weights, *again)
    if done:
        for wrong in damage(folder, seen, directory.loose()):
            yield finding(wrong, folder / SUMS, *again)


def _absent(session: Session, directory: StageDirectory, part: Part) -> Iterator[tuple[Path, str]]:
    """The files of a stage that must be there and are not: its manifest from the first moment, its outcomes when it is
    complete, and its done.json when a stage that reads it has begun."""
    folder = directory.path
    begun = any(not path.name.startswith(ASIDE) for path in folder.iterdir())
    wanted = [MANIFEST] if begun else []
    if (folder / DONE).exists():
        wanted += OUTCOMES.get(part.name, ())
    for name in wanted:
        if not (folder / name).exists():
            yield folder / name, "it is missing"
    signs = {other.name: MANIFEST for other in PARTS if part in other.inputs}
    for reader in PARTS:
        sign = DONE if part in evaluate.STAGE.parts and reader is evaluate.STAGE else signs.get(reader.name)
        if sign and not (folder / DONE).exists() and (session.directory(reader).path / sign).exists():
            yield folder / DONE, f"it is missing, but {reader.name} needed it; the next run completes the stage"
            return


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
