"""Speed of the way from judgements to token weights: OMP_NUM_THREADS=1 python benchmarks/aggregate.py

Writes candidates, boxes and judgements of images of 1024 x 1024 pixels into a run directory, as the stages before
would, but for the images. Then times what the stage `reward` and the training after it do with them: read all records,
aggregate, write the rewards, read them back, and bring each map to the token grid. The picture is left out.

Prints a table and writes a JSON file: seconds of each part by the clock, and of the processor, all threads together.
The digests of the rewards and of the weights tell whether a faster program still computes the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from measure import name_of
from torch import Tensor, device

from srum_plugins.config import load
from srum_plugins.host import PluginHost
from srum_plugins.records import Box, Candidate, Grounding, Judgement, Region, Score
from srum_plugins.runs.shards import Shards
from srum_plugins.stages import generate, ground, judge, reward
from srum_plugins.stages.session import Session

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
SIDE = 1024
"""Of an image, in pixels."""
EACH = 4
"""Candidates of a prompt."""
T = TypeVar("T")


def session(folder: Path, prompts: int, aggregator: str) -> Session:
    host = PluginHost.load()
    settings = {
        "run.directory": folder,
        "prompts.count": prompts,
        "generate.candidates": EACH,
        "aggregator": aggregator,
    }
    return Session(load(CONFIG, [f"{key}={value}" for key, value in settings.items()], host), host)


def fill(run: Session, regions: int) -> None:
    """Write what the stages before `reward` would: random boxes and scores, and answers as `choice` keeps them."""
    rng = np.random.default_rng(0)
    candidates, groundings, judgements = [], [], []
    for prompt in run.prompts:
        for index in range(EACH):
            name = f"{prompt.id}-{index}"
            phrases = [prompt.phrases[number % len(prompt.phrases)] for number in range(regions)]
            sides = np.sort(rng.uniform(0, SIDE, (regions, 2, 2)), axis=1).reshape(regions, 4).tolist()
            scores = rng.uniform(-1, 1, regions).tolist()
            places = [Region(Box(*box), phrase) for box, phrase in zip(sides, phrases, strict=True)]
            local = [Score(score, phrase) for score, phrase in zip(scores, phrases, strict=True)]
            raw = [f"is this {phrase} ? yes {score:.4f}" for score, phrase in zip(scores, phrases, strict=True)]
            whole = Score(float(rng.uniform()), f"p = 0.500: {prompt.checks[0].question}")
            candidates.append(Candidate(name, prompt.id, index, index, "", SIDE, SIDE))
            groundings.append(Grounding(name, tuple(places)))
            judgements.append(Judgement(name, whole, tuple(local), tuple(raw), 0, "0" * 64, "choice", "0.1.0"))
    written: list[tuple[Shards[Any], list[Any]]] = [
        (generate.shards(run, run.directory(generate.STAGE)), candidates),
        (ground.shards(run, run.directory(ground.STAGE)), groundings),
        (judge.shards(run, run.directory(judge.STAGE)), judgements),
    ]
    for shards, records in written:
        for index in range(len(shards)):
            shards.write(index, [records[item] for item in shards.items(index)])


def measured(run: Session, grid: int) -> dict[str, Any]:
    """Seconds by part, and the digests."""
    found: dict[str, Any] = {}

    def part(name: str, work: Callable[[], T]) -> T:
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        found[name] = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        return result

    shards = reward.shards(run, run.directory(reward.STAGE))
    items = part("read_judged", lambda: reward.read_judged(run))
    records = part("aggregate", lambda: reward.aggregated(run, items))
    part("write_rewards", lambda: shards.write(0, records))
    rewards = part("read_rewards", lambda: reward.read_rewards(run))
    weights: list[Tensor] = part(
        "tokens", lambda: [one.map.tokens(grid, grid).flatten() for one in rewards if one is not None]
    )
    total = {kind: sum(one[kind] for one in found.values()) for kind in ("seconds", "processor_seconds")}
    digest = hashlib.sha256()
    for one in weights:
        digest.update(one.numpy().tobytes())
    return {
        "parts": {**found, "total": total},
        "candidates": len(items),
        "rewards_sha256": hashlib.sha256(shards.part(0).read_bytes()).hexdigest(),
        "tokens_sha256": digest.hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6250, help=f"with {EACH} candidates each")
    parser.add_argument("--regions", type=int, default=5, help="of a candidate")
    parser.add_argument("--grid", type=int, default=64, help="tokens along a side")
    parser.add_argument("--aggregator", default="srum")
    parser.add_argument("--output", type=Path, default=Path("runs/aggregate.json"), help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = session(Path(folder), options.prompts, options.aggregator)
        fill(run, options.regions)
        found = measured(run, options.grid)
    about = {
        "device": name_of(device("cpu")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "regions": options.regions,
        "grid": options.grid,
        "aggregator": options.aggregator,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(f"{json.dumps(about | found, indent=1)}\n")
    print(f"{found['candidates']} candidates with {options.regions} regions: seconds, of the processor in brackets")
    for name, one in found["parts"].items():
        print(f"{name:<16} {one['seconds']:>8.2f} ({one['processor_seconds']:.2f})")


if __name__ == "__main__":
    main()
