"""What an experiment is to run: its arms and seeds, with a checked configuration for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from srum_plugins.ablations.arms import Arm
from srum_plugins.config import RunConfig, load
from srum_plugins.errors import ConfigError, SrumError
from srum_plugins.host import PluginHost
from srum_plugins.stages.pipeline import STAGES, check
from srum_plugins.world import World

Key = tuple[str, int]
"""The name of an arm and its seed."""


@dataclass(frozen=True)
class Experiment:
    """What is to be run: ``arms`` with ``seeds``, each under its configuration, compared with the arm ``control``.

    ``main`` is the configuration without any arm. Runs live in ``folder/seed-<n>``, results in ``folder/<name>``.
    """

    name: str
    folder: Path
    main: RunConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    control: str | None
    configs: Mapping[Key, RunConfig]

    @property
    def title(self) -> str:
        """What people know it by."""
        return f"{self.main.run.name} {self.name}"

    @property
    def results(self) -> Path:
        """Where the tables are."""
        return self.folder / self.name

    def kept(self, arm: str, seed: int) -> Path:
        """Where the outcome of an arm with a seed is kept."""
        return self.results / "outcomes" / f"seed-{seed}" / f"{arm}.json"


def plan(
    name: str,
    path: Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    control: str | None,
    host: PluginHost,
    folder: Path | None = None,
) -> Experiment:
    """Every configuration of an experiment, loaded and checked, so that mistakes are told before hours of work.

    ``overrides`` count for every arm, and more than its own. Without ``seeds`` there is one, ``run.seed``. ``folder``
    is ``<run.directory>-arms`` if it is not given.

    Raises:
        ConfigError: an arm cannot run (which, and why), nothing is trained, or a seed occurs twice.
    """
    main = load(path, overrides, host)
    seeds = tuple(seeds) or (main.run.seed,)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"a seed occurs twice: {' '.join(map(str, seeds))}")
    if not any(arm.trained for arm in arms):
        raise ConfigError("no arm is trained: choose one to compare with the base")
    folder = folder or main.directory.with_name(f"{main.directory.name}-arms")
    configs = {}
    for seed in seeds:
        for arm in arms:
            own = [
                f"run.name={json.dumps(f'{arm.name}, seed {seed}')}",
                f"run.directory={json.dumps(str(folder / f'seed-{seed}'))}",
                f"run.seed={seed}",
            ]
            try:
                config = configs[arm.name, seed] = load(path, [*arm.overrides, *overrides, *own], host)
                check(config, host, STAGES, World())
            except SrumError as error:
                raise ConfigError(f"arm {arm.name!r}: {error}") from error
    return Experiment(name, folder, main, tuple(arms), seeds, control, configs)
