"""What the command line makes of its words."""

from pathlib import Path

import pytest

from srum_plugins import cli
from srum_plugins.cli import parse

CONFIGS = Path(cli.__file__).parent / "configs"


def test_a_config_is_a_file_or_the_name_of_one_that_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert parse(["run", "demo"]).config == CONFIGS / "demo.yaml"
    assert parse(["run", "mine.yaml"]).config == Path("mine.yaml")
    assert parse(["run", "other/demo"]).config == Path("other/demo")
    (tmp_path / "bagel").touch()
    assert parse(["run", "bagel"]).config == Path("bagel")


@pytest.mark.parametrize(
    "words",
    [
        "run a.yaml b=1 c.d=2 --from judge",
        "run a.yaml --from judge b=1 c.d=2",
        "run a.yaml b=1 --from judge c.d=2",
        "run --from judge a.yaml b=1 c.d=2",
        "run a.yaml --from judge -- b=1 c.d=2",
    ],
)
def test_overrides_stand_anywhere_in_their_order(words: str) -> None:
    args = parse(words.split())
    assert (str(args.config), args.overrides, args.start) == ("a.yaml", ["b=1", "c.d=2"], "judge")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run a.yaml --from judge more", "unrecognized arguments: more"),
        ("run a.yaml --fast=1 b=1", "unrecognized arguments: --fast=1\n"),
        ("run a.yaml --from judge b=1 more", "unrecognized arguments: more\n"),
        ("run b=1 a.yaml", "CONFIG comes first, then KEY=VALUE"),
        ("run train.lr=0.5 a.yaml", "CONFIG comes first, then KEY=VALUE"),
        ("plugins --json b=1", "unrecognized arguments: b=1"),
        ("run dmo", "there is no file 'dmo', and no config. Did you mean 'demo'?"),
        ("new judge mine --out . b=1", "unrecognized arguments: b=1"),
    ],
)
def test_other_words_are_refused(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(words.split())
    assert left.value.code == 2
    assert told in capsys.readouterr().err
