"""Plugins that a configuration blocks: never imported, and told by name where they are asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_fixtures import toy_host, write_config
from fakes import GROUNDER, Site, make_site

from srum_plugins import cli
from srum_plugins.config import blocked, load
from srum_plugins.errors import ConfigError
from srum_plugins.host import PluginHost


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for found in make_site(tmp_path / "site", monkeypatch):
        (tmp_path / "site").mkdir()
        code = f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n" + GROUNDER
        found.install("shy-srum", {"shy": "shysrum"}, {"shysrum.py": code})
        yield found


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["shy", "shy-srum"])
@pytest.mark.parametrize("by_file", [True, False])
@pytest.mark.parametrize("command", [["config"], ["run"], ["doctor", "--memory"], ["stress", "grounding"]])
def test_a_blocked_plugin_is_not_imported_and_is_an_error_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, by_file: bool, command: list[str]
) -> None:
    settings = {"adapter": "shapes", "prompts": "shapes", "benchmark": "shapes", "judge": "choice", "grounder": "acme"}
    file = write_config(tmp_path, **settings, aggregator="srum", **({"plugins": {"block": [name]}} if by_file else {}))
    assert cli.main([*command, str(file), *([] if by_file else [f"plugins.block=[{name}]"])]) == 2
    told = capsys.readouterr().err
    assert "there is no grounder named 'acme'" in told
    assert "plugin 'shy' of shy-srum 1.0, blocked: blocked by plugins.block of the config" in told
    assert not (tmp_path / "imported").exists()


def test_it_is_imported_where_nothing_blocks_it(site: Site, tmp_path: Path) -> None:
    load(write_config(tmp_path), (), toy_host())
    PluginHost.load(entry_points=site.entry_points())
    assert (tmp_path / "imported").exists()


def test_blocking_after_plugins_are_loaded_is_refused(tmp_path: Path) -> None:
    file = write_config(tmp_path, plugins={"block": ["shy"]})
    with pytest.raises(ConfigError, match=r"plugins\.block: shy must be blocked before plugins are loaded"):
        load(file, (), toy_host())
    assert blocked(file, ()) == ("shy",)
    assert blocked(file, ["plugins.block=[]"]) == ()
    assert blocked(None, ()) == ()


@pytest.mark.parametrize("value", ["shy", "[[shy]]", "{shy: true}"])
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^plugins\.block"):
        blocked(write_config(tmp_path), [f"plugins.block={value}"])
