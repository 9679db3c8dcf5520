"""Kill a run a hundred times: python benchmarks/kills.py [CONFIG] [KEY=VALUE ...] [--kills 50] [--processes 1 2]

Every stage is a command of its own, alone or under torchrun. At a random moment after it has taken the run directory
one of its processes is killed (SIGKILL), and the same command goes on from there with a random number of processes;
training always has as many as are asked for, since its rounding depends on it. When all stages are complete, every file
is compared with that of a run that nobody disturbed, and another run begins, until there were so many kills.

Needs Linux. Without CONFIG it is configs/demo.yaml, made small. Prints a table of kills by stage and what came out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STAGES = ("generate", "ground", "judge", "reward", "train", "evaluate")
CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
SMALL = (
    "prompts.count=12",
    "generate.candidates=2",
    "generate.chunk=4",
    "ground.chunk=4",
    "judging.chunk=4",
    "objective.min_gap=0",
    "train.steps=8",
    "train.batch=4",
    "train.checkpoint_every=2",
    "benchmark.prompts_per_split=8",
    "benchmark.questions=16",
    "evaluate.chunk=4",
)
PATIENCE = 600.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Command:
    """What is run in ``folder``, but for the stage."""

    config: Path
    overrides: tuple[str, ...]
    folder: Path

    def start(self, stage: str, size: int) -> subprocess.Popen[bytes]:
        """A stage in so many processes, with a log beside the run directory."""
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m") if size > 1 else ()
        settings = (*self.overrides, f"run.directory={self.folder}", "tracking.enabled=false", "run.device=cpu")
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *launcher, "srum_plugins.cli", stage, str(self.config), *settings],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def run(self, stage: str, size: int) -> float:
        """Run a stage to its end; the seconds from when it had taken the run directory."""
        process = self._begun(stage, size)
        began = time.monotonic()
        self._end(process)
        return time.monotonic() - began

    def kill(self, stage: str, size: int, seconds: float, victim: int) -> bool:
        """Run a stage and kill one of its processes so many seconds after it has taken the run directory. False if the
        stage had ended before."""
        process = self._begun(stage, size)
        time.sleep(seconds)
        workers = _workers(process.pid) if size > 1 else [process.pid]
        if process.poll() is None and len(workers) == size:
            os.kill(sorted(workers)[victim], signal.SIGKILL)
            return process.wait(PATIENCE) != 0
        self._end(process)
        return False

    def _begun(self, stage: str, size: int) -> subprocess.Popen[bytes]:
        before, process, until = self._locked(), self.start(stage, size), time.monotonic() + PATIENCE
        while self._locked() == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait(PATIENCE):
            raise SystemExit(f"a run failed that was not killed: see {self.folder.with_suffix('.log')}")

    def _locked(self) -> int:
        lock = self.folder / "lock"
        return lock.stat().st_mtime_ns if lock.exists() else 0


def _workers(launcher: int) -> list[int]:
    """The processes of a run that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    found = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    return [pid for pid in found if b"srum_plugins.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def digests(run: Path) -> dict[str, str]:
    """The sha256 of every file of a run directory by its name, but for times, locks and what names the directory."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        timed = path.name in ("seconds.json", "report.html") or path.name.startswith("cost-")
        if path.is_file() and not timed and name not in ("lock", "lock.workers", "config.yaml", "summary.json"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names of files that are not in both, or not the same."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def before_training(names: Sequence[str]) -> list[str]:
    """Those that do not depend on trained weights."""
    trained = ("stages/train/", "stages/evaluate/", "pictures/training", "pictures/before-after", "pictures/changed")
    return [name for name in names if not name.startswith(trained)]


def disturb(command: Command, size: int, kills: int, spans: dict[str, float], draw: random.Random) -> Counter[str]:
    """One run of all stages with up to so many kills; how many there were by stage."""
    killed: Counter[str] = Counter()
    for stage in STAGES:
        complete = False
        while not complete:
            count = size if stage == "train" else draw.randint(1, size)
            if killed.total() < kills:
                complete = not command.kill(stage, count, draw.uniform(0, spans[stage]), draw.randrange(count))
                killed[stage] += not complete
            else:
                command.run(stage, count)
                complete = True
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="with each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/kills"), help="is emptied first")
    parser.add_argument("settings", nargs="*", metavar="CONFIG KEY=VALUE")
    options = parser.parse_args()
    given = bool(options.settings) and "=" not in options.settings[0]
    config = Path(options.settings[0]) if given else CONFIG
    overrides = (*(() if given else SMALL), *options.settings[given:])
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    table: dict[int, Counter[str]] = {}
    straight: dict[int, dict[str, str]] = {}
    failed = False
    for size in options.processes:
        draw = random.Random(f"{options.seed}, {size}")
        undisturbed = Command(config, overrides, options.folder / f"undisturbed-{size}")
        spans = {stage: undisturbed.run(stage, size) for stage in STAGES}
        straight[size] = digests(undisturbed.folder)
        table[size] = Counter()
        rounds = 0
        while (left := options.kills - table[size].total()) > 0:
            rounds += 1
            killed = Command(config, overrides, options.folder / f"killed-{size}-{rounds}")
            table[size] += disturb(killed, size, left, spans, draw)
            wrong = different(digests(killed.folder), straight[size])
            failed = failed or bool(wrong)
            print(
                f"{size} process(es), run {rounds}: {table[size].total()} kills so far, "
                f"{f'DIFFERENT: {wrong}' if wrong else f'all {len(straight[size])} files equal'}",
                flush=True,
            )
    print(f"\n| processes | {' | '.join(STAGES)} | kills |\n|{'---|' * (len(STAGES) + 2)}")
    for size, counts in table.items():
        print(f"| {size} | {' | '.join(str(counts[stage]) for stage in STAGES)} | {counts.total()} |")
    first = options.processes[0]
    for size in options.processes[1:]:
        wrong = before_training(different(straight[first], straight[size]))
        failed = failed or bool(wrong)
        print(f"\nUndisturbed, {first} and {size} processes, up to training: {wrong or 'the same bytes'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
