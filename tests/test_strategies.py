"""What the public hypothesis strategies promise."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.contracts import Judged
from srum_plugins.records import Score, from_json, to_json
from srum_plugins.testing import strategies


@given(strategies.images(most=9))
def test_images_are_rgb_and_no_larger_than_asked(image: Image.Image) -> None:
    assert image.mode == "RGB" and min(image.size) >= 1 and max(image.size) <= 9


@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.data())
def test_boxes_lie_inside(width: int, height: int, whole: bool, data: st.DataObject) -> None:
    box = data.draw(strategies.boxes(width, height, whole))
    assert box.inside(width, height)
    assert not whole or all(float(side).is_integer() for side in (box.x0, box.y0, box.x1, box.y1))


@given(strategies.judged())
def test_what_is_judged_fits_together(item: Judged) -> None:
    candidate, grounding, judgement = item.candidate, item.grounding, item.judgement
    assert candidate.prompt_id == item.prompt.id
    assert candidate.id == grounding.candidate_id == judgement.candidate_id
    assert all(region.box.inside(candidate.width, candidate.height) for region in grounding.regions)
    assert len(judgement.local) == len(grounding.regions)
    assert not isinstance(judgement.alpha, Score) or 0 <= judgement.alpha.value <= 1
    for record in (item.prompt, candidate, grounding, judgement):
        assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record
