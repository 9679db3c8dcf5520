"""Every hook that a plugin may implement.

Provider hooks return records, and are called once when the host loads. Event hooks are for listeners (tracking,
progress, monitors); what they return is ignored. ``run`` is a :class:`RunInfo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
from PIL import Image

from srum_plugins.providers import Provider
from srum_plugins.records import Phase, Reading

PROJECT = "srum_plugins"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class RunInfo:
    """What listeners know of a run: its name, directory, resolved config (plain containers), the hash of that with the
    providers' versions and identities, the versions of the distributions whose providers it uses, and the run that it
    is a part of: an ablation is told as a run without stages, whose ``directory`` holds its tables, and each of its
    arms as a run with that ``parent``."""

    name: str
    directory: Path
    config: Mapping[str, Any]
    config_hash: str
    versions: Mapping[str, str] = field(default_factory=dict)
    parent: RunInfo | None = None


class Providers:
    """Provider hooks: each returns one or more :class:`srum_plugins.providers.Provider` records."""

    @hookspec
    def srum_model_adapters(self) -> Iterable[Provider]:
        """Unified multimodal models (:class:`srum_plugins.contracts.ModelAdapter`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_grounders(self) -> Iterable[Provider]:
        """Proposers of regions (:class:`srum_plugins.contracts.Grounder`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_judges(self) -> Iterable[Provider]:
        """Scorers of candidates and regions (:class:`srum_plugins.contracts.Judge`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_reward_aggregators(self) -> Iterable[Provider]:
        """Makers of reward maps (:class:`srum_plugins.contracts.Aggregator`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_objectives(self) -> Iterable[Provider]:
        """Training objectives (:class:`srum_plugins.contracts.Objective`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_prompt_sets(self) -> Iterable[Provider]:
        """Sources of training prompts (:class:`srum_plugins.contracts.PromptSet`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_benchmarks(self) -> Iterable[Provider]:
        """Independent measures of generated images (:class:`srum_plugins.contracts.Benchmark`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_attentions(self) -> Iterable[Provider]:
        """Attention kernels (:class:`srum_plugins.attention.contract.Attention`)."""
        raise AssertionError("a specification is never called")

    @hookspec
    def srum_monitors(self) -> Iterable[Provider]:
        """Watchers of training (:class:`srum_plugins.contracts.Monitor`)."""
        raise AssertionError("a specification is never called")


class Events:
    """Event hooks. An exception in a listener stops the run: a listener that may fail guards itself."""

    @hookspec
    def srum_run_started(self, run: RunInfo) -> None:
        """A run begins, before its first stage."""

    @hookspec
    def srum_run_finished(self, run: RunInfo, summary: Mapping[str, Any]) -> None:
        """All stages asked for are complete. ``summary`` is the run's summary, empty if there was no evaluation."""

    @hookspec
    def srum_run_failed(self, run: RunInfo, error: BaseException) -> None:
        """A run stopped by an exception, keyboard interrupt included."""

    @hookspec
    def srum_stage_started(self, run: RunInfo, stage: str, done: int, total: int) -> None:
        """A stage begins with ``done`` of its ``total`` work items found complete on disk."""

    @hookspec
    def srum_stage_advanced(self, run: RunInfo, stage: str, done: int, total: int) -> None:
        """A chunk of a stage is durable on disk."""

    @hookspec
    def srum_stage_finished(self, run: RunInfo, stage: str, seconds: float, reused: bool) -> None:
        """A stage is complete. ``reused`` if nothing had to be done."""

    @hookspec
    def srum_stage_failed(self, run: RunInfo, stage: str, error: BaseException) -> None:
        """A stage stopped by an exception."""

    @hookspec
    def srum_attention_chosen(self, run: RunInfo, attention: str, refused: Mapping[str, str]) -> None:
        """The model is about to be loaded with this attention kernel. ``refused`` says of each that was tried before it
        why it cannot be used here."""

    @hookspec
    def srum_train_step_started(self, run: RunInfo, step: int) -> None:
        """Training step ``step`` (from 0) begins."""

    @hookspec
    def srum_train_step_finished(self, run: RunInfo, step: int, metrics: Mapping[str, float]) -> None:
        """Training step ``step`` is done. ``metrics`` are numbers by name."""

    @hookspec
    def srum_train_step_failed(self, run: RunInfo, step: int, error: BaseException) -> None:
        """Training step ``step`` stopped by an exception, before the optimizer moved."""

    @hookspec
    def srum_monitor(self, run: RunInfo, monitor: str, phase: Phase, step: int, readings: Sequence[Reading]) -> None:
        """A monitor has read weights that were trained ``step`` steps. One of the level ``stop`` before or during
        training ends it. Told again for steps that a killed training does again."""

    @hookspec
    def srum_metrics(self, run: RunInfo, stage: str, metrics: Mapping[str, float]) -> None:
        """Figures of a finished stage, numbers by name."""

    @hookspec
    def srum_table(self, run: RunInfo, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A result table, as rows of equal keys."""

    @hookspec
    def srum_images(self, run: RunInfo, name: str, image: Image.Image) -> None:
        """A picture for people: a sample grid, a reward-map overlay, a before/after sheet. Also saved under the run's
        ``pictures/``."""

    @hookspec
    def srum_report(self, run: RunInfo, path: Path) -> None:
        """The run's report, one HTML page, is written to ``path``. Told before the run is finished."""

    @hookspec
    def srum_checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """A training checkpoint is durable in ``folder``."""
