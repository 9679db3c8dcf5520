"""``srum verify``: what it says, and that what it removes is made again, and nothing else."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy_backend
from engine_fixtures import contents, toy_config, toy_host, toy_run
from rich.console import Console

from srum_plugins import cli, hookimpl, progress
from srum_plugins.host import PluginHost
from srum_plugins.runs.lock import held
from srum_plugins.world import World


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    toy_run(folder)
    return folder


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run, in which the command line sees the toy backend."""
    shutil.copytree(undisturbed / "run", tmp_path / "run")
    toy_config(tmp_path)
    load = PluginHost.load
    monkeypatch.setattr(
        PluginHost, "load", lambda *blocked, **given: load(**given) if "entry_points" in given else toy_host()
    )
    monkeypatch.setattr(progress, "console", lambda: Console(stderr=True))
    monkeypatch.setenv("COLUMNS", "200")
    toy_backend.calls.clear()
    return tmp_path


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(f"run/stages/{pattern}")
    return path


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])


def verify(folder: Path, *arguments: str) -> int:
    return cli.main(["verify", str(folder / "toy.yaml"), *arguments])


def test_a_whole_run_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder / "run")
    assert verify(folder) == 0
    files = [path for path in (folder / "run/stages").rglob("*") if path.is_file()]
    checked = len([path for path in files if path.name != "current"])
    assert capsys.readouterr().out == f"all {checked} files of 0.00 GiB are whole\n"
    assert verify(folder, "--repair") == 0
    assert contents(folder / "run") == before
    assert not toy_backend.calls  # no model, no provider's work


def test_damage_is_a_table_and_an_exit_status_and_touches_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(one(folder, "generate/*/images/p1-0.png"))
    one(folder, "judge/*/part-00001.jsonl").unlink()
    before = contents(folder / "run")
    assert verify(folder) == 2
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    image, part = one(folder, "generate/*/images/p1-0.png"), one(folder, "judge/*/part-00001.sha256")
    assert lines[1][:2] == ["generate", str(image.relative_to(folder / "run"))]
    assert lines[2][:2] == ["judge", str(part.with_suffix(".jsonl").relative_to(folder / "run"))]
    assert "it is missing" in out and "part-00000.sha256 lists" in out
    assert "error: 2 of " in err and "--repair" in err
    assert contents(folder / "run") == before


def test_nothing_there_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "run.seed=9") == 2
    assert "nothing to verify" in capsys.readouterr().err
    (folder / "run/stages/evaluate").rename(folder / "elsewhere")
    assert verify(folder) == 0
    assert "not complete, and not checked beyond what is there: evaluate" in capsys.readouterr().out


def made(folder: Path) -> dict[str, Any]:
    """The files of a run, but for what manifests note of the versions: of a lost one nobody knows them."""
    found = contents(folder / "run")
    for name, data in found.items():
        if name.endswith("manifest.json"):
            found[name] = {key: value for key, value in json.loads(data).items() if key not in ("made_with", "sha256")}
    return found


@pytest.mark.parametrize(
    ("pattern", "work"),
    [
        ("generate/*/images/p0-1.png", {"generate": 1, "load": 1}),
        ("ground/*/part-00001.jsonl", {"ground": 1}),
        ("judge/*/part-00000.jsonl", {"judge": 1, "load": 1}),
        ("reward/*/part-00000.jsonl", {"aggregate": 1}),
        ("baseline-images/*/images/i1.png", {"generate": 1, "load": 1}),
        ("baseline/*/part-00000.jsonl", {"score": 1}),
        ("evaluate-images/*/part-00001.jsonl", {"generate": 1, "load": 1}),
        ("evaluate/*/understanding.json", {"understanding": 1, "load": 1}),
        ("evaluate/*/summary.json", {}),
        ("train/*/weights/first.txt", {"save": 1, "load": 1}),
        ("train/*/metrics.jsonl", {"save": 1, "load": 1}),
        ("judge/*/done.json", {}),
        ("ground/*/manifest.json", {}),
    ],
)
def test_repair_and_a_run_make_again_what_was_damaged_and_nothing_else(
    folder: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], pattern: str, work: dict[str, int]
) -> None:
    damaged = one(folder, pattern)
    flip(damaged)
    assert verify(folder, "--repair") == 0
    assert "removed stages/" in capsys.readouterr().out
    toy_run(folder)
    calls = {name: count for name, count in toy_backend.calls.items() if name != "load" or "load" in work}
    assert calls == work
    assert made(folder) == made(undisturbed)
    assert verify(folder) == 0


def test_many_damages_at_once_are_mended(folder: Path, undisturbed: Path) -> None:
    draw = random.Random(1)
    files = [path for path in sorted((folder / "run/stages").rglob("*")) if path.is_file() and path.stat().st_size]
    names = [path for path in files if path.name != "current" and "checkpoints" not in path.parts]
    for path in draw.sample(names, 25):
        if draw.random() < 0.5:
            path.unlink()
        else:
            flip(path)
    assert verify(folder) == 2
    verify(folder, "--repair")
    toy_run(folder)
    assert made(folder) == made(undisturbed)
    assert verify(folder) == 0


def test_time_and_cost_are_forgotten_but_nothing_is_paid_again(folder: Path) -> None:
    flip(one(folder, "judge/*/cost-000004.json"))
    flip(one(folder, "judge/*/seconds.json"))
    assert verify(folder, "--repair") == 0
    assert not one(folder, "judge/*/done.json").parent.joinpath("cost-000004.json").exists()
    toy_run(folder)
    assert not toy_backend.calls
    assert verify(folder) == 0


class Stop:
    @hookimpl
    def srum_train_step_finished(self, step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    folder: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(one(folder, "train/*/"))
    shutil.rmtree(folder / "run/stages/evaluate")
    host = toy_host()
    host.register(Stop(), "stop")
    with pytest.raises(KeyboardInterrupt):
        toy_run(folder, host=host)
    saved = sorted(folder.glob("run/stages/train/*/checkpoints/*"))
    assert [path.name for path in saved] == ["step-000003", "step-000006"]
    flip(saved[1] / "optimizer.safetensors")
    toy_backend.calls.clear()
    assert cli.exit_status(lambda: toy_run(folder)) == 2
    assert "optimizer.safetensors" in capsys.readouterr().err
    assert toy_backend.calls["predict"] == 0
    assert verify(folder, "--repair") == 0
    assert not saved[1].exists() and saved[0].exists()
    toy_run(folder)
    assert toy_backend.calls["predict"] == 5  # steps 3 to 7
    assert made(folder) == made(undisturbed)


def test_a_checkpoint_of_a_complete_training_is_not_trained_again(folder: Path) -> None:
    newest = max(folder.glob("run/stages/train/*/checkpoints/*"))
    flip(newest / "parameters.safetensors")
    assert verify(folder, "--repair") == 0
    assert not newest.exists()
    toy_run(folder)
    assert toy_backend.calls["predict"] == 0
    assert verify(folder) == 0


def test_names_in_damaged_sums_remove_nothing_elsewhere(folder: Path) -> None:
    victim = folder / "victim"
    victim.write_text("x")
    for sums in (one(folder, "train/*/SHA256SUMS"), one(folder, "generate/*/part-00000.sha256")):
        with sums.open("a") as file:
            file.write(f"{'0' * 64}  {victim}\n{'0' * 64}  ../../../../victim\n")
    assert verify(folder, "--repair") == 0
    assert victim.exists()


def test_a_run_that_goes_on_is_not_repaired(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(one(folder, "train/*/weights/first.txt"))
    with held(folder / "run", World()):
        assert verify(folder, "--repair") == 2
    assert "already being run" in capsys.readouterr().err
    assert one(folder, "train/*/weights/first.txt").exists()
