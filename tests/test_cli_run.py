"""The commands that run SRUM, as users type them."""

import json
from pathlib import Path

import pytest
import yaml
from engine_fixtures import install_toy, srum, write_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    install_toy(folder / "site")
    write_config(folder)
    return folder


def call(place: Path, *arguments: str) -> tuple[int, str, str]:
    process = srum(*arguments, site=place / "site", cwd=place)
    return process.returncode, process.stdout, process.stderr


def test_run_prints_the_result_table_and_then_has_nothing_to_do(place: Path) -> None:
    code, out, err = call(place, "run", "toy.yaml", "train.steps=4")
    assert (code, err) == (0, "")
    for words in ("before", "95 % low", "in_domain", "warm", "out_of_domain", "understanding: colour", "bit-identical"):
        assert words in out
    assert "toy-maps+srum" in out
    saved = yaml.safe_load((place / "run/config.yaml").read_text())
    assert saved["train"]["steps"] == 4
    assert json.loads((place / "run/summary.json").read_text())["arm"] == "toy-maps+srum"
    code, out, err = call(place, "run", "toy.yaml", "train.steps=4")
    assert code == 0
    assert out.startswith("nothing to do: all 6 stages are complete")

    code, out, err = call(place, "train", "toy.yaml", "train.steps=4", "aggregator=toy-flat")
    assert (code, out) == (2, "")
    assert "error: train needs reward, but reward is stale: aggregator was toy-maps, is toy-flat." in err
    assert "Traceback" not in err


def test_config_prints_what_would_run(place: Path) -> None:
    code, out, err = call(place, "config", "toy.yaml", "grounder=toy-locate", "generate.sampling.noise=0.5")
    assert (code, err) == (0, "")
    resolved = yaml.safe_load(out)
    assert resolved["grounder"] == {"name": "toy-locate"}
    assert resolved["generate"] == {
        "candidates": 3,
        "chunk": 5,
        "width": None,
        "height": None,
        "sampling": {"steps": 1, "noise": 0.5},
    }


def test_mistakes_exit_with_two_and_one_clear_message(place: Path) -> None:
    code, out, err = call(place, "run", "toy.yaml", "trian.steps=4")
    assert (code, out) == (2, "")
    assert "unknown key 'trian' at the top of the config. Did you mean 'train'" in err
    assert "Traceback" not in err
