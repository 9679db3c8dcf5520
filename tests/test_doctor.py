"""``srum doctor``: what is wrong is found, told with what to do, and nothing is written."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from fakes import GROUNDER, HEAD, Site, make_site
from hypothesis import given
from hypothesis import strategies as st
from loopback import Response, loopback

from srum_plugins import cli, hookimpl
from srum_plugins.attention.contract import Attention, FirstOf
from srum_plugins.attention.dense import Dense
from srum_plugins.doctor import configuration, devices, examine, packages, storage, tracking
from srum_plugins.doctor.finding import Finding, found
from srum_plugins.errors import ConfigError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider

DEMO = str(Path(__file__).parents[1] / "configs/demo.yaml")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path / "site", monkeypatch)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # so that what the command sets is taken back


def levels(findings: Iterator[Finding] | list[Finding]) -> dict[str, str]:
    return {one.check: one.level for one in findings}


# --- the command ------------------------------------------------------------------------------------------------------
def test_a_config_that_can_run_has_no_problem_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = f"run.directory={tmp_path / 'runs/mine'}"
    assert cli.main(["doctor", DEMO, directory, "prompts.count=8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(list(row) == ["check", "level", "says", "mend"] for row in rows)
    assert {row["level"] for row in rows} <= {"ok", "warning"}
    told = {row["check"]: row["says"] for row in rows}
    assert told["prompts"] == "8 prompts, 32 candidates"
    assert told["attention of shapes"].startswith("sdpa on cpu; not varlen: ")
    assert "adapter=shapes" in told["contract"]
    assert str(tmp_path / "runs/mine") in told["run directory"]
    assert told["tracking"].endswith("not there yet, the first run creates it")
    assert {"python", "srum-plugins", "dependencies", "extra bagel", "plugins", "torch", "device cpu"} < set(told)
    assert list(tmp_path.iterdir()) == []


def test_all_problems_of_a_config_are_told_at_once_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["train.optimizer=adamw8bit", "train.sharding=fsdp2", "run.device=cuda:99", "plugins.block=[shapez]"]
    wrong += ["tracking.uri=http://me:secret@127.0.0.1:9"]
    assert cli.main(["doctor", DEMO, f"run.directory={tmp_path}", *wrong]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "train.sharding=fsdp2 does not work with train.optimizer=adamw8bit",
        "cuda:99 is not among them → set run.device=cpu",
        "nothing that is installed is called 'shapez'",
        "http://***@127.0.0.1:9 cannot be used",
        "go without: tracking.enabled=false",
    ):
        assert words in out
    assert "secret" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_cannot_be_read_is_one_problem_beside_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_attention", lambda host: iter(()))
    rows = list(examine.examine(Path(DEMO), ["train.stepz=3"], lambda what: None))
    (config,) = [row for row in rows if row.check == "config"]
    assert config.level == "problem"
    assert "train.stepz: there is no such setting. Did you mean 'steps'?" in config.says
    assert {"torch", "plugins", "run directory", "tracking"} < {row.check for row in rows}


def test_memory_needs_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--memory"]) == 2
    assert "--memory needs the CONFIG of a run" in capsys.readouterr().err


def test_a_check_that_breaks_is_a_problem_and_stops_no_other() -> None:
    def broken(error: Exception) -> Iterator[Finding]:
        yield Finding("before", "ok", "fine")
        raise error

    (one,) = found("torch", lambda: broken(ImportError("libcudart.so: not found")))
    assert (one.check, one.level) == ("torch", "problem")
    assert one.says == "it cannot be looked at: ImportError: libcudart.so: not found"
    (one,) = found("config", lambda: broken(ConfigError("run.seed: must be at least 0")))
    assert one.says == "run.seed: must be at least 0"


# --- packages and plugins ---------------------------------------------------------------------------------------------
REQUIRES = """Metadata-Version: 2.1
Name: srum-plugins
Version: 9.0
Provides-Extra: whole
Provides-Extra: old
Provides-Extra: absent
Provides-Extra: dev
Requires-Dist: pluggy>=1
Requires-Dist: nowhere-to-be-found>=2; python_version < "3"
Requires-Dist: pluggy; extra == "whole"
Requires-Dist: pluggy>=1000; extra == "old"
Requires-Dist: nowhere-to-be-found>=2; extra == "absent"
Requires-Dist: nowhere-to-be-found>=2; extra == "dev"
"""


def test_extras_are_told_with_versions_or_with_their_pip_line(site: Site) -> None:
    site.install("srum-plugins", {}, {"srum_plugins-9.0.dist-info/METADATA": REQUIRES}, version="9.0")
    rows = {one.check: one for one in packages.dependencies()}
    assert {check: one.level for check, one in rows.items()} == {
        "dependencies": "ok",
        "extra absent": "ok",
        "extra old": "warning",
        "extra whole": "ok",
    }
    assert rows["dependencies"].says.startswith("all 1 are installed")
    assert rows["extra absent"].mend == "if you need it: pip install 'srum-plugins[absent]'"
    assert "not >=1000" in rows["extra old"].says
    assert rows["extra old"].mend == "pip install 'srum-plugins[old]'"
    assert rows["extra whole"].says.startswith("pluggy ")
    assert levels(packages.python()) == {"python": "ok", "srum-plugins": "warning"}  # 9.0 is not what is imported


def test_a_dependency_that_is_missing_is_a_problem(site: Site) -> None:
    metadata = REQUIRES.replace('; python_version < "3"', "")
    site.install("srum-plugins", {}, {"srum_plugins-9.0.dist-info/METADATA": metadata}, version="9.0")
    one = next(packages.dependencies())
    assert (one.level, one.says) == ("problem", "nowhere-to-be-found is not installed")
    assert one.mend == "pip install 'nowhere-to-be-found>=2'"


def test_names_that_block_nothing_are_a_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRUM_PLUGINS_BLOCK", "goood")
    site.install("acme-srum", {"good": "goodsrum"}, {"goodsrum.py": GROUNDER})
    rows = {one.check: one for one in packages.plugins(PluginHost.load((), site.entry_points()))}
    assert levels(list(rows.values())) == {"plugins": "ok", "blocked plugins": "warning"}
    assert "is called 'goood', so nothing is blocked by it. Did you mean 'good'" in rows["blocked plugins"].says


def test_plugins_that_are_not_as_they_should_be_are_named(site: Site) -> None:
    files = {"goodsrum.py": GROUNDER, "brokensrum.py": HEAD + "1 / 0\n", "shysrum.py": "1 / 0\n"}
    site.install("acme-srum", {"good": "goodsrum", "broken": "brokensrum", "shy": "shysrum"}, files)
    host = PluginHost.load(["shy"], site.entry_points(), blocked_by="plugins.block of the config")
    rows = {one.check: one for one in packages.plugins(host)}
    assert levels(list(rows.values())) == {"plugins": "ok", "plugin broken": "problem", "plugin shy": "ok"}
    assert rows["plugin broken"].says == "acme-srum 1.0: ZeroDivisionError: division by zero"
    assert "brokensrum.py:4" in rows["plugin broken"].mend
    assert rows["plugin shy"].says == "blocked by plugins.block of the config"


# --- devices and kernels ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("build", "driver", "level", "words"),
    [
        (None, "", "ok", "no GPU is found here"),
        (None, "580.95.05", "warning", "install a torch that is built for CUDA"),
        ("13.0", "", "ok", "built for CUDA 13.0; no GPU"),
        ("13.0", "470.1", "problem", "cannot use the NVIDIA driver 470.1: The NVIDIA driver on your system is too old"),
    ],
)
def test_a_torch_that_does_not_fit_the_driver_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str | None, driver: str, level: str, words: str
) -> None:
    def unavailable() -> bool:
        if build and driver:
            devices.warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    if driver:
        (tmp_path / "version").write_text(
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release\n"
        )
    first = next(devices.devices())
    assert (first.check, first.level) == ("torch", level)
    assert words in f"{first.says} {first.mend}".replace("CUDA initialization: ", "")


@pytest.mark.parametrize(("free", "level"), [(70, "ok"), (10, "warning")])
def test_a_device_is_told_with_its_memory(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free * gib, 80 * gib))
    one = {row.check: row for row in devices.devices()}["device cuda:0"]
    assert one.level == level
    assert one.says == f"H100, {free:.1f} of 80.0 GiB free, compute capability 9.0"


def test_a_device_of_another_kind_is_tried() -> None:
    config: Any = SimpleNamespace(run=SimpleNamespace(device="hpu"))  # of no torch that is tested with
    (one,) = configuration.device(config, PluginHost())
    assert (one.check, one.level) == ("run.device", "problem")
    assert one.says.startswith("hpu cannot be used: ")


class Wrong(Dense):
    def attend(self, *inputs: Any) -> Any:
        return super().attend(*inputs) * 1.01


class Elsewhere(Attention):
    devices = ("cuda",)

    def attend(self, *inputs: Any) -> Any:
        raise AssertionError("is not tried on a CPU")


def broken_wheel(options: Any) -> Any:
    raise ImportError("undefined symbol")


class Kernels:
    def __init__(self, **factories: Any) -> None:
        self.factories = factories

    @hookimpl
    def srum_attentions(self) -> list[Provider]:
        return [Provider(name, "A kernel.", make) for name, make in self.factories.items()]


def test_kernels_are_really_tried() -> None:
    host = PluginHost()
    host.register(
        Kernels(
            right=lambda options: Dense(),
            wrong=lambda options: Wrong(),
            elsewhere=lambda options: Elsewhere(),
            wheel=broken_wheel,
            auto=lambda options: FirstOf(("right",)),
        ),
        "kernels",
    )
    rows = {one.check: one for one in devices.attention(host, "cpu")}
    assert levels(list(rows.values())) == {
        "attention elsewhere": "ok",
        "attention right": "ok",
        "attention wheel": "warning",
        "attention wrong": "warning",
    }
    assert "off by 1.0e-02" in rows["attention wrong"].says
    assert "undefined symbol" in rows["attention wheel"].says
    assert rows["attention elsewhere"].says == "it runs on cuda only, not on cpu"


def test_a_machine_without_any_kernel_has_a_problem() -> None:
    host = PluginHost()
    host.register(Kernels(wrong=lambda options: Wrong()), "kernels")
    assert levels(devices.attention(host, "cpu")) == {"attention wrong": "warning", "attention": "problem"}


# --- disks ------------------------------------------------------------------------------------------------------------
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=4), st.integers(0, 4))
def test_the_nearest_folder_is_there_and_holds_the_path(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], made: int
) -> None:
    base = tmp_path_factory.mktemp("disk")
    base.joinpath(*names[:made]).mkdir(parents=True, exist_ok=True)
    path = base.joinpath(*names)
    assert storage.existing(path) == base.joinpath(*names[:made])


def test_a_run_directory_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (one,) = storage.run_directory(tmp_path / "file")
    assert (one.level, one.says) == ("problem", f"{tmp_path / 'file'} is no folder")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (one,) = storage.run_directory(tmp_path / "runs/a")
    assert one.level == "problem"
    assert one.says.endswith(f"{tmp_path} may not be written")
    assert "run.directory=DIR" in one.mend


@pytest.mark.parametrize(
    ("blocks", "files", "level"), [(2**21, 10**6, "ok"), (2**19, 10**6, "warning"), (2**21, 10, "warning")]
)
def test_a_disk_that_is_nearly_full_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int, level: str
) -> None:
    disk = SimpleNamespace(f_bavail=blocks, f_blocks=2**22, f_frsize=4096, f_files=10**7, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    (one,) = storage.run_directory(tmp_path)
    assert one.level == level
    assert f"{blocks * 4096 / 2**30:.1f} of 16.0 GiB free" in one.says
    assert bool(one.mend) == (level == "warning")


@pytest.mark.parametrize(("number", "problems"), [(errno.ENOLCK, 1), (errno.EWOULDBLOCK, 0), (errno.EBADF, 0)])
def test_a_file_system_without_locks_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, problems: int
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    assert sum(one.level == "problem" for one in storage.run_directory(tmp_path)) == problems


def test_a_folder_that_may_not_be_listed_is_still_told_with_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    (one,) = storage.run_directory(tmp_path)
    assert "GiB free" in one.says


# --- tracking ---------------------------------------------------------------------------------------------------------
def store(uri: str) -> Finding:
    (one,) = tracking.store(uri)
    return one


def test_an_sqlite_store_is_looked_into_and_never_created(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'a/mlflow.db'}"
    assert store(uri).level == "ok"
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table runs (id)")
        connection.execute("insert into runs values (1)")
    connection.close()
    before = file.read_bytes()
    assert store(f"sqlite:///{file}").says.endswith("runs kept there: 1")
    assert (file.read_bytes(), [*tmp_path.iterdir()]) == (before, [file])


@pytest.mark.parametrize("content", [b"", b"this is no database, but a text file of some length\n" * 99])
def test_a_file_that_is_no_store_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    one = store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert one.level == "problem"
    assert "tracking.enabled=false" in one.mend


def test_a_store_of_another_kind_is_not_called_well() -> None:
    one = store("postgresql://me:secret@host/db")
    assert one.level == "warning"
    assert "secret" not in one.says


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (503, "problem"), (403, "problem")])
def test_a_server_is_asked_whether_it_is_well(status: int, level: str) -> None:
    with loopback(lambda request: Response(b"OK", status)) as server:
        one = store(server.url.replace("://", "://me:secret@"))
        assert one.level == level
        assert (str(status) in one.says) == (level == "problem")
        assert "secret" not in one.says
        assert [request.path for request in server.requests] == [f"{urlsplit(server.url).path}/health"]


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SECONDS", 0.2)
    with loopback(lambda request: Response(b"OK", wait=1.0)) as server:
        one = store(server.url)
    assert (one.level, one.mend) == ("problem", tracking.MEND)
