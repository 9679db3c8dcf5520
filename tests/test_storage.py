"""Disks that are full or may not be written: one clear error, nothing lost, and the same command goes on."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine_fixtures import contents, toy_run

from srum_plugins.errors import StageError, StorageError
from srum_plugins.runs.files import REFUSALS, storing, write_bytes, write_folder
from srum_plugins.runs.lock import held
from srum_plugins.runs.store import StageDirectory
from srum_plugins.world import World

TESTS = Path(__file__).parent
# Run in a mount namespace of its own, where it may mount what nobody else sees.
FILLING = """
import subprocess, sys
from pathlib import Path
from engine_fixtures import contents, toy_config, toy_host, toy_run
from srum_plugins.errors import StorageError
from srum_plugins.stages.session import Session
from srum_plugins.stages.verify import verify

def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

def refused(*overrides):
    try:
        toy_run(folder, *overrides)
    except StorageError as error:
        return str(error)
    return ""

folder, there = Path(sys.argv[1]), []
size = 100
mount(f"size={size}k")
while message := refused():
    assert "the disk is full" in message and "MiB are free" in message, message
    assert not list(folder.rglob(".aside-*")), message
    stages = list(folder.glob("run/stages/*/*/part-*.jsonl"))
    assert set(there) <= set(stages)
    there = stages
    host = toy_host()
    assert not verify(Session(toy_config(folder, host=host), host)).findings
    print(message)
    size += 200
    mount(f"remount,size={size}k")
print("complete at", size)
whole = contents(folder / "run")
mount("remount,ro")
assert not refused()  # complete: nothing is written
message = refused("train.lr=0.01")
assert "the file system is read-only" in message, message
assert contents(folder / "run") == whole
for name, data in whole.items():
    if isinstance(data, bytes):
        target = Path(sys.argv[2]) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
"""


def allowed() -> bool:
    """Whether this machine lets a process mount something for itself."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not allowed(), reason="this machine allows no mount namespace")
def test_a_run_on_a_disk_that_fills_up_ends_up_with_the_same_bytes(tmp_path: Path) -> None:
    disk, kept, undisturbed = (tmp_path / name for name in ("disk", "kept", "undisturbed"))
    disk.mkdir()
    undisturbed.mkdir()
    process = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FILLING, str(disk), str(kept)],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("the disk is full") >= 3
    toy_run(undisturbed)
    expected = {name: data for name, data in contents(undisturbed / "run").items() if isinstance(data, bytes)}
    found = {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert found == expected


@pytest.mark.parametrize("number", sorted(REFUSALS))
def test_a_refused_write_leaves_the_old_and_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    write_bytes(tmp_path / "a", b"old")
    write_folder(tmp_path / "weights", lambda folder: (folder / "w").write_bytes(b"old"))
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=f"a cannot be written: .*nothing that is complete is lost.*{number}"):
            write_bytes(tmp_path / "a", b"new")
        with pytest.raises(StorageError, match="weights cannot be written: "):
            write_folder(tmp_path / "weights", lambda folder: (folder / "w").write_bytes(b"new"))
    assert contents(tmp_path) == before


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    for error in (OSError("odd"), ValueError("odd"), FileNotFoundError(errno.ENOENT, "odd"), StageError("odd")):
        with pytest.raises(type(error), match="odd"), storing(tmp_path):
            raise error


def test_a_full_disk_is_known_from_safetensors_too(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(StorageError, match="the disk is full"), storing(tmp_path / "not" / "there"):
        raise SafetensorError(said)
    with pytest.raises(SafetensorError), storing(tmp_path):
        raise SafetensorError("Error while deserializing header")


def test_a_stage_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    directory = StageDirectory(tmp_path, "judge", {})
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"judge.*read-only\. Make it writable"):
        directory.begin()
    with pytest.raises(StorageError, match=r"lock cannot be written"), held(tmp_path, World()):
        pass


def test_a_disk_that_is_full_when_a_run_begins_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StorageError, match=r"lock cannot be written: the disk is full"), held(tmp_path, World()):
        pass
