"""The monitor ``grounding``: are there regions to reward at all, and are they those that the model itself sees?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srum_plugins.contracts import ModelAdapter, Monitor, Watched
from srum_plugins.errors import ContractError
from srum_plugins.monitors.options import GroundingOptions
from srum_plugins.phrases import prompt_phrases
from srum_plugins.records import Box, Candidate, Failure, Grounding, Reading, Region


class GroundingMonitor(Monitor):
    """Reads the regions of the run's candidates once, before training: it does not change them."""

    def __init__(self, options: GroundingOptions) -> None:
        self._options = options

    def before(self, run: Watched, model: ModelAdapter) -> list[Reading]:
        """``empty``, ``boxes`` (the mean of a candidate), ``coverage`` (the mean share of an image that lies in a box),
        ``filtered`` and, with ``native`` candidates, ``disagreement``. Candidates that could not be grounded at all are
        left out."""
        o = self._options
        known = [(candidate, one) for candidate, one in run.candidates() if one.failure is None]
        if not known:
            return [Reading("empty", None, failure=Failure("nothing was grounded", "every candidate is in quarantine"))]
        kept = [[region for region in one.regions if not region.background] for _, one in known]
        empty = sum(not regions for regions in kept) / len(kept)
        covered = [
            coverage([region.box for region in regions], candidate.width, candidate.height)
            for (candidate, _), regions in zip(known, kept, strict=True)
        ]
        share = filtered([one for _, one in known])
        readings = [
            Reading("empty", empty, o.empty.of(empty), f"of {len(kept)} candidates"),
            Reading("boxes", sum(map(len, kept)) / len(kept)),
            Reading("coverage", math.fsum(covered) / len(covered)),
            Reading("filtered", share, o.filtered.of(share), "of all proposals"),
        ]
        if o.native:
            readings.append(self._disagreement(run, model, known))
        return readings

    def _disagreement(self, run: Watched, model: ModelAdapter, known: Sequence[tuple[Candidate, Grounding]]) -> Reading:
        count = min(self._options.native, len(known))
        chosen = [known[index * len(known) // count] for index in range(count)]
        items = run.located([candidate for candidate, _ in chosen])
        found = model.locate(
            [item.image for item in items], [prompt_phrases(item.prompt) or (item.prompt.text,) for item in items]
        )
        if len(found) != len(items):
            raise ContractError(f"{type(model).__name__}.locate gave {len(found)} lists for {len(items)} images")
        agreed = [
            agreement([region.box for region in one.regions], [r.box for r in native if isinstance(r, Region)])
            for (_, one), native in zip(chosen, found, strict=True)
        ]
        value = 1 - math.fsum(agreed) / len(agreed)
        return Reading("disagreement", value, self._options.disagreement.of(value), f"with the model on {count} images")


def filtered(groundings: Sequence[Grounding]) -> float:
    """The share, in [0, 1], of proposals that were dropped or kept as background; 0 if nothing was proposed."""
    out = sum(sum(one.dropped.values()) + sum(region.background for region in one.regions) for one in groundings)
    used = sum(not region.background for one in groundings for region in one.regions)
    return out / (out + used) if out + used else 0.0


def coverage(boxes: Sequence[Box], width: float, height: float) -> float:
    """The share, in [0, 1], of an image that lies in at least one of the boxes, exactly."""
    if not boxes:
        return 0.0
    xs = np.unique([side for box in boxes for side in (box.x0, box.x1)])
    ys = np.unique([side for box in boxes for side in (box.y0, box.y1)])
    inside = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    for box in boxes:
        inside[np.ix_((ys[:-1] >= box.y0) & (ys[1:] <= box.y1), (xs[:-1] >= box.x0) & (xs[1:] <= box.x1))] = True
    return min(float((inside * np.outer(np.diff(ys), np.diff(xs))).sum() / (width * height)), 1.0)


def agreement(boxes: Sequence[Box], others: Sequence[Box]) -> float:
    """The IoUs of the best one-to-one pairs, added up and divided by the larger number of boxes; 1 if there are none at
    all. In [0, 1], and the same both ways."""
    if not boxes or not others:
        return float(not boxes and not others)
    from scipy.optimize import linear_sum_assignment  # here, because it takes a second

    ious = np.array([[box.iou(other) for other in others] for box in boxes])
    return float(ious[linear_sum_assignment(ious, maximize=True)].sum() / max(ious.shape))
