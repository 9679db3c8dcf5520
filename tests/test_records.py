"""Records as JSON: nothing is lost, and what does not fit is named with its place."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.errors import ContractError
from srum_plugins.records import (
    Box,
    Candidate,
    Failure,
    Grounding,
    Judgement,
    Mask,
    Region,
    Score,
    from_json,
    to_json,
)
from srum_plugins.stages.evaluate import Drawn, Measured, Understanding
from srum_plugins.testing.strategies import failures, names, prompts, scores, shares, texts

counts = st.dictionaries(texts, st.integers(0, 9), max_size=3)
sides = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
boxes = st.tuples(sides, sides, sides, sides).filter(lambda box: box[0] < box[2] and box[1] < box[3])
masks = st.lists(st.integers(0, 5), max_size=6).map(lambda runs: Mask(sum(runs), 1, tuple(runs)))
regions = st.builds(
    Region, boxes.map(lambda box: Box(*box)), texts, st.none() | shares, st.none() | masks, names, st.booleans()
)

records = st.one_of(
    prompts,
    st.builds(Candidate, texts, texts, st.integers(), st.integers(), texts, st.integers(), st.integers()),
    st.builds(Grounding, texts, st.lists(regions, max_size=3).map(tuple), counts),
    st.builds(Judgement, texts, scores(0), st.lists(scores(-1), max_size=3).map(tuple), names, st.none() | st.just(3)),
    st.builds(Drawn, texts, st.integers(), texts, st.integers(), st.integers(), st.none() | texts),
    st.builds(
        Measured,
        texts,
        texts,
        texts,
        st.integers(),
        st.dictionaries(texts, shares, max_size=3),
        st.dictionaries(texts, failures, max_size=2),
        names,
        st.none() | st.just(3),
    ),
    st.builds(Understanding, st.none() | texts, st.none() | st.dictionaries(texts, shares, max_size=3), counts),
)


@given(records)
def test_a_record_survives_json(record: Any) -> None:
    assert from_json(type(record), json.loads(json.dumps(to_json(record), allow_nan=False))) == record


@given(records, st.data())
def test_a_missing_and_an_unknown_field_are_named(record: Any, data: st.DataObject) -> None:
    whole = to_json(record)
    name = data.draw(st.sampled_from(sorted(whole)))
    part = {key: value for key, value in whole.items() if key != name}
    kind = type(record).__name__
    with pytest.raises(ContractError, match=rf"^{kind}: unknown field\(s\) {name}2$"):
        from_json(type(record), {**part, f"{name}2": whole[name]})
    try:
        again = to_json(from_json(type(record), part))
    except ContractError as error:
        assert str(error) == f"{kind}: missing field(s) {name}"
    else:  # it has a default
        assert {**again, name: whole[name]} == whole


def places(data: Any, path: str = "") -> list[str]:
    """The paths of all values in JSON data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    steps = [(f".{key}" if isinstance(data, dict) else f"[{key}]", value) for key, value in inner]
    return [path, *(found for step, value in steps for found in places(value, path + step))]


REGION = to_json(Region(Box(0, 1.5, 2, 3), "a", 0.5, Mask(2, 1, (1, 1)), ("clamped",)))
GROUNDING = {"candidate_id": "c", "regions": [REGION, REGION], "dropped": {"far": 1}}
JUDGEMENT = to_json(Judgement("c", Score(0.5), (Score(-1.0), Failure("refused")), ("yes",), 3))


def replaced(data: Any, path: str, value: Any, at: str = "") -> Any:
    """The same data with another value at a path."""
    if at == path:
        return value
    if isinstance(data, dict):
        return {key: replaced(inner, path, value, f"{at}.{key}") for key, inner in data.items()}
    if isinstance(data, list):
        return [replaced(inner, path, value, f"{at}[{index}]") for index, inner in enumerate(data)]
    return data


@pytest.mark.parametrize(("kind", "data"), [(Grounding, GROUNDING), (Judgement, JUDGEMENT)])
def test_what_does_not_fit_is_named_with_its_place(kind: type, data: Any) -> None:
    for path in places(data):
        with pytest.raises(ContractError) as caught:
            from_json(kind, replaced(data, path, [{}]))  # a list of an empty object fits nowhere
        where = f"{kind.__name__}{path.removesuffix('.type')}"
        assert str(caught.value).startswith((f"{where}: ", f"{where}[0]: "))


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (Grounding, [], "Grounding: expected an object, got list"),
        (Grounding, {**GROUNDING, "regions": {}}, "Grounding.regions: expected a list, got dict"),
        (Grounding, {**GROUNDING, "dropped": {"far": True}}, "Grounding.dropped.far: expected int, got True"),
        (Judgement, {**JUDGEMENT, "alpha": {"type": "Box"}}, "Judgement.alpha: unknown record type 'Box'"),
        (Judgement, {**JUDGEMENT, "tokens": "3"}, "Judgement.tokens: expected int, got '3'"),
        (Box, {"x0": 2, "y0": 0, "x1": 1, "y1": 1}, "a box needs x0 < x1 and y0 < y1, got (2.0, 0.0, 1.0, 1.0)"),
        (Box, {"x0": 0, "y0": 0, "x1": math.inf, "y1": 1}, "a box needs finite sides, got (0.0, 0.0, inf, 1.0)"),
    ],
)
def test_refusals_in_words(kind: type, data: Any, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        from_json(kind, data)
    assert str(caught.value) == words
