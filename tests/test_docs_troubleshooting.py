"""docs/troubleshooting.md quotes messages that the program has."""

import re
from pathlib import Path

from messages import messages

TEXT = (Path(__file__).parents[1] / "docs/troubleshooting.md").read_text()
QUOTES = re.findall(r"^> (.+)$", TEXT, re.MULTILINE)


def test_every_message_is_one_of_the_program() -> None:
    known = list(messages())
    assert [quote for quote in QUOTES if not any(_squeezed(quote) in _squeezed(text) for text in known)] == []


def _squeezed(message: str) -> str:
    """Without what is filled in first or last, and with one sign for values that stand side by side."""
    return re.sub(r"…[…\s]*", "…", message).strip("….")


def test_a_message_that_nobody_says_would_be_found() -> None:
    assert not any("the grounder is tired" in text for text in messages())


def test_every_symptom_has_an_explanation_and_none_is_quoted_twice() -> None:
    sections = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) > 15
    for section in sections:
        plain = [line for line in section.splitlines()[1:] if line and line[0] not in ">#"]
        assert plain or "needs torchao" in section, section
    assert len(QUOTES) > 30 and len(set(QUOTES)) == len(QUOTES)
