from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from srum_shapes import oracle
from srum_shapes.prompts import Facts, corrupt, parse, sample_facts
from srum_shapes.world import (
    BACKGROUND,
    PALETTE,
    SHAPES,
    SIDE,
    Scene,
    SceneObject,
    render,
    sample_scene,
    scene_for,
    template,
)

from srum_plugins.errors import ContractError
from srum_plugins.records import Box


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Facts, Scene, np.ndarray]]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(1000):
        facts = sample_facts(rng)
        scene = scene_for(facts, rng)
        found.append((facts, scene, render(scene, rng)))
    return found


def as_set(objects: list[SceneObject]) -> set[SceneObject]:
    return set(objects)


def test_clean_renders_are_read_exactly(drawn):
    for _, scene, picture in drawn:
        assert as_set(oracle.read(picture)) == as_set(scene.objects)
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_scene(rng)
        assert oracle.inspect(render(scene, rng)).unreadable == 0
        assert as_set(oracle.read(render(scene, rng))) == as_set(scene.objects)


def test_strong_noise_and_soft_edges_change_no_verdict(drawn):
    rng = np.random.default_rng(4)
    for facts, _, picture in drawn:
        noisy = np.clip(np.rint(picture + rng.normal(0, 25, picture.shape)), 0, 255).astype(np.uint8)
        assert oracle.score(facts, noisy) == {"full": 1.0, "graded": 1.0}
        soft = ndimage.gaussian_filter(picture.astype(float), (0.5, 0.5, 0)).astype(np.uint8)
        assert oracle.score(facts, soft) == {"full": 1.0, "graded": 1.0}


@pytest.mark.parametrize("offset", [(0.5, 0.0), (0.0, 0.25), (0.5, 0.5), (0.75, 0.25)])
def test_a_picture_moved_by_part_of_a_pixel_reads_the_same(drawn, offset):
    for facts, scene, picture in drawn[:200]:
        moved = ndimage.shift(picture.astype(float), (*offset, 0), order=1, mode="nearest").astype(np.uint8)
        found = oracle.read(moved)
        assert sorted(item.phrase for item in found) == sorted(item.phrase for item in scene.objects)
        assert oracle.score(facts, moved)["full"] == 1.0


def test_swapped_attributes_and_other_corruptions_are_never_accepted(drawn):
    rng = np.random.default_rng(5)
    for facts, _, picture in drawn:
        found = oracle.score(corrupt(facts, rng), picture)
        assert found["full"] == 0.0 and found["graded"] < 1.0


def canvas() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), BACKGROUND, dtype=np.uint8)


def test_half_and_half_shapes_are_refused():
    accepted = []
    for a, b in permutations(SHAPES, 2):
        for size in range(8, 12):
            for flip in (False, True):
                mask = template(a, size, size).copy()
                half = (slice(None), slice(size // 2, None)) if flip else slice(size // 2, None)
                mask[half] = template(b, size, size)[half]
                picture = canvas()
                picture[5 : 5 + size, 7 : 7 + size][mask] = PALETTE["green"]
                accepted.append(len(oracle.read(picture)))
    assert np.mean(accepted) < 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flip", [False, True])
def test_shapes_of_two_colours_are_refused(shape, flip):
    picture = canvas()
    mask = template(shape, 10, 10)
    patch = picture[5:15, 7:17]
    patch[mask] = PALETTE["red"]
    half = (slice(None), slice(5, None)) if flip else slice(5, None)
    patch[half][mask[half]] = PALETTE["blue"]
    reading = oracle.inspect(picture)
    assert reading.objects == () and reading.unreadable == 2


def test_an_unreadable_object_spoils_the_count_only():
    picture = canvas()
    picture[4:12, 4:12] = PALETTE["red"]
    picture[20:24, 4:30] = PALETTE["blue"]
    assert oracle.score(parse("a red square"), picture) == {"full": 0.0, "graded": 0.5}


def test_specks_are_noise():
    picture = canvas()
    picture[4:12, 4:12] = PALETTE["red"]
    picture[20:22, 20:22] = PALETTE["blue"]
    assert oracle.score(parse("a red square"), picture) == {"full": 1.0, "graded": 1.0}


@pytest.mark.parametrize(
    ("text", "full", "graded"),
    [
        ("a red square left of a blue square", 1.0, 1.0),
        ("a red square right of a blue square", 0.0, 0.75),
        ("a red square above a blue square", 0.0, 0.75),
        ("a red square and a blue square", 1.0, 1.0),
        ("a red square", 0.0, 0.5),
        ("two red squares", 0.0, 0.5),
        ("a green square left of a blue square", 0.0, 0.5),
    ],
)
def test_scores_by_hand(text, full, graded):
    scene = Scene((SceneObject("square", "red", Box(3, 6, 11, 14)), SceneObject("square", "blue", Box(19, 9, 28, 18))))
    assert oracle.score(parse(text), render(scene, np.random.default_rng(0))) == {"full": full, "graded": graded}


def test_an_empty_picture_shows_nothing():
    assert oracle.inspect(canvas()) == oracle.Reading((), 0)


@pytest.mark.parametrize("picture", [np.zeros((16, 16, 3), np.uint8), np.zeros((SIDE, SIDE, 3), np.float32)])
def test_other_pictures_are_refused(picture):
    with pytest.raises(ContractError, match="uint8 pictures"):
        oracle.inspect(picture)
