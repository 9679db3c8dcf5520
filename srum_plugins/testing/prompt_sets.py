"""Does a prompt set keep its contract (:class:`srum_plugins.contracts.PromptSet`)?"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest

from srum_plugins.contracts import Benchmark, PromptSet
from srum_plugins.providers import Kind
from srum_plugins.records import Prompt
from srum_plugins.testing.suite import Conformance, Subject


def checked_prompts(subject: Subject, source: PromptSet | Benchmark) -> list[Prompt]:
    """All prompts of a source: at least one, records that JSON can hold, ids and texts there, no id twice."""
    found: list[Prompt] = subject.call("prompts", source.prompts)
    subject.require(
        isinstance(found, list) and bool(found) and all(isinstance(one, Prompt) for one in found),
        "prompts",
        f"gave {found!r:.200}",
        "give a list of Prompt, at least one",
    )
    for prompt in found:
        subject.keeps("prompts", prompt)
        subject.require(
            bool(prompt.id and prompt.text.strip()),
            "prompts",
            f"gave {prompt!r:.200}",
            "give every prompt an id and a text",
        )
    twice = [identifier for identifier, count in Counter(prompt.id for prompt in found).items() if count > 1]
    subject.require(not twice, "prompts", f"gave the id {twice[:1]} twice", "number the prompts")
    return found


def same_prompts(subject: Subject, source: PromptSet | Benchmark, second: PromptSet | Benchmark) -> None:
    """Breach unless a second call, a call after the list was emptied by its caller, and a second object give the
    same."""
    first = checked_prompts(subject, source)
    given, kept = list(first), checked_prompts(subject, source)
    first.clear()
    for what, found in (
        ("in a second call", kept),
        ("after its list was changed by the one who had it", subject.call("prompts", source.prompts)),
        ("from a second object", subject.call("prompts", second.prompts)),
    ):
        subject.require(
            found == given,
            "prompts",
            f"gave another list {what}: {len(given)} prompts, then {len(found)}",
            "give a new list of the same prompts at every call; draw them with a seed that is an option",
        )


class PromptSetConformance(Conformance):
    """The suite of prompt sets."""

    kind: ClassVar[Kind] = Kind.PROMPTS

    @pytest.fixture(scope="class")
    @classmethod
    def prompt_set(cls, subject: Subject) -> PromptSet:
        """What the factory makes."""
        made: PromptSet = subject.make(PromptSet)
        return made

    def test_prompts_have_ids_of_their_own_and_can_be_written(self, subject: Subject, prompt_set: PromptSet) -> None:
        """At least one, each with an id and a text; what a check wants is among its choices, as the record says."""
        checked_prompts(subject, prompt_set)

    def test_the_list_is_the_same_at_every_call(self, subject: Subject, prompt_set: PromptSet) -> None:
        """Also from a second object: a run that goes on makes the set anew."""
        same_prompts(subject, prompt_set, subject.make(PromptSet))
