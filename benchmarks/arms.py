"""Every arm of the demo with several seeds: python benchmarks/arms.py --seeds 0 1 2 --workers 2

An arm is a few overrides of configs/demo.yaml. Arms of one seed share candidates, boxes, judgements and the baseline.
Writes runs/arms/results.json and prints a markdown table. Nothing that is already there is computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from srum_plugins.config import load
from srum_plugins.host import PluginHost
from srum_plugins.stages import evaluate
from srum_plugins.stages.session import Session
from srum_plugins.stats import paired_bootstrap

OUT = Path("runs/arms")
# A pair is two images, so the weighted arms get batches of twice as many examples.
WEIGHTED = ("objective=srum", "objective.negative_weights=saturate", "train.batch=64")
ARMS: dict[str, tuple[str, ...]] = {
    "uniform": ("aggregator=uniform", *WEIGHTED),
    "shuffled": ("aggregator=shuffled", *WEIGHTED),
    "global-only": ("aggregator=global-only", *WEIGHTED),
    "local-only": ("aggregator=local-only", *WEIGHTED),
    "srum": ("aggregator=srum", *WEIGHTED),
    "srum-release": ("aggregator=srum-release", *WEIGHTED),
    "srum, anchored": ("aggregator=srum", "objective=srum", "objective.anchor=1.0", "train.batch=64"),
    "paired": ("aggregator=srum", "objective=paired"),
    "paired, logistic": (
        "aggregator=srum",
        "objective=paired",
        "objective.preference=logistic",
        "objective.anchor=0.2",
    ),
    "paired, shuffled": ("aggregator=shuffled", "objective=paired"),
}
"""Arms by name; budget, seeds and everything else are those of configs/demo.yaml."""


def run(seed: int, arms: list[str], extra: list[str]) -> list[dict[str, Any]]:
    """The arms of one seed, one after the other, on one core."""
    rows = []
    for arm in arms:
        folder = OUT / f"seed-{seed}"
        command = [str(Path(sys.executable).parent / "srum"), "run", "configs/demo.yaml", f"run.seed={seed}"]
        command += [f"run.directory={folder}", "tracking.enabled=false", *ARMS[arm], *extra]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        summary = json.loads((folder / "summary.json").read_text())
        summary["verdicts"] = verdicts(command[2], command[3:])
        # The summary has an arm of its own, which does not tell the objectives' settings apart.
        rows.append({**summary, "arm": arm, "seed": seed, "command": " ".join(["srum", *command[1:]])})
        print(f"seed {seed}  {arm:18s}", *(cell(summary[split]) for split in SPLITS), flush=True)
    return rows


SPLITS = ("in_domain", "out_of_domain")


def verdicts(config: str, overrides: list[str]) -> dict[str, dict[str, list[float]]]:
    """``full`` of every evaluated image, before and after, by split, in the order of the benchmark's prompts."""
    host = PluginHost.load()
    session = Session(load(Path(config), overrides, host), host)
    found: dict[str, dict[str, list[float]]] = {}
    for side, stage in (("before", evaluate.BASELINE), ("after", evaluate.STAGE)):
        splits = found[side] = {}
        for record in evaluate.shards(session, session.directory(stage)).read():
            splits.setdefault(record.split, []).append(record.values["full"])
    return found


def cell(figures: dict[str, Any]) -> str:
    return shown(figures["delta"], *figures["ci95"])


def shown(delta: float, low: float, high: float) -> str:
    return f"{delta:+.3f} [{low:+.3f}, {high:+.3f}]"


def markdown(head: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def together(pairs: list[tuple[list[float], list[float]]]) -> str:
    """The delta over several seeds with its 95 % interval over prompts: a prompt's figure is its mean over seeds."""
    before, after = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
    interval = paired_bootstrap(before, after)
    return shown(interval.delta, interval.low, interval.high)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each seed's delta of full accuracy with its 95 % interval, and that of all seeds together."""
    seeds = sorted({row["seed"] for row in rows})
    body = []
    for arm in ARMS:
        for split in SPLITS:
            found = {row["seed"]: row for row in rows if row["arm"] == arm}
            if found:
                sides = [(row["verdicts"]["before"][split], row["verdicts"]["after"][split]) for row in found.values()]
                cells = [cell(found[seed][split]) if seed in found else "" for seed in seeds]
                body.append([arm, split.replace("_", "-"), *cells, together(sides)])
    return markdown(["arm", "split", *(f"seed {seed}" for seed in seeds), "all seeds"], body)


def against(rows: list[dict[str, Any]], control: str) -> str:
    """Markdown: each arm against a control of the same seed on the same prompts, paired; empty where one is missing."""
    seeds = sorted({row["seed"] for row in rows})
    found = {(row["arm"], row["seed"]): row["verdicts"]["after"] for row in rows}
    body = []
    for arm in [arm for arm in ARMS if arm != control and any((arm, seed) in found for seed in seeds)]:
        for split in SPLITS:
            cells, sides = [], []
            for seed in seeds:
                if (arm, seed) in found and (control, seed) in found:
                    sides.append((found[control, seed][split], found[arm, seed][split]))
                    cells.append(together(sides[-1:]))
                else:
                    cells.append("")
            body.append([arm, split.replace("_", "-"), *cells, together(sides) if sides else ""])
    return markdown([f"arm minus {control}", "split", *(f"seed {seed}" for seed in seeds), "all seeds"], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--workers", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("overrides", nargs="*", help="overrides for all arms, such as train.steps=200")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.workers) as pool:
        parts = pool.map(lambda seed: run(seed, options.arms, options.overrides), options.seeds)
        rows = [row for part in parts for row in part]
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "results.json"
    known = json.loads(file.read_text()) if file.exists() else []
    done = {(row["arm"], row["seed"]) for row in rows}
    rows += [row for row in known if (row["arm"], row["seed"]) not in done]
    file.write_text(json.dumps(rows, indent=1))
    print(table(rows), "\n")
    print(against(rows, "uniform"))


if __name__ == "__main__":
    main()
