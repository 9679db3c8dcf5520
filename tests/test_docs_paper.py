"""docs/paper.md: the code that it names is there, and its commands are accepted up to where work would begin."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
from sam_torchvision import STANDINS

import srum_plugins.ablations.experiment
from srum_plugins.ablations.plan import Experiment
from srum_plugins.cli import main
from srum_plugins.config import RunConfig
from srum_plugins.host import PluginHost
from srum_plugins.stages import pipeline
from srum_plugins.world import World

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "paper.md").read_text()
PLACE = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)).splitlines()


def names(file: Path) -> set[str]:
    """The classes and functions of a module, and the methods of its classes as ``Class.method``."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("place", sorted(set(PLACE.findall(DOCS))), ids=lambda place: ":".join(filter(None, place)))
def test_the_code_that_is_named_is_there(place: tuple[str, str]) -> None:
    file, name = place
    assert (ROOT / file).is_file()
    assert not name or name in names(ROOT / file)


def test_the_pages_and_their_headings_that_are_linked_are_there() -> None:
    found = re.findall(r"\]\((\w[\w./-]*\.md)?(?:#([\w-]+))?\)", DOCS)
    assert len(found) > 10
    for page, anchor in found:
        text = (ROOT / "docs" / page).read_text() if page else DOCS
        headings = [re.sub(r"[^\w\- ]", "", line).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.M)]
        assert not anchor or anchor in [heading.replace(" ", "-") for heading in headings], (page, anchor)


def test_every_arm_of_the_ablation_has_its_row() -> None:
    command = next(one for one in COMMANDS if one.startswith("srum ablate configs/demo.yaml"))
    arms = command.partition("--arms ")[2].partition(" --seeds")[0].split()
    rows = re.findall(r"^\| ([a-z][\w.-]*) \| \W*\d\.\d{3}", DOCS, re.MULTILINE)
    missing = [arm for arm in arms if not any(re.fullmatch(rf"{arm}(-[\d.]+)?", row) for row in rows)]
    assert not missing


def test_there_are_commands_of_each_kind() -> None:
    assert {" ".join(command.split()[:2]) for command in COMMANDS} == {"srum run", "srum ablate", "srum stress"}


class PlannedError(Exception):
    """An experiment was planned, and would begin."""


@pytest.mark.parametrize(
    "command",
    [pytest.param(one, marks=[] if one.startswith("srum run") else pytest.mark.slow) for one in COMMANDS],
)
def test_a_command_is_accepted(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configurations are read and checked; what would work on them is not called."""
    checked: list[RunConfig] = []

    def run(config: RunConfig, host: PluginHost, **other: object) -> dict[str, object]:
        pipeline.check(config, host, pipeline.STAGES, World())
        checked.append(config)
        return {}

    def run_arms(experiment: Experiment, *others: object) -> None:
        checked.extend(experiment.configs.values())  # which the plan has checked
        raise PlannedError

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(srum_plugins.ablations.experiment, "run_arms", run_arms)
    monkeypatch.setenv("SRUM_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(STANDINS)  # whether packages are there is asked, and none is used
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (tmp_path / "sam_vit_h_4b8939.pth").touch()
    monkeypatch.chdir(ROOT)
    one_seed = re.sub(r"(--seeds \d+)( \d+)+", r"\1", command)
    program, *arguments = shlex.split(one_seed)
    assert program == "srum"
    if arguments[0] == "run":
        assert main(arguments) == 0, capsys.readouterr().err
    else:
        with pytest.raises(PlannedError):
            assert main(arguments) == 0, capsys.readouterr().err
    assert checked
