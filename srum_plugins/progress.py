"""The progress listener: a bar per stage in a terminal, a line now and then elsewhere.

It writes to standard error, so that what commands print can be piped. ``SRUM_QUIET=1`` silences it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from srum_plugins.hookspecs import RunInfo, hookimpl
from srum_plugins.records import Phase, Reading, told

UNITS = {
    **dict.fromkeys(("generate", "ground", "judge", "reward"), "candidates"),
    "train": "steps",
    "evaluate": "images and figures, before and after training,",
}
"""What the items of a stage are."""
_PLAIN_SECONDS = 30.0  # between two lines of a stage where there is no terminal


@cache
def console() -> Console:
    """The console that progress is written to; shared, so that bars and other messages do not mix."""
    return Console(stderr=True, highlight=False)


@dataclass
class Pace:
    """How fast a stage goes: the mean over what was done since it began, without what was found on disk."""

    first: int
    done: int
    began: float
    latest: float

    @classmethod
    def start(cls, done: int, now: float) -> Pace:
        """Begin at ``now`` seconds with ``done`` items found complete."""
        return cls(done, done, now, now)

    def advance(self, done: int, now: float) -> None:
        """``done`` items are complete now."""
        self.done, self.latest = done, now

    def rate(self) -> float | None:
        """Items per second up to the latest advance, or None before the first."""
        seconds = self.latest - self.began
        return (self.done - self.first) / seconds if seconds > 0 and self.done > self.first else None

    def text(self, total: int, now: float) -> str:
        """Rate and time left, as ``3.2/s, 0:05:35 left``; empty while unknown."""
        rate = self.rate()
        if rate is None:
            return ""
        speed = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
        left = max((total - self.done) / rate - (now - self.latest), 0.0)
        return speed if self.done >= total else f"{speed}, {_clock(left)} left"


class _PaceColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        return Text(pace.text(int(task.total or 0), time.monotonic()))


@dataclass
class _Stage:
    """What is shown of the stage that runs."""

    name: str
    total: int
    pace: Pace
    note: str = ""
    printed: float = 0.0
    bar: Progress | None = None

    def show(self, out: Console) -> None:
        """Open the bar, or print the first line."""
        if not out.is_terminal:
            self.printed = self.pace.began
            found = f", {self.pace.done} found complete" if self.pace.done else ""
            what = f"{self.total} {UNITS.get(self.name, '')}".rstrip()
            out.print(f"{self.name}: {what} to do{found}", markup=False)
            return
        self.bar = Progress(
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _PaceColumn(),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            console=out,
            refresh_per_second=4,
        )
        self.bar.add_task(self.name, total=self.total, completed=self.pace.done, pace=self.pace, note="")
        self.bar.start()

    def advance(self, out: Console, done: int, total: int, note: str = "") -> None:
        """Move the bar, or print a line if the last one is long ago."""
        now = time.monotonic()
        self.total = total
        self.note = note or self.note
        if done > self.pace.done:
            self.pace.advance(done, now)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.pace.done, total=total, note=self.note)
        elif now - self.printed >= _PLAIN_SECONDS:
            self.printed = now
            facts = (f"{self.pace.done}/{self.total}", self.pace.text(self.total, now), self.note)
            out.print(f"{self.name}: " + ", ".join(fact for fact in facts if fact), markup=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.stop()


@dataclass
class _View:
    """What is shown of a run."""

    out: Console
    began: float = field(default_factory=time.monotonic)
    stage: _Stage | None = None

    def close_stage(self) -> None:
        if self.stage is not None:
            self.stage.close()
            self.stage = None


_views: dict[Path, _View] = {}


def _show(run: RunInfo, action: Callable[[_View], None]) -> None:
    view = _views.get(run.directory)
    if view is not None:
        action(view)


@hookimpl
def srum_run_started(run: RunInfo) -> None:
    """Name the run and its directory."""
    if os.environ.get("SRUM_QUIET", "") not in ("", "0"):
        return
    view = _views[run.directory] = _View(console())
    view.out.print(f"run {run.name} in {run.directory}", markup=False, style="bold")


@hookimpl
def srum_stage_started(run: RunInfo, stage: str, done: int, total: int) -> None:
    """Open the stage's bar, unless nothing is left to do."""

    def start(view: _View) -> None:
        view.close_stage()
        view.stage = _Stage(stage, total, Pace.start(done, time.monotonic()))
        if done < total:
            view.stage.show(view.out)

    _show(run, start)


@hookimpl
def srum_stage_advanced(run: RunInfo, stage: str, done: int, total: int) -> None:
    """Move the bar."""

    def move(view: _View) -> None:
        if view.stage is not None and view.stage.name == stage:
            view.stage.advance(view.out, done, total)

    _show(run, move)


@hookimpl
def srum_attention_chosen(run: RunInfo, attention: str, refused: Mapping[str, str]) -> None:
    """Name the kernel, and why others are not used."""
    causes = "".join(f"\n  not {name}: {cause}" for name, cause in refused.items())
    _show(run, lambda view: view.out.print(f"attention: {attention}{causes}", markup=False, soft_wrap=True))


@hookimpl
def srum_train_step_finished(run: RunInfo, step: int, metrics: Mapping[str, float]) -> None:
    """Move the train bar, with the loss beside it."""
    note = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""

    def move(view: _View) -> None:
        if view.stage is not None:
            view.stage.advance(view.out, step + 1, view.stage.total, note)

    _show(run, move)


@hookimpl
def srum_monitor(run: RunInfo, monitor: str, phase: Phase, step: int, readings: Sequence[Reading]) -> None:
    """Say what a monitor warns of, and what it could not read; the rest is quiet."""
    styles = {"ok": "dim", "warning": "yellow", "stop": "bold red"}
    words = {"ok": "note", "warning": "WARNING", "stop": "STOP" if phase != "after" else "WARNING (stop level)"}

    def warn(view: _View) -> None:
        for one in readings:
            if one.level != "ok" or one.failure is not None:
                line = f"{words[one.level]} after step {step}: {told(monitor, one)}"
                view.out.print(line, style=styles[one.level], markup=False, soft_wrap=True)

    _show(run, warn)


@hookimpl
def srum_stage_finished(run: RunInfo, stage: str, seconds: float, reused: bool) -> None:
    """Close the bar; a stage that had nothing to do gets one quiet line."""

    def finish(view: _View) -> None:
        view.close_stage()
        if reused:
            view.out.print(f"{stage}: up to date", markup=False, style="dim")
        elif not view.out.is_terminal:
            view.out.print(f"{stage}: done in {_clock(seconds)}", markup=False)

    _show(run, finish)


@hookimpl
def srum_stage_failed(run: RunInfo, stage: str) -> None:
    """Close the bar. The error itself is the caller's to show."""

    def fail(view: _View) -> None:
        view.close_stage()
        view.out.print(f"{stage}: stopped", markup=False, style="red")

    _show(run, fail)


@hookimpl
def srum_run_finished(run: RunInfo) -> None:
    """Say how long it took."""
    _show(run, lambda view: view.out.print(f"finished in {_clock(time.monotonic() - view.began)}", markup=False))
    _views.pop(run.directory, None)


@hookimpl
def srum_run_failed(run: RunInfo) -> None:
    """Close what is open."""
    _show(run, lambda view: view.close_stage())
    _views.pop(run.directory, None)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
