"""How well the judge knows the oracle's verdict: python benchmarks/judge.py configs/demo.yaml [KEY=VALUE ...]

Reads the candidates and rewards of a finished run of the drawn world, and prints the share of right candidates, the
AUC of the reward's score, and how often the best and the worst candidate of a prompt are right.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from srum_shapes import oracle
from srum_shapes.prompts import parse

from srum_plugins.config import load
from srum_plugins.host import PluginHost
from srum_plugins.stages import generate, reward
from srum_plugins.stages.session import Session


def main() -> None:
    host = PluginHost.load()
    session = Session(load(Path(sys.argv[1]), sys.argv[2:], host), host)
    rewarded = [
        (item, given)
        for item, given in zip(reward.read_judged(session), reward.read_rewards(session), strict=True)
        if given is not None
    ]
    shown = generate.locate(session, generate.saved(session), [item.candidate for item, _ in rewarded])
    right = np.array(
        [oracle.score(parse(each.prompt.text), np.asarray(each.image.convert("RGB")))["full"] for each in shown]
    )
    scores = np.array([given.score for _, given in rewarded])
    by_prompt: dict[str, list[int]] = {}
    for index, (item, _) in enumerate(rewarded):
        by_prompt.setdefault(item.prompt.id, []).append(index)
    good = int(right.sum())
    auc = (rankdata(scores)[right == 1].sum() - good * (good + 1) / 2) / (good * (len(right) - good))
    best, worst = (
        np.mean([right[pick(of, key=lambda i: scores[i])] for of in by_prompt.values()]) for pick in (max, min)
    )
    print(f"{len(right)} candidates of {len(by_prompt)} prompts: {right.mean():.3f} right, AUC of the score {auc:.3f}")
    print(f"right of a prompt's best candidates {best:.3f}, of its worst {worst:.3f}")


if __name__ == "__main__":
    main()
