"""The grounder ``sam``, with the shipped tiny SAM on held-out scenes of the drawn world."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sam_torchvision
import torch
from fakes import Site, make_site
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator
from srum_sam import environment, plugin
from srum_sam.environment import check, check_packages
from srum_sam.grounder import SamGrounder
from srum_sam.loading import build, load, mask_generator
from srum_sam.measure import held_out, matched, measure, read_by_oracle
from srum_sam.options import RELEASED, SHIPPED, TINY, SamOptions
from srum_sam.pictures import object_masks
from srum_sam.selection import Thing, select, without_specks
from srum_shapes.world import Scene, render, sample_scene

from srum_plugins.contracts import Located
from srum_plugins.errors import CheckpointError, ConfigError, PluginError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Grounding, Prompt
from srum_plugins.rewards.maps import mask_array

ROOT = Path(__file__).parent.parent
DEMO, DOCS = ROOT / "configs" / "demo.yaml", ROOT / "docs" / "sam.md"


def located(image: Image.Image, name: str = "c") -> Located:
    return Located(Prompt("p", "a red circle"), Candidate(name, "p", 0, 0, f"{name}.png", *image.size), image)


def ground(image: Image.Image, **settings: Any) -> Grounding:
    (grounding,) = SamGrounder(SamOptions(**settings)).ground([located(image)], None)
    return grounding


@pytest.fixture(scope="module")
def grounder() -> SamGrounder:
    return SamGrounder(SamOptions(masks=True))


def scene_and_picture(seed: int, count: int | None = None):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, count)
    return scene, Image.fromarray(render(scene, rng))


# --- the shipped tiny SAM ---------------------------------------------------------------------------------------------
def test_its_boxes_fit_the_objects_of_held_out_scenes() -> None:
    """The bar is 0.7; the model card has the exact figures."""
    figures = measure(SamOptions(), held_out(30))
    assert figures["mean_iou"] >= 0.7, figures
    assert figures["needless_boxes_per_picture"] <= 0.5, figures


def test_masks_are_those_of_the_objects_and_lie_in_their_boxes() -> None:
    fits = []
    for seed in range(8):
        scene, picture = scene_and_picture(seed)
        regions = ground(picture, masks=True).regions
        masks = [mask_array(region.mask) for region in regions if region.mask is not None]
        assert len(masks) == len(regions)
        for mask, region in zip(masks, regions, strict=True):
            rows, columns = np.nonzero(mask)
            assert region.box == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        for true in object_masks(scene):
            fits.append(max(((true & mask).sum() / (true | mask).sum() for mask in masks), default=0.0))
    assert np.mean(fits) >= 0.7, fits


def test_regions_have_no_phrase_and_the_predicted_iou_as_their_score() -> None:
    for seed in range(4):
        regions = ground(scene_and_picture(seed, 3)[1]).regions
        assert regions
        for region in regions:
            assert region.phrase == "" and region.mask is None
            assert region.score is not None and 0.8 < region.score <= 1.0


def test_a_picture_has_the_same_regions_whenever_and_whatever_it_comes_with() -> None:
    pictures = [scene_and_picture(seed)[1] for seed in range(3)]
    grounder = SamGrounder(SamOptions(masks=True))
    together = grounder.ground([located(picture, str(i)) for i, picture in enumerate(pictures)], None)
    assert [grounding.candidate_id for grounding in together] == ["0", "1", "2"]
    for picture, grounding in zip(pictures, together, strict=True):
        assert ground(picture, masks=True).regions == grounding.regions


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_of_nothing_has_no_regions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert ground(Image.fromarray(render(Scene(()), rng))).regions == ()


def test_finding_nothing_in_any_crop_is_no_failure() -> None:
    """As it is in segment-anything itself. An untrained SAM finds nothing."""
    torch.manual_seed(0)
    untrained, picture = build("tiny").eval(), np.asarray(scene_and_picture(0)[1])
    settings = {"points_per_side": 2, "crop_n_layers": 1}
    assert mask_generator(untrained, settings).generate(picture) == []
    with pytest.raises(IndexError):
        SamAutomaticMaskGenerator(untrained, **settings).generate(picture)


@settings(max_examples=15)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 99))
def test_boxes_lie_inside_pictures_of_any_size(grounder: SamGrounder, width: int, height: int, seed: int) -> None:
    picture = scene_and_picture(seed)[1].resize((width, height))
    (grounding,) = grounder.ground([located(picture)], None)
    for region in grounding.regions:
        assert region.box.inside(width, height)
        assert region.mask is not None and (region.mask.width, region.mask.height) == (width, height)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_pictures_of_other_modes_are_read_as_rgb(mode: str) -> None:
    picture = scene_and_picture(1)[1].quantize(16).convert(mode)
    assert ground(picture).regions == ground(picture.convert("RGB")).regions != ()


def test_limits_and_order_of_regions() -> None:
    scene, picture = scene_and_picture(5, 4)
    everything = ground(picture)
    assert len(everything.regions) == len(scene.objects) == 4
    areas = [region.box.area for region in everything.regions]
    assert areas == sorted(areas, reverse=True)
    first = ground(picture, max_regions=1)
    assert first.regions == everything.regions[:1]
    assert first.dropped == {**everything.dropped, "surplus": 3}
    by_score = ground(picture, order="score").regions
    assert set(by_score) == set(everything.regions)
    scores = [region.score or 0.0 for region in by_score]
    assert scores == sorted(scores, reverse=True)
    small = ground(picture, max_area=0.004, min_area=0.0)
    assert small.regions == ()
    assert small.dropped["large"] == 4 + sum(everything.dropped.values()) - everything.dropped.get("small", 0)


# --- which things become regions --------------------------------------------------------------------------------------
def thing(x0: int, y0: int, x1: int, y1: int, score: float = 0.9, hole: bool = False) -> Thing:
    mask = np.zeros((20, 30), dtype=bool)
    mask[y0:y1, x0:x1] = True
    if hole:
        mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = False
    return Thing(mask, score)


@st.composite
def things(draw: st.DrawFn) -> Thing:
    x0, y0 = draw(st.integers(0, 29)), draw(st.integers(0, 19))
    x1, y1 = draw(st.integers(x0 + 1, 30)), draw(st.integers(y0 + 1, 20))
    return thing(
        x0, y0, x1, y1, draw(st.sampled_from([0.0, 0.5, 0.7, 1.0])), draw(st.booleans()) and x1 - x0 > 2 < y1 - y0
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_specks_are_holes_and_islands_below_the_limit(seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) < rng.uniform(0.2, 0.8)
    mask[rng.integers(9), rng.integers(11)] = True
    clean = without_specks(mask, least)
    assert clean.any()
    islands, count = ndimage.label(clean, np.ones((3, 3)))
    sizes = np.bincount(islands.ravel())[1:]
    assert count == 1 or sizes.min() >= least
    holes, _ = ndimage.label(~mask, np.ones((3, 3)))
    large = np.bincount(holes.ravel()) >= least
    assert not clean[large[holes] & ~mask].any()  # what was no speck outside the mask stays outside
    assert (without_specks(clean, least) == clean).all() or count > 1


def test_a_hole_is_filled_and_an_island_goes() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[1:6, 1:6] = True
    expected = mask.copy()
    mask[3, 3] = False
    mask[7, 6:8] = True
    assert (without_specks(mask, 3) == expected).all()
    assert (without_specks(mask, 1) == mask).all()
    assert (without_specks(mask[6:], 9) == mask[6:]).all()  # of small islands the largest stays


option_sets = st.builds(
    SamOptions,
    min_area=st.floats(0.0, 0.3),
    max_area=st.floats(0.31, 1.0),
    duplicates=st.floats(0.0, 1.0),
    max_regions=st.integers(1, 5),
    order=st.sampled_from(["area", "score"]),
    masks=st.booleans(),
)


@given(st.lists(things(), max_size=9), option_sets)
def test_what_is_selected_keeps_the_limits_and_everything_else_is_counted(
    found: list[Thing], options: SamOptions
) -> None:
    kept, dropped = select(found, options)
    assert len(kept) <= options.max_regions
    assert len(kept) + sum(dropped.values()) == len(found) and all(dropped.values())
    for index, one in enumerate(kept):
        covered = one.mask.sum() if options.masks else one.box.area
        assert options.min_area <= covered / 600 <= options.max_area
        for other in kept[:index]:
            if options.masks:
                iou = (one.mask & other.mask).sum() / (one.mask | other.mask).sum()
            else:
                iou = one.box.iou(other.box)
            assert iou <= options.duplicates
    ranks = [one.score if options.order == "score" else one.area(options.masks) for one in kept]
    assert ranks == sorted(ranks, reverse=True)
    if kept and not dropped.get("surplus"):
        best = max(
            (one for one in found if options.min_area <= one.area(options.masks) / 600 <= options.max_area),
            key=lambda one: one.score,
        )
        assert best in kept


def test_areas_and_overlaps_are_those_of_what_the_reward_follows() -> None:
    frame, inside = thing(5, 5, 15, 15, hole=True), thing(6, 6, 14, 14, 0.8)
    assert frame.box == Box(5, 5, 15, 15) and frame.pixels == 36
    assert frame.area(masks=False) == 100 and frame.area(masks=True) == 36
    assert frame.iou(inside, masks=False) == 0.64 and frame.iou(inside, masks=True) == 0.0
    assert select([frame, inside], SamOptions(duplicates=0.6)) == ([frame], {"duplicate": 1})
    assert select([frame, inside], SamOptions(duplicates=0.6, masks=True)) == ([inside, frame], {})
    assert select([frame, inside], SamOptions(duplicates=0.6, masks=True, min_area=0.07)) == ([inside], {"small": 1})
    assert select([frame, inside], SamOptions(duplicates=0.6, max_area=0.15)) == ([inside], {"large": 1})


boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.integers(0, 20)] * 2, *[st.integers(1, 9)] * 2)


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=4))
def test_found_boxes_are_paired_with_one_true_box_each(found: list[Box], true: list[Box]) -> None:
    ious = matched(found, true)
    assert len(ious) == len(true)
    assert sum(iou > 0 for iou in ious) <= len(found)
    for iou, box in zip(ious, true, strict=True):
        assert iou == 0.0 or iou in [box.iou(other) for other in found]
    assert matched(true, true) == [1.0] * len(true)


# --- checkpoints ------------------------------------------------------------------------------------------------------
def test_a_pickled_checkpoint_gives_the_same_regions(tmp_path: Path) -> None:
    torch.save(load_file(SHIPPED), tmp_path / "tiny.pth")
    picture = scene_and_picture(2)[1]
    assert ground(picture, checkpoint=str(tmp_path / "tiny.pth")) == ground(picture)


@pytest.mark.parametrize(
    ("model", "millions"), [("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1)]
)  # of the released models
def test_the_released_sizes(model: Any, millions: float) -> None:
    with torch.device("meta"):
        sam = build(model)
    assert sum(parameter.numel() for parameter in sam.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_files_that_are_no_checkpoint_of_the_model_are_refused(tmp_path: Path) -> None:
    weights = load_file(SHIPPED)
    torch.save({"model": weights, "step": 3}, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=r"state\.pth holds something else than a SAM's tensors"):
        load("tiny", tmp_path / "state.pth", "cpu")
    weights["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    torch.save(weights, tmp_path / "larger.pth")
    with pytest.raises(CheckpointError, match=r"iou_token.weight has shape \(1, 256\), expected \(1, 96\)"):
        load("tiny", tmp_path / "larger.pth", "cpu")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "larger.pth").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot read weights from .*cut\.pth"):
        load("tiny", tmp_path / "cut.pth", "cpu")
    (tmp_path / "cut.safetensors").write_bytes(SHIPPED.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot read weights from .*cut\.safetensors"):
        load("tiny", tmp_path / "cut.safetensors", "cpu")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Bomb.place),)

    place = Path()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    Bomb.place = tmp_path / "went-off"
    torch.save({"weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load("tiny", tmp_path / "bomb.pth", "cpu")
    assert not Bomb.place.exists()


def test_the_identity_is_that_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (provider,) = plugin.srum_grounders()
    copy = tmp_path / "copy.safetensors"
    options = SamOptions(checkpoint=str(copy))
    assert provider.identity(options) == "no weights"
    copy.write_bytes(SHIPPED.read_bytes())
    assert provider.identity(options) == provider.identity(SamOptions())
    monkeypatch.setattr(plugin, "HASHED", 10)
    by_date = provider.identity(options)
    os.utime(copy, ns=(1, 1))
    assert by_date != provider.identity(options) != provider.identity(SamOptions())


# --- what is refused, and when ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "vit_h"}, "checkpoint must name the file of vit_h's weights"),
        ({"points_per_side": 0}, "points_per_side must be at least 1"),
        ({"points_per_batch": 0}, "points_per_batch must be at least 1"),
        ({"crop_n_layers": -1}, "crop_n_layers must be at least 0"),
        ({"crop_n_layers": 2, "crop_n_points_downscale_factor": 4}, "leaves no point of 8 a side in layer 2"),
        ({"min_mask_region_area": -1}, "min_mask_region_area must be at least 0"),
        ({"max_regions": 0}, "max_regions must be at least 1"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh must lie in"),
        ({"duplicates": -0.1}, "duplicates must lie in"),
        ({"stability_score_offset": 0.0}, "stability_score_offset must be positive"),
        ({"min_area": 0.5}, "min_area and max_area must lie in"),
        ({"max_area": 1.1}, "min_area and max_area must lie in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SamOptions(**given)


def test_settings_of_the_generator_are_its_own_unless_given() -> None:
    released = SamOptions(model="vit_h", checkpoint="sam_vit_h_4b8939.pth", points_per_side=16).generator
    assert released["points_per_side"] == 16 and released["pred_iou_thresh"] == 0.88
    assert SamOptions().generator["points_per_side"] == 8


def test_every_option_is_documented_with_its_default() -> None:
    table = re.findall(r"^\| (`.*?`) \| (.*?) \|", DOCS.read_text(), re.MULTILINE)
    told: dict[str, str] = {}
    for names, defaults in table:
        fields = re.findall(r"`(\w+)`", names)
        told |= dict(zip(fields, defaults.split(", ", len(fields) - 1), strict=True))
    assert list(told) == [field.name for field in dataclasses.fields(SamOptions)]
    for field in dataclasses.fields(SamOptions):
        shown = told[field.name].strip("`")
        if field.name in TINY:
            assert shown == f"null: {RELEASED[field.name]}, tiny {TINY[field.name]}"
        elif field.name == "crop_overlap_ratio":
            assert shown == "512/1500"
        else:
            assert shown == json.dumps(field.default).strip('"')


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"checkpoint": "nowhere.pth"}, r"there is no file nowhere\.pth"),
        ({"device": "gpu0"}, "'gpu0' is not a device"),
        ({"device": "cuda"}, "torch finds no CUDA device"),
    ],
)
def test_what_this_machine_lacks_is_told_by_the_check(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=words):
        check(SamOptions(**given))


BROKEN = {
    "torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')",
    "torchvision/_C.so": "no library",
}


def test_a_broken_torchvision_is_told_in_plain_words_and_never_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    site.install("torchvision", {}, BROKEN, version="0.28.0")
    importlib.invalidate_caches()
    assert plugin.srum_grounders()[0].check is check
    with pytest.raises(ConfigError) as refused:
        check(SamOptions())
    text = str(refused.value)
    assert f"torchvision 0.28.0 is installed, but its operators do not load beside torch {torch.__version__}: " in text
    assert "_C.so" in text and "pip install 'srum-plugins[sam]'" in text
    assert "torchvision" not in sys.modules


def test_missing_packages_are_told_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"segment_anything, torchvision not installed: pip install 'srum-plugins"):
        check_packages()
    monkeypatch.setattr("srum_plugins.host._spec", lambda module: None)
    host = PluginHost.load(entry_points=())
    host.register(plugin, "sam")
    with pytest.raises(PluginError, match=r"needs segment_anything, torchvision, not installed: pip install 'srum-"):
        host.get(Kind.GROUNDER, "sam")


# --- the command line -------------------------------------------------------------------------------------------------
def srum(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The real command line, where ``path`` comes before all else that can be imported."""
    ours = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "srum_plugins.cli", *arguments],
        env={**os.environ, "PYTHONPATH": ours, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def torchvision(tmp_path: Path) -> Path:
    """A folder for the path: with the stand-in if the tests need it."""
    return sam_torchvision.STANDINS if sam_torchvision.STANDS_IN else tmp_path


def test_the_demo_runs_with_it_and_rewards_follow_its_masks(tmp_path: Path, torchvision: Path) -> None:
    small = (
        "prompts.count=4",
        "train.steps=1",
        "train.batch=2",
        "benchmark.prompts_per_split=2",
        "benchmark.questions=0",
        "generate.sampling={points: 5}",
        "evaluate.sampling={points: 5}",
        "tracking.enabled=false",
        "grounder={name: sam, masks: true}",
    )
    folder = tmp_path / "run"
    done = srum("run", str(DEMO), f"run.directory={folder}", *small, path=torchvision)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["in_domain"]["prompts"] == 2
    (grounded,) = (folder / "stages/ground").glob("*/part-00000.jsonl")
    records = [json.loads(line) for line in grounded.read_text().splitlines()]
    regions = [region for record in records for region in record["regions"]]
    assert len(records) == 16 and len(regions) >= 8
    assert all(region["mask"]["width"] == 32 and sum(region["mask"]["runs"]) == 1024 for region in regions)
    rewarded = "".join(path.read_text() for path in folder.glob("stages/reward/*/part-*.jsonl"))
    assert '"runs"' in rewarded


def test_a_broken_torchvision_stops_the_run_before_anything_is_made(tmp_path: Path) -> None:
    Site(tmp_path / "site").install("torchvision", {}, BROKEN, version="0.28.0")
    folder = tmp_path / "run"
    done = srum("run", str(DEMO), f"run.directory={folder}", "grounder=sam", path=tmp_path / "site")
    assert done.returncode == 2
    assert "the grounder 'sam'" in done.stderr and "pip install 'srum-plugins[sam]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()


def test_figures_on_pictures_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no PNG files"):
        list(read_by_oracle(tmp_path))
    for seed in range(3):
        scene_and_picture(seed, 2)[1].save(tmp_path / f"{seed}.png")
    figures = measure(dataclasses.replace(SamOptions(), max_regions=3), read_by_oracle(tmp_path))
    assert figures["pictures"] == 3 and figures["objects"] == 6 and figures["mean_iou"] >= 0.7
