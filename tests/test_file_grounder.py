"""Boxes from a JSONL file: whose they are, what is refused before a run, what is mended and counted in it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import toy_config, toy_host, toy_run, write_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from srum_file import plugin
from srum_file.grounder import FileGrounder
from srum_file.lines import read
from srum_file.options import FileOptions
from test_boxes import anything

from srum_plugins.contracts import Located
from srum_plugins.errors import ConfigError
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Grounding, Prompt, Region
from srum_plugins.runs.shards import Shards
from srum_plugins.stages.session import Session

SIZE = (60, 40)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*lines: Any) -> Path:
        path = tmp_path / "boxes.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return written


def located(name: str = "p-0", index: int = 0, prompt: str = "p", text: str = "a cat") -> Located:
    return Located(Prompt(prompt, text), Candidate(name, prompt, index, 0, "x.png", *SIZE), Image.new("L", SIZE))


def ground(path: Path, *items: Located, **options: Any) -> list[Grounding]:
    return FileGrounder(FileOptions(path, **options)).ground(items, None)


BOX = {"box": [10, 5, 50, 30], "label": "cat", "score": 0.75}


def test_boxes_are_of_the_candidate_the_indexed_text_or_the_prompt(write: Write) -> None:
    path = write(
        {"prompt_id": "p", "boxes": [{"box": [0, 0, 3, 3]}]},
        {"candidate": "p-0", "boxes": [BOX, {"box": [0, 0, 1, 1]}]},
        "",
        {"prompt": "a cat", "index": 1, "boxes": [{"box": [0, 0, 2, 2], "label": " cat "}]},
        {"prompt": "a dog", "index": 0, "boxes": []},
    )
    items = [
        located("p-0", 0),  # has a line of its own, beside its prompt's
        located("p-1", 1),  # is meant by text and index
        located("p-2", 2),
        located("q-0", 0, "q", "a dog"),
    ]
    found = ground(path, *items)
    assert [grounding.candidate_id for grounding in found] == ["p-0", "p-1", "p-2", "q-0"]
    assert [grounding.regions for grounding in found] == [
        (Region(Box(10, 5, 50, 30), "cat", 0.75), Region(Box(0, 0, 1, 1))),
        (Region(Box(0, 0, 2, 2), "cat"),),
        (Region(Box(0, 0, 3, 3)),),
        (),
    ]
    assert all(grounding.dropped == {} for grounding in found)


def test_relative_boxes_are_shares_of_the_images_sides(write: Write) -> None:
    path = write({"candidate": "p-0", "boxes": [{"box": [0.25, 0.5, 1, 1]}, {"box": [1.5, 0, 0.5, 1]}]})
    (grounding,) = ground(path, located(), units="relative")
    mended = Region(Box(30, 0, 60, 40), mended=("sorted", "clamped"))
    assert grounding.regions == (Region(Box(15, 20, 60, 40)), mended)


def test_what_is_no_box_is_mended_by_rule_or_counted(write: Write) -> None:
    wrong: list[Any] = [[1, 2, 3], "box", None, [5, 5, 5, 9], [70, 5, 90, 9], [0, 0, 1, True]]
    boxes = [{"box": box} for box in [[50, 30, 10, 5], [-5, 0, 1e300, 5], *wrong]]
    line = json.dumps({"candidate": "p-0", "boxes": boxes})[:-2]
    (grounding,) = ground(write(f'{line}, {{"box": [NaN, 0, 1, 1]}}, {{"box": [0, 0, Infinity, 1]}}]}}'), located())
    assert grounding.regions == (
        Region(Box(10, 5, 50, 30), mended=("sorted",)),
        Region(Box(0, 0, 60, 5), mended=("clamped",)),
    )
    assert grounding.dropped == {"malformed boxes": 6, "empty box": 2}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, max_size=6), st.sampled_from(["pixels", "relative"]))
def test_any_corners_are_regions_inside_or_counted(write: Write, corners: list[Any], units: str) -> None:
    path = write({"candidate": "p-0", "boxes": [{"box": one} for one in corners]})
    (grounding,) = ground(path, located(), units=units)
    assert all(region.box.inside(*SIZE) for region in grounding.regions)
    assert len(grounding.regions) + sum(grounding.dropped.values()) == len(corners)


def test_a_candidate_without_a_line_is_refused_or_counted(write: Write) -> None:
    path = write({"candidate": "p-0", "boxes": [BOX]})
    items = [located("p-0"), located("p-1", 1), located("p-2", 2)]
    with pytest.raises(ConfigError, match=r"no line for the candidate 'p-1' and 1 more of these 3.*missing=empty"):
        ground(path, *items)
    found = ground(path, *items, missing="empty")
    assert [len(grounding.regions) for grounding in found] == [1, 0, 0]
    assert [grounding.dropped for grounding in found] == [{}, {"not in file": 1}, {"not in file": 1}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting property name"),
        ("[1]", "a line must be an object"),
        ('{"candidate": "c"}', "boxes must be a list, which may be empty, got None"),
        ('{"boxes": []}', "a line names one of candidate, prompt_id, prompt, this one none"),
        ('{"candidate": "c", "prompt_id": "p", "boxes": []}', "this one candidate, prompt_id"),
        ('{"candidate": 3, "boxes": []}', "candidate must be a text, got 3"),
        ('{"prompt": "a cat", "boxes": []}', "prompt needs index, the number of its candidate from 0, got None"),
        ('{"prompt": "a cat", "index": -1, "boxes": []}', "prompt needs index"),
        ('{"prompt": "a cat", "index": true, "boxes": []}', "prompt needs index"),
        ('{"candidate": "c", "index": 0, "boxes": []}', "index goes with prompt, not with candidate"),
        ('{"candidat": "c", "boxes": []}', "a line has no 'candidat'. Did you mean 'candidate'?"),
        ('{"candidate": "c", "boxes": [[1, 2, 3, 4]]}', "a box must be an object"),
        ('{"candidate": "c", "boxes": [{"label": "cat"}]}', "a box needs box, its corners"),
        ('{"candidate": "c", "boxes": [{"box": [1, 2, 3, 4], "lable": "cat"}]}', "a box has no 'lable'."),
        ('{"candidate": "c", "boxes": [{"box": [1, 2, 3, 4], "label": 3}]}', "label must be a text, got 3"),
        ('{"candidate": "c", "boxes": [{"box": [1, 2, 3, 4], "score": 1.5}]}', "score must lie in [0, 1], got 1.5"),
        ('{"candidate": "c", "boxes": [{"box": [1, 2, 3, 4], "score": NaN}]}', "score must lie in [0, 1], got nan"),
        ('{"candidate": "p-0", "boxes": []}', "the boxes of candidate p-0 are in line 1 already"),
        ("[" * 100_000, ""),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_named(write: Write, line: str, words: str) -> None:
    path = write({"candidate": "p-0", "boxes": [BOX]}, "", line)
    with pytest.raises(ConfigError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}:3: ") and words in str(refused.value)


def test_a_file_that_is_no_text_and_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_bytes(b'{"candidate": "c", "boxes": []}\n\xff\xfe\n')
    with pytest.raises(ConfigError, match=r"boxes\.jsonl:2: .*decode"):
        read(path)
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere\.jsonl.*grounder=whole-image"):
        read(tmp_path / "nowhere.jsonl")


def test_the_documented_lines_are_read(write: Write) -> None:
    docs = (Path(__file__).parents[1] / "docs/grounders.md").read_text()
    (block,) = re.findall(r"^```json\n(.*?)^```$", docs, re.MULTILINE | re.DOTALL)
    given = read(write(*block.splitlines())).boxes
    assert list(given) == [("candidate", "p0-1"), ("prompt", "a red apple on a green plate", 2), ("prompt_id", "p0")]
    assert [len(boxes) for boxes in given.values()] == [1, 0, 1]


# --- in a run ---------------------------------------------------------------------------------------------------------
def run_config(folder: Path, path: Path) -> None:
    write_config(folder, grounder={"name": "file", "path": str(path)})


def test_a_run_takes_the_boxes_and_runs_again_when_the_file_changes(tmp_path: Path, write: Write) -> None:
    host = toy_host()
    host.register(plugin, "file")
    path = write(*({"prompt_id": f"p{index}", "boxes": [{"box": [7, 1, 2, 5]}]} for index in range(4)))
    run_config(tmp_path, path)
    toy_run(tmp_path, host=host)
    config = toy_config(tmp_path, host=host)
    (done,) = (tmp_path / "run/stages/ground").glob("*/done.json")
    facts = json.loads(done.read_text())
    assert (facts["regions"], facts["mended_sorted"]) == (12, 12)
    assert Shards(done.parent, Grounding, 12, 4).read()[3].regions == (Region(Box(2, 1, 7, 5), mended=("sorted",)),)
    identity = Session(config, host).ingredient(Kind.GROUNDER)["identity"]
    path.write_text(path.read_text().replace("7, 1", "6, 1"))
    assert Session(config, host).ingredient(Kind.GROUNDER)["identity"] != identity
    toy_run(tmp_path, host=host)
    assert len(list((tmp_path / "run/stages/ground").glob("*/done.json"))) == 2


@pytest.mark.parametrize("text", [None, "{\n"])
def test_a_bad_file_is_refused_before_the_model_is_loaded(tmp_path: Path, text: str | None) -> None:
    host = toy_host()
    host.register(plugin, "file")
    path = tmp_path / "bad.jsonl"
    if text is not None:
        path.write_text(text)
    run_config(tmp_path, path)
    with pytest.raises(ConfigError, match=r"there is no file" if text is None else r"bad\.jsonl:1: "):
        toy_run(tmp_path, host=host)
    assert not (tmp_path / "run").exists()
