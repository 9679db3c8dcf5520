"""The progress listener: what it prints with and without a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from srum_plugins import progress
from srum_plugins.hookspecs import RunInfo
from srum_plugins.records import Failure, Reading

RUN = RunInfo("demo", Path("runs/demo"), {}, "abc")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """Redirects the shared console to a buffer, as a terminal or not."""
    monkeypatch.delenv("SRUM_QUIET", raising=False)

    def redirect(terminal: bool) -> io.StringIO:
        buffer = io.StringIO()
        out = Console(file=buffer, force_terminal=terminal, width=120, highlight=False, color_system=None)
        monkeypatch.setattr(progress, "console", lambda: out)
        return buffer

    return redirect


def whole_run() -> None:
    progress.srum_run_started(RUN)
    progress.srum_stage_started(RUN, "generate", 32, 96)
    progress.srum_attention_chosen(RUN, "sdpa", {"varlen": "NotImplementedError: no kernel"})
    for done in (64, 96):
        progress.srum_stage_advanced(RUN, "generate", done, 96)
    progress.srum_stage_finished(RUN, "generate", 75.2, False)
    progress.srum_stage_started(RUN, "ground", 96, 96)
    progress.srum_stage_finished(RUN, "ground", 0.0, True)
    progress.srum_stage_started(RUN, "train", 0, 3)
    for step in range(3):
        progress.srum_train_step_finished(RUN, step, {"loss": 0.5 / (step + 1)})
    progress.srum_stage_finished(RUN, "train", 3.0, False)
    progress.srum_run_finished(RUN)


def test_without_a_terminal_there_are_a_few_plain_lines(printed: Callable[[bool], io.StringIO]) -> None:
    buffer = printed(False)
    whole_run()
    assert buffer.getvalue().splitlines() == [
        "run demo in runs/demo",
        "generate: 96 candidates to do, 32 found complete",
        "attention: sdpa",
        "  not varlen: NotImplementedError: no kernel",
        "generate: done in 0:01:15",
        "ground: up to date",
        "train: 3 steps to do",
        "train: done in 0:00:03",
        "finished in 0:00:00",
    ]


def test_long_stages_print_a_line_now_and_then(
    printed: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = printed(False)
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    progress.srum_run_started(RUN)
    progress.srum_stage_started(RUN, "train", 0, 100)
    for step in range(50):
        clock[0] += 2.0
        progress.srum_train_step_finished(RUN, step, {"loss": 0.25})
    progress.srum_run_failed(RUN)
    assert buffer.getvalue().splitlines()[2:] == [
        "train: 15/100, 2 s each, 0:02:50 left, loss 0.25",
        "train: 30/100, 2 s each, 0:02:20 left, loss 0.25",
        "train: 45/100, 2 s each, 0:01:50 left, loss 0.25",
    ]


def test_in_a_terminal_there_are_bars_with_counts_and_loss(printed: Callable[[bool], io.StringIO]) -> None:
    buffer = printed(True)
    whole_run()
    text = buffer.getvalue()
    assert "96/96" in text
    assert "loss 0.1667" in text
    assert "ground: up to date" in text
    assert "━" in text
    assert not progress._views


def test_a_failed_stage_closes_its_bar(printed: Callable[[bool], io.StringIO]) -> None:
    buffer = printed(True)
    progress.srum_run_started(RUN)
    progress.srum_stage_started(RUN, "judge", 0, 5)
    view = progress._views[RUN.directory]
    assert view.stage is not None
    assert view.stage.bar is not None
    bar = view.stage.bar
    assert bar.live.is_started
    progress.srum_stage_failed(RUN, "judge")
    progress.srum_run_failed(RUN)
    assert not bar.live.is_started
    assert "judge: stopped" in buffer.getvalue()


def test_quiet_prints_nothing(printed: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = printed(True)
    monkeypatch.setenv("SRUM_QUIET", "1")
    whole_run()
    assert buffer.getvalue() == ""


@given(
    first=st.integers(0, 1000),
    chunks=st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 60)), min_size=1, max_size=20),
)
def test_the_rate_ignores_what_was_found_on_disk(first: int, chunks: list[tuple[int, float]]) -> None:
    pace = progress.Pace.start(first, 10.0)
    assert pace.text(2000, 11.0) == ""
    now, done = 10.0, first
    for count, seconds in chunks:
        now, done = now + seconds, done + count
        pace.advance(done, now)
    assert pace.rate() == pytest.approx(sum(count for count, _ in chunks) / sum(seconds for _, seconds in chunks))
    assert pace.text(done, now).count("left") == 0
    assert pace.text(done + 5, now).endswith(" left")


def test_what_a_monitor_warns_of_is_printed_as_it_is_and_the_rest_is_not(
    printed: Callable[[bool], io.StringIO],
) -> None:
    buffer = printed(False)
    progress.srum_run_started(RUN)
    readings = [
        Reading("quiet", 1.0),
        Reading("far", 0.5, "warning", "[red]"),
        Reading("gone", None, failure=Failure("no spread", "at all")),
    ]
    progress.srum_monitor(RUN, "latents", "during", 4, readings)
    progress.srum_monitor(RUN, "latents", "during", 8, [Reading("far", 2.0, "stop")])
    progress.srum_monitor(RUN, "latents", "after", 3, [Reading("far", 2.0, "stop")])
    progress.srum_run_finished(RUN)
    assert buffer.getvalue().splitlines()[1:-1] == [
        "WARNING after step 4: latents: far = 0.5 ([red])",
        "note after step 4: latents: gone could not be read (no spread: at all)",
        "STOP after step 8: latents: far = 2",
        "WARNING (stop level) after step 3: latents: far = 2",
    ]
