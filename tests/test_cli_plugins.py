import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import GROUNDER, HEAD, Site, make_site

from srum_plugins import cli
from srum_plugins.commands import plugins
from srum_plugins.errors import ConfigError

KEYS = ["kind", "name", "distribution", "version", "file", "status", "cause", "warning"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def four_statuses(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "Provider('sam2', 'Sam.', dict, modules=('nowhere',), extra=\"pip install 'acme[sam]'\")"
    sam = HEAD + f"@hookimpl\ndef srum_grounders():\n    print('noise')\n    return [{extra}]\n"
    points = {"good": "goodsrum", "sam2": "samsrum", "broken": "brokensrum", "shy": "shysrum"}
    files = {"goodsrum.py": GROUNDER, "samsrum.py": sam, "brokensrum.py": "1 / 0\n", "shysrum.py": "1 / 0\n"}
    site.install("acme-srum", points, files)
    monkeypatch.setenv("SRUM_PLUGINS_BLOCK", "shy")


def test_json_is_a_list_of_objects_with_exactly_these_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(list(row) == KEYS for row in rows)
    assert all(isinstance(value, str) for row in rows for value in row.values())
    mine = {row["name"]: row for row in rows if row["distribution"] == "acme-srum"}
    assert {name: row["status"] for name, row in mine.items()} == {
        "acme": "ready",
        "sam2": "missing-extra",
        "broken": "failed",
        "shy": "blocked",
    }
    assert mine["broken"]["cause"] == "ZeroDivisionError: division by zero"
    assert all((row["cause"] == "") == (row["status"] == "ready") for row in rows)


def test_the_table_shows_status_and_cause(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "goodsrum.py:" in out
    assert "missing-extra" in out
    assert "grounder sam2: needs nowhere, not installed: pip install 'acme[sam]'" in out  # brackets survive rich
    assert "plugin broken: ZeroDivisionError: division by zero" in out
    assert "plugin shy: blocked by SRUM_PLUGINS_BLOCK" in out


def test_a_misspelt_name_to_block_is_told_beside_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRUM_PLUGINS_BLOCK", "brokn")
    assert cli.main(["plugins", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert "warning: SRUM_PLUGINS_BLOCK: nothing that is installed is called 'brokn'" in captured.err
    assert "Did you mean 'broken'" in captured.err


def test_the_table_shows_what_is_deprecated(capsys: pytest.CaptureFixture[str]) -> None:
    plugins._print_table(
        [dict.fromkeys(KEYS, "") | {"kind": "judge", "name": "old", "status": "ready", "warning": "use srum_[new]s"}]
    )
    assert "judge old: warning: use srum_[new]s" in capsys.readouterr().out


def test_strict_mode_ends_with_a_message_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRUM_PLUGINS_STRICT", "1")
    assert cli.main(["plugins", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "failed to load" in captured.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("judge: [red] herring"), 2, "error: judge: [red] herring\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_for_people_have_no_traceback(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        subparsers.add_parser("fail").set_defaults(handler=fail)

    def fail(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(cli.run, "add_commands", add_commands)
    assert cli.main(["fail"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: argparse.Namespace) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.plugins, "_plugins", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["plugins"])


@pytest.mark.parametrize("command", [["plugins", "--json"], ["plugins"]])
def test_a_reader_that_leaves_early_is_no_traceback(site: Site, command: list[str]) -> None:
    """As `srum plugins | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    module = [sys.executable, "-m", "srum_plugins", *command]
    done = subprocess.run(module, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_another_pipe_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: argparse.Namespace) -> None:
        raise BrokenPipeError("a server went away")

    monkeypatch.setattr(cli.plugins, "_plugins", broken)
    with pytest.raises(BrokenPipeError, match="a server went away"):
        cli.main(["plugins"])


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.exit_status(lambda: None) == 0


def test_a_row_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.main(["plugins"]) == 0
    rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    (good,) = [row for row in rows if " acme " in row]
    assert re.fullmatch(r"grounder +acme +ready +acme-srum 1.0 +goodsrum.py:\d+ *", good)
