"""``srum new``: names, files, refusals."""

import ast
import importlib
import keyword
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import Site, make_site
from hypothesis import given
from hypothesis import strategies as st
from new_packages import new_package

from srum_plugins import cli
from srum_plugins.commands.new import KINDS
from srum_plugins.errors import ConfigError
from srum_plugins.host import PROVIDER_NAME, PluginHost
from srum_plugins.providers import Kind
from srum_plugins.scaffold import package
from srum_plugins.scaffold.package import TEMPLATES, Naming, write

NAMES = ("x", "my-model", "a.very_long-name2.of-a-plugin")
DISTRIBUTION = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)  # of the packaging standard


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# --- names ------------------------------------------------------------------------------------------------------------
@given(st.from_regex(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", fullmatch=True))
def test_a_name_that_is_taken_fits_everywhere_it_goes(name: str) -> None:
    naming = Naming(name)
    assert PROVIDER_NAME.fullmatch(name)
    assert DISTRIBUTION.fullmatch(naming.distribution)
    assert naming.package.isidentifier() and not keyword.iskeyword(naming.package)
    assert ast.parse(naming.fill("class ExampleNameModel: example_name = 'example-name'"))


@pytest.mark.parametrize("name", ["my_example_name", "my-example-name", "example_name", "example-name2"])
def test_a_name_like_the_placeholder_is_filled_in_once(name: str) -> None:
    naming = Naming(name)
    assert naming.fill("srum-example-name|srum_example_name") == f"{naming.distribution}|{naming.package}"


@given(st.text())
def test_any_other_text_is_refused_or_as_good(text: str) -> None:
    try:
        naming = Naming(text)
    except ConfigError as error:
        assert repr(text) in str(error)
    else:
        assert naming.package.isidentifier()


@pytest.mark.parametrize("name", ["", "My-model", "2d", "a--b", "a-", "-a", "a/b", "../a", "a b", "a\n", "größe"])
def test_names_that_break_something_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a plugin"):
        Naming(name)


# --- what is written --------------------------------------------------------------------------------------------------
def test_there_is_a_template_of_every_kind_that_the_command_names() -> None:
    folders = {path.name for path in TEMPLATES.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders == {*KINDS, "common"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_file_bears_the_name_and_nothing_is_left_of_the_template(tmp_path: Path, kind: str, name: str) -> None:
    files = write(Kind(kind), naming := Naming(name), tmp_path)
    found = contents(tmp_path / naming.distribution)
    assert {str(file.relative_to(tmp_path / naming.distribution)) for file in files} == set(found)
    for path, text in found.items():
        assert not re.search("example.?name", path + text, re.IGNORECASE), path
        if path.endswith(".py"):
            compile(text, path, "exec")
    project = tomllib.loads(found["pyproject.toml"])["project"]
    assert project["name"] == f"srum-{name}"
    assert project["dependencies"] == ["srum-plugins"]
    (point,) = project["entry-points"]["srum_plugins"].items()
    assert point == (name, f"{naming.package}.plugin")
    assert f"{naming.package}/plugin.py" in found
    assert f'name = "{name}"' in found["tests/test_conformance.py"]
    (commands,) = re.findall(r"```sh\n(.*?)```", found["README.md"], re.DOTALL)
    assert [shlex.split(line, comments=True)[:3] for line in commands.splitlines()] == [
        ["pip", "install", "-e"],
        ["python", "-m", "pytest"],
        ["srum", "run", "demo"],
    ]
    assert f"{kind}={name}" in commands


def test_what_linters_and_python_leave_in_templates_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("common/.ruff_cache/.gitignore", "judge/srum_example_name/__pycache__/a.pyc", "judge/.gitignore"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    monkeypatch.setattr(package, "TEMPLATES", tmp_path)
    assert write(Kind.JUDGE, Naming("a"), tmp_path / "out") == [tmp_path / "out/srum-a/.gitignore"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_finds_the_plugin_and_the_factory_makes_what_it_should(site: Site, kind: str) -> None:
    folder = new_package(site.folder, kind, "my-own")
    pytest.MonkeyPatch().syspath_prepend(str(folder))
    site.names.add("srum-my-own")
    registered = PluginHost.load(entry_points=site.entry_points()).get(Kind(kind), "my-own")
    assert (registered.distribution, registered.version) == ("srum-my-own", "0.1.0")
    provider = registered.provider
    made = provider.factory(provider.options(), *(["cpu"] if kind == "adapter" else []))
    contract = {"adapter": "ModelAdapter"}.get(kind, kind.capitalize())
    assert isinstance(made, getattr(importlib.import_module("srum_plugins.contracts"), contract))


# --- the command ------------------------------------------------------------------------------------------------------
def test_the_command_writes_lists_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "grounder", "corners", "--out", str(tmp_path / "deep/er")]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "deep/er/srum-corners"
    assert sorted(line for line in out.splitlines() if line.startswith(str(tmp_path))) == sorted(
        str(folder / path) for path in contents(folder)
    )
    assert f"  pip install -e '{folder}[test]'\n  python -m pytest {folder}\n" in out


def test_what_is_next_can_be_pasted_whatever_the_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new", "judge", "mine", "--out", str(tmp_path / "it's (my) own")]) == 0
    pip, pytest_ = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  p")]
    folder = str(tmp_path / "it's (my) own/srum-mine")
    assert pip == ["pip", "install", "-e", f"{folder}[test]"]
    assert pytest_ == ["python", "-m", "pytest", folder]


def test_pip_is_told_a_folder_and_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "judge", "mine"]) == 0
    assert "pip install -e './srum-mine[test]'" in capsys.readouterr().out


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "judge", "mine", "--out", str(tmp_path)]) == 0
    (tmp_path / "srum-mine/README.md").write_text("my own words")
    before = contents(tmp_path)
    assert cli.main(["new", "adapter", "mine", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / 'srum-mine'} is there already, and nothing was written" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["new", "judge", "mine", "--out", str(tmp_path / "file")]) == 2
    assert "srum-mine cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("judge", "choice", r"srum-plugins \S+ has the judge 'choice'"),
        ("judge", "rewards", r"srum-plugins \S+ has a plugin of this name, srum_plugins.rewards.plugin"),
        ("adapter", "json-lines", r"there is a Python package srum_json_lines: .*srum_json_lines/__init__.py"),
    ],
)
def test_a_name_that_is_taken_is_told_with_its_owner(
    site: Site, capsys: pytest.CaptureFixture[str], kind: str, name: str, why: str
) -> None:
    (site.folder / "srum_json_lines").mkdir()
    (site.folder / "srum_json_lines/__init__.py").touch()
    assert cli.main(["new", kind, name, "--out", str(site.folder / "out")]) == 2
    error = capsys.readouterr().err
    assert f"the name {name!r} is taken, and nothing was written: " in error
    assert re.search(why, error)
    assert not (site.folder / "out").exists()


def test_help_says_what_each_kind_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["new", "--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {kind} +{re.escape(what)}$", out, re.MULTILINE) for kind, what in KINDS.items())
