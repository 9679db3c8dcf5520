"""A judge that can be cheated: it rewards one colour, whatever the prompt asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from srum_plugins import hookimpl
from srum_plugins.contracts import Judge, Located, ModelAdapter
from srum_plugins.providers import Provider
from srum_plugins.records import Grounding, Judgement, Score


def redness(image: Image.Image) -> float:
    """The share, in [0, 1], of pixels whose red lies at least 60 levels above green and blue."""
    red, green, blue = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
    return float(((red - green > 60) & (red - blue > 60)).mean())


class RedJudge(Judge):
    """alpha is four times the share of red, at most 1."""

    def judge(
        self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
    ) -> list[Judgement]:
        return [
            Judgement(
                grounding.candidate_id,
                Score(min(4 * redness(item.image), 1.0), "red"),
                tuple(Score(0.0) for _ in grounding.regions),
            )
            for item, grounding in zip(items, groundings, strict=True)
        ]


@hookimpl
def srum_judges() -> list[Provider]:
    return [Provider("red", "likes red", lambda options: RedJudge())]
