"""What every conformance suite shares: the provider under test, what its factory makes, and how a breach is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest

from srum_plugins.host import PluginHost, Registered
from srum_plugins.options import build_options
from srum_plugins.providers import Kind


@dataclass(frozen=True)
class Subject:
    """The provider under test with its options, which are an instance of its dataclass."""

    host: PluginHost
    registered: Registered
    options: Any

    def make(self, contract: type, *extra: Any) -> Any:
        """What the provider's factory makes of the options; fails if it is not of the contract's class."""
        made = self.registered.provider.factory(self.options, *extra)
        if not isinstance(made, contract):
            self.breach(
                "factory", f"returned {type(made).__name__}, which is no {contract.__name__}", "subclass the contract"
            )
        return made

    def breach(self, method: str, wrong: str, mend: str) -> NoReturn:
        """Fail the running test: ``method`` of this provider does something ``wrong``; ``mend`` says what to do."""
        registered = self.registered
        pytest.fail(
            f"the {registered.kind.value} {registered.provider.name!r} of {registered.origin}, {method}: {wrong}.\n"
            f"  mend: {mend}\n  at: {registered.file}",
            pytrace=False,
        )

    def require(self, holds: bool, method: str, wrong: str, mend: str) -> None:
        """:meth:`breach` unless something ``holds``."""
        if not holds:
            self.breach(method, wrong, mend)


class Conformance:
    """Base of the suites. A subclass of a suite says what is tested by these attributes.

    ``name`` is the provider's name, and ``options`` are its settings as in a config; :meth:`configure` gives those that
    need files. ``plugin`` is a module or an object with hooks that is not installed: it is then the only one there is.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    plugin: ClassVar[object | None] = None

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

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        """The provider under test."""
        host = cls.host()
        registered = host.get(cls.kind, cls.name)
        settings = cls.configure(tmp_path_factory.mktemp(cls.name))
        return Subject(host, registered, build_options(registered.provider.options, settings, cls.kind.value))


def same_length(subject: Subject, method: str, what: str, given: Sequence[object], got: Sequence[object]) -> None:
    """Breach unless there is one answer for each item that was given."""
    subject.require(
        len(given) == len(got),
        method,
        f"gave {len(got)} {what} for {len(given)} items",
        f"return one of the {what} for each item, in the order of the items",
    )
