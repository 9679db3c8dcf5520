"""Regions that are background: kept on disk, and shown to neither judges nor aggregators."""

from __future__ import annotations

from dataclasses import replace

from srum_plugins.records import BACKGROUND, Grounding, Judgement


def foreground(grounding: Grounding) -> Grounding:
    """The grounding without its background."""
    return replace(grounding, regions=tuple(region for region in grounding.regions if not region.background))


def with_background(judgement: Judgement, grounding: Grounding) -> Judgement:
    """A judgement of the foreground as one of the whole grounding."""
    scores = iter(judgement.local)
    return replace(
        judgement, local=tuple(BACKGROUND if region.background else next(scores) for region in grounding.regions)
    )


def without_background(judgement: Judgement, grounding: Grounding) -> Judgement:
    """A judgement of the whole grounding as one of its foreground: the inverse of :func:`with_background`."""
    pairs = zip(judgement.local, grounding.regions, strict=True)
    return replace(judgement, local=tuple(score for score, region in pairs if not region.background))
