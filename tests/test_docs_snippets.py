"""Every code block of the documentation runs, or is checked by what would run it (tests/snippets.py)."""

import contextlib
import re
from pathlib import Path
from unittest import SkipTest

import pytest
from snippets import PAGES, ROOT, UNREAD, Page, parse_script

MOST_UNCHECKED = 4
"""So many blocks may be marked as not to be checked."""

MARK = re.compile(r'^<!-- skip: next "(.+)" -->$', re.MULTILINE)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU, the extras and the data: before a run it is asked whether they are there, no more."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tests/standins"))
    monkeypatch.setattr("srum_plugins.gate.find_spec", lambda name: "torchao")
    monkeypatch.setenv("SRUM_DATA", str(tmp_path))
    (tmp_path / "sam_vit_h_4b8939.pth").touch()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_work(path: Path, tmp_path: Path) -> None:
    page = Page(path, tmp_path)
    problems = []
    for example in page.examples():
        try:
            with contextlib.suppress(SkipTest):
                example.evaluate()
        except (Exception, SystemExit) as error:
            error.add_note(f"in {path.relative_to(ROOT)}, line {example.line}")
            problems.append(error)
    if problems:
        raise BaseExceptionGroup("blocks that do not work", problems)


def test_few_blocks_are_not_checked_and_each_says_why() -> None:
    marks = {path.name: MARK.findall(path.read_text()) for path in PAGES}
    told = [f"{name}: {reason}" for name, reasons in marks.items() for reason in reasons]
    print("\n".join(told))
    assert len(told) <= MOST_UNCHECKED, told
    assert sum(path.read_text().count("<!-- skip") for path in PAGES) == len(told), "a mark that is no mark"


def test_every_block_has_a_language_that_is_checked() -> None:
    known = {"python", "yaml", "sh", "bash", "console", "json", "toml", *UNREAD}
    for path in PAGES:
        fences = re.findall(r"^```(.*)$", path.read_text(), re.MULTILINE)
        assert set(fences[::2]) <= known, path.name


@pytest.mark.slow
def test_the_scripts_of_the_docs_take_their_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    for path in PAGES:
        page = Page(path, tmp_path)
        for example in page.examples():
            with contextlib.suppress(SkipTest):
                example.evaluate()
        lines += page.scripts
    assert len(lines) > 10
    monkeypatch.chdir(ROOT)
    for line in lines:
        with monkeypatch.context() as patch:
            parse_script(line, patch)
