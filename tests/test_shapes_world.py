import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from srum_shapes.prompts import PRETRAINING_WEIGHTS, all_facts, sample_facts
from srum_shapes.world import (
    BACKGROUND,
    GAP,
    MARGIN,
    OPPOSITE,
    PALETTE,
    RELATIONS,
    SHAPES,
    SIDE,
    Scene,
    SceneObject,
    holds,
    offset,
    relation,
    render,
    sample_scene,
    scene_for,
    template,
)

from srum_plugins.errors import ContractError
from srum_plugins.records import Box

seeds = st.integers(0, 2**32 - 1)
boxes = st.builds(lambda x, y, n: Box(x, y, x + n, y + n), st.integers(0, 20), st.integers(0, 20), st.integers(8, 11))


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_well_formed(scene: Scene) -> None:
    for index, item in enumerate(scene.objects):
        box = item.box
        assert Box(MARGIN, MARGIN, SIDE - MARGIN, SIDE - MARGIN).iou(box) > 0
        assert min(box.x0, box.y0) >= MARGIN and max(box.x1, box.y1) <= SIDE - MARGIN
        assert 8 <= box.x1 - box.x0 == box.y1 - box.y0 <= 11
        for other in scene.objects[:index]:
            apart = (box.x0 - other.box.x1, other.box.x0 - box.x1, box.y0 - other.box.y1, other.box.y0 - box.y1)
            assert max(apart) >= GAP


@given(seeds, st.sampled_from([1, 2, 3, 4, None]))
def test_random_scenes_are_well_formed(seed, count):
    scene = sample_scene(rng_of(seed), count)
    assert_well_formed(scene)
    assert len(scene.objects) == count or count is None


@given(seeds)
def test_a_scene_for_facts_shows_exactly_these(seed):
    rng = rng_of(seed)
    facts = sample_facts(rng)
    scene = scene_for(facts, rng)
    assert_well_formed(scene)
    assert scene.counts() == facts.counts
    if facts.relation is not None:
        first, second = (next(i.box for i in scene.objects if i.pair == group.pair) for group in facts.groups[:2])
        assert holds(first, facts.relation, second, least=6.0, ratio=1.5)


@given(boxes, boxes)
def test_relations_mirror_each_other_and_exclude_each_other(a, b):
    for word in RELATIONS:
        assert holds(a, word, b) == holds(b, OPPOSITE[word], a)
        assert offset(a, b, word)[0] == -offset(a, b, OPPOSITE[word])[0]
    assert sum(holds(a, word, b, ratio=1.01) for word in RELATIONS) <= 1
    clear = relation(a, b)
    assert clear is None or holds(a, clear, b)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", range(8, 12))
def test_shapes_fill_their_box_and_are_symmetric(shape, size):
    pixels = template(shape, size, size)
    assert pixels[0].any() and pixels[-1].any() and pixels[:, 0].any() and pixels[:, -1].any()
    assert (pixels == pixels[:, ::-1]).all()
    assert shape == "triangle" or (pixels == pixels[::-1]).all()


def test_a_render_has_the_palette_up_to_noise():
    scene = Scene((SceneObject("square", "blue", Box(4, 6, 12, 14)),))
    picture = render(scene, rng_of(0)).astype(int)
    assert picture.shape == (SIDE, SIDE, 3)
    assert abs(picture[6:14, 4:12] - PALETTE["blue"]).max() < 20
    assert abs(picture[:6] - BACKGROUND).max() < 20
    assert picture[:6].std() > 1


def test_the_same_generator_state_gives_the_same_picture():
    first, second = (render(sample_scene(rng_of(7)), rng_of(8)) for _ in range(2))
    assert (first == second).all()
    assert (render(sample_scene(rng_of(7)), rng_of(9)) != first).any()


def test_unknown_shapes_and_counts_are_refused():
    with pytest.raises(ContractError, match="unknown shape 'star'"):
        template("star", 8, 8)
    with pytest.raises(ContractError, match="1 to 4 objects, not 5"):
        sample_scene(rng_of(0), 5)


def test_every_category_of_pretraining_exists():
    assert all(all_facts(category) for category in PRETRAINING_WEIGHTS)
