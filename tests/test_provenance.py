"""What a stage was made with is noted, and going on with other code is said."""

import importlib.util
import json
from pathlib import Path

import pytest
from engine_fixtures import toy_config, toy_host, toy_run

from srum_plugins import hookimpl
from srum_plugins.runs import provenance
from srum_plugins.runs.provenance import code_digest, code_place, made_with
from srum_plugins.stages import edited as stages_edited
from srum_plugins.stages import evaluate
from srum_plugins.stages.session import Session


def test_the_digest_is_that_of_the_code_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "plugin").mkdir(parents=True)
        (tmp_path / place / "plugin/a.py").write_text("x = 1\n")
        (tmp_path / place / "plugin/notes.txt").write_text(place)
    here, there = (code_digest([tmp_path / place / "plugin"]) for place in ("here", "there"))
    assert here == there
    (tmp_path / "there/plugin/a.py").write_text("x = 2\n")
    assert code_digest([tmp_path / "there/plugin"]) != here
    (tmp_path / "here/plugin/a.py").rename(tmp_path / "here/plugin/b.py")
    assert code_digest([tmp_path / "here/plugin"]) != here


def test_a_manifest_notes_versions_and_code_and_a_stage_that_goes_on_with_others_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop:
        @hookimpl
        def srum_stage_advanced(self, done: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

    host = toy_host()
    host.register(Stop(), "stop")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, host=host)
    (manifest,) = (tmp_path / "run/stages/generate").glob("*/manifest.json")
    noted = json.loads(manifest.read_text())["made_with"]
    assert {"python", "torch", "code"} <= noted.keys()
    assert not any("goes on" in line for line in toy_run(tmp_path, only="generate"))
    assert toy_run(tmp_path, only="generate")[0].startswith("nothing to do")

    (manifest.parent / "done.json").unlink()
    monkeypatch.setattr(provenance, "version", lambda name: "9.9")
    said = toy_run(tmp_path, only="generate")
    assert said[0].startswith("generate goes on with what was begun otherwise: ")
    assert f"torch was {noted['torch']}, is 9.9" in said[0]
    assert made_with([])["torch"] == "9.9"


def test_a_plugin_that_is_a_file_among_others_is_told_by_that_file(tmp_path: Path) -> None:
    for name in ("plugin.py", "stranger.py", "package/__init__.py", "package/plugin.py", "package/inner/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    alone, package = (code_place(tmp_path / name) for name in ("plugin.py", "package/plugin.py"))
    assert (alone, package) == (tmp_path / "plugin.py", tmp_path / "package")
    before = code_digest([alone]), code_digest([package])
    (tmp_path / "stranger.py").write_text("x = 2\n")
    assert (code_digest([alone]), code_digest([package])) == before
    for name in ("plugin.py", "package/inner/a.py"):
        (tmp_path / name).write_text("x = 3\n")
    assert code_digest([alone]) != before[0] and code_digest([package]) != before[1]


GROUNDER = """
from srum_plugins import hookimpl
from srum_plugins.contracts import Grounder
from srum_plugins.providers import Provider
from srum_plugins.records import Grounding


class Blind(Grounder):
    def ground(self, items, model):
        return [Grounding(item.candidate.id, ()) for item in items]


@hookimpl
def srum_grounders():
    return [Provider("blind", "sees nothing", lambda options: Blind())]
"""


def test_code_of_a_plugin_that_was_edited_is_told_where_its_stage_is_reused(tmp_path: Path) -> None:
    file = tmp_path / "blind.py"
    file.write_text(GROUNDER)
    spec = importlib.util.spec_from_file_location("blind", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    host = toy_host()
    host.register(module, "blind")

    def run(*more: str, only: str | None = None) -> list[str]:
        return toy_run(tmp_path, "grounder=blind", "aggregator=uniform", *more, host=host, only=only)

    run()
    assert len(run()) == 1
    file.write_text(f"{GROUNDER}# edited\n")
    (edited,) = run()[1:]
    assert edited.startswith("ground was made with other code of (in process)/blind, of the same version: ")
    assert "--from ground" in edited
    assert edited in run("train.steps=3")  # where another stage is made anew
    assert edited not in run(only="judge")


def test_a_plugin_is_told_once_by_its_distribution_at_the_first_stage_that_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy is one plugin for all slots."""
    toy_run(tmp_path)
    monkeypatch.setattr(stages_edited, "code_digest", lambda places: "other")
    (told,) = toy_run(tmp_path)[1:]
    assert told.startswith("generate was made with other code of (in process)/toy_backend")


def test_a_benchmark_that_was_edited_is_to_score_again_and_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(tmp_path, host=(host := toy_host()))
    toy_run(tmp_path, host=host)
    session = Session(config, host)
    monkeypatch.setattr(stages_edited, "code_digest", lambda places: "other")
    monkeypatch.setattr(stages_edited, "_by_stage", lambda config: {"evaluate": config.used})
    (told,) = stages_edited.edited(config, session.directory(evaluate.STAGE))
    assert "--from score" in told
