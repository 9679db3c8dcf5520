"""What the command line makes of its words."""

import pytest

from srum_plugins.cli import parse


@pytest.mark.parametrize(
    "words",
    [
        "run a.yaml b=1 c.d=2 --from judge",
        "run a.yaml --from judge b=1 c.d=2",
        "run a.yaml b=1 --from judge c.d=2",
        "run --from judge a.yaml b=1 c.d=2",
    ],
)
def test_overrides_stand_anywhere_in_their_order(words: str) -> None:
    args = parse(words.split())
    assert (str(args.config), args.overrides, args.start) == ("a.yaml", ["b=1", "c.d=2"], "judge")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run a.yaml --from judge more", "unrecognized arguments: more"),
        ("run a.yaml --fast=1 b=1", "unrecognized arguments: --fast=1"),
        ("plugins --json b=1", "unrecognized arguments: b=1"),
        ("new judge mine --out . b=1", "unrecognized arguments: b=1"),
    ],
)
def test_other_words_are_refused(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(words.split())
    assert left.value.code == 2
    assert told in capsys.readouterr().err
