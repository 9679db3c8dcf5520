"""What every conformance suite shares: the provider under test, what its factory makes, and how a breach is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy

from srum_plugins.contracts import Capability
from srum_plugins.errors import CapabilityError, SrumError
from srum_plugins.host import PluginHost, Registered
from srum_plugins.options import build_options
from srum_plugins.providers import Kind
from srum_plugins.records import Box, from_json, to_json
from srum_plugins.testing.places import entries, packages, place_of, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """The provider under test with its options, which are an instance of its dataclass."""

    host: PluginHost
    registered: Registered
    options: Any
    classes: dict[type, None] = field(default_factory=dict, kw_only=True)
    """Those of what the provider made: a breach shows where its method stands in them."""
    told: set[tuple[str, str]] = field(default_factory=set, kw_only=True)
    """Breaches that are told once, by method and cause."""

    def make(self, contract: type, *extra: Any) -> Any:
        """What the provider's factory makes of the options; fails if it is not of the contract's class."""
        factory = self.registered.provider.factory
        try:
            made = factory(self.options, *extra)
        except Exception as error:
            self.raised("factory", error, (self.options, *extra), once=True)
        if not isinstance(made, contract):
            self.breach(
                "factory",
                f"returned {type(made).__name__}, which is no {contract.__name__}",
                "subclass the contract",
                once="type",
            )
        self.classes[type(made)] = None
        return made

    def breach(
        self, method: str, wrong: str, mend: str, *, error: Exception | None = None, once: str | None = None
    ) -> NoReturn:
        """Fail the running test: ``method`` of this provider does something ``wrong``; ``mend`` says what to do.

        ``error`` is what it raised, whose traceback is shown. With a cause as ``once`` only the first test fails by it,
        and others are skipped: for what every test would meet, and never within :meth:`Conformance.for_all`, where
        hypothesis tries a failure again.
        """
        if once is not None:
            if (method, once) in self.told:
                pytest.skip(f"{method} cannot be used: the first test that calls it says why")
            self.told.add((method, once))
        registered = self.registered
        provider = registered.provider
        own = packages(*self.classes, provider.factory)
        at, lines = (
            entries(error, own)
            if error is not None
            else (place_of(method, (*self.classes, provider), own) or registered.file, [])
        )
        raise pytest.fail.Exception(
            f"the {registered.kind.value} {provider.name!r} of {registered.origin}, {method}: {wrong}.\n"
            f"  mend: {mend}\n  at: {at}" + "".join(f"\n    {line}" for line in lines),
            pytrace=False,
        ) from None  # what was raised is shown by its lines

    def raised(self, method: str, error: Exception, given: Sequence[object], *, once: bool = False) -> NoReturn:
        """:meth:`breach`, for an exception that a ``method`` raised for what it was ``given``; ``once`` for each place
        that raises."""
        at, _ = entries(error, packages(*self.classes, self.registered.provider.factory))
        said = str(error).strip().removesuffix(".")
        mends = {"factory": "make what the options ask for, or refuse them by a SrumError that says what they lack"}
        self.breach(
            method,
            f"raised {type(error).__name__}: {said}; it was given {'; '.join(map(shown, given)) or 'nothing'}",
            mends.get(method, "let it answer for every input of its contract"),
            error=error,
            once=f"{type(error).__name__} at {at}" if once else None,
        )

    def require(self, holds: bool, method: str, wrong: str, mend: str) -> None:
        """:meth:`breach` unless something ``holds``."""
        if not holds:
            self.breach(method, wrong, mend)

    @property
    def needed(self) -> frozenset[Capability]:
        """What the provider asks of a model, with these options."""
        return frozenset(self.registered.provider.needs(self.options))

    def call(self, method: str, function: Callable[..., T], *arguments: Any, **settings: Any) -> T:
        """What a ``method`` of the provider returns; an exception is a breach that names its place."""
        try:
            return function(*arguments, **settings)
        except CapabilityError as error:
            needs = ", ".join(sorted(self.needed)) or "none"
            self.breach(
                method,
                f"asked the model for more than its needs, which are {needs}: {error}",
                "name the capability in the provider's needs, or do without it",
                error=error,
            )
        except Exception as error:
            self.raised(method, error, arguments)

    def refused(self, method: str, function: Callable[..., object], *arguments: Any) -> None:
        """Breach unless the call is refused by a :class:`SrumError`, in words for people."""
        mend = "raise a SrumError that says what is missing; ModelAdapter's own methods do for what a model cannot"
        try:
            function(*arguments)
        except SrumError:
            return
        except Exception as error:
            self.breach(method, f"refused a model that lacks its needs by {type(error).__name__}: {error}", mend)
        self.breach(method, "took a model that can do nothing of what its needs name, and answered", mend)

    def keeps(self, method: str, record: object) -> None:
        """Breach unless a record is the same when it is written as JSON and read again, as a run does."""
        try:
            read = from_json(type(record), json.loads(json.dumps(to_json(record), allow_nan=False)))
        except (TypeError, ValueError, SrumError) as error:
            self.breach(method, f"gave a record that JSON cannot hold: {error}", "use plain numbers, texts and tuples")
        self.require(
            read == record,
            method,
            f"gave a record that is another when it is read again:\n    {record}\n    {read}",
            "use plain numbers, texts and tuples, as the annotations of the record say",
        )


class Conformance:
    """Base of the suites. A subclass of a suite says what is tested by these attributes.

    ``name`` is the provider's name, and ``options`` are its settings as in a config; :meth:`configure` gives those that
    need files. ``plugin`` is a module or an object with hooks that is not installed: it is then the only one there is.
    ``examples`` is how many inputs a property is tried on: fewer where the provider is slow.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    plugin: ClassVar[object | None] = None
    examples: ClassVar[int] = 10

    @classmethod
    def for_all(cls, inputs: SearchStrategy[T], check: Callable[[T], None]) -> None:
        """Try a check on ``examples`` inputs. The first that fails is told as it is: looking for a smaller one would
        take minutes with a slow provider."""
        quick = settings(max_examples=cls.examples, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
        quick(given(inputs)(check))()

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        """The provider's settings. ``folder`` is empty, for files that they name; it is kept until the suite ends."""
        return cls.options

    @classmethod
    def host(cls) -> PluginHost:
        """The plugins among which the provider is looked up."""
        if cls.plugin is None:
            return PluginHost.load()
        host = PluginHost.load(entry_points=())
        host.register(cls.plugin, getattr(cls.plugin, "__name__", type(cls.plugin).__name__))
        return host

    def test_its_identity_is_the_same_at_every_call(self, subject: Subject) -> None:
        """``Provider.identity`` is part of what a run is recognised by: another one, and all is done again."""
        found = [subject.call("identity", subject.registered.provider.identity, subject.options) for _ in range(2)]
        subject.require(
            isinstance(found[0], str) and found[0] == found[1],
            "identity",
            f"gives {found[0]!r:.80}, and then {found[1]!r:.80}",
            "give a text that follows from the options and the files that they name, such as a hash of these",
        )

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        """The provider under test."""
        return cls.open(tmp_path_factory.mktemp(cls.name))

    @classmethod
    def open(cls, folder: Path) -> Subject:
        """The provider under test, with the settings that :meth:`configure` gives for an empty folder."""
        try:
            host = cls.host()
            registered = host.get(cls.kind, cls.name)
            options: Any = build_options(registered.provider.options, cls.configure(folder), cls.kind.value)
        except SrumError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        return Subject(host, registered, options)


def global_random() -> dict[str, object]:
    """The states of the random numbers that a whole process shares, by whose they are."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "Python": random.getstate(),
    }


def in_first_pixel(located: Iterable[tuple[Box, tuple[int, int]]]) -> int:
    """How many boxes lie in the pixel at the top left of their images, of these (width, height), if all do; else 0. So
    do boxes that are told in shares of the image's sides. Images of a few pixels do not count."""
    seen = [box for box, size in located if min(size) >= 4]
    return len(seen) if all(box.inside(1, 1) for box in seen) else 0


RELATIVE = "multiply corners that are shares of the image's sides by its width and height"
"""The mend for such boxes."""


def same_length(subject: Subject, method: str, what: str, given: Sequence[object], got: Sequence[object]) -> None:
    """Breach unless there is one answer for each item that was given."""
    subject.require(
        len(given) == len(got),
        method,
        f"gave {len(got)} {what} for {len(given)} items",
        f"return one of the {what} for each item, in the order of the items",
    )
