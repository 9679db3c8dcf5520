"""Every key of a configuration, from the dataclasses that check it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from docgen.markdown import MADE, code, kind, plain, prose, table
from srum_plugins.config import SECTIONS
from srum_plugins.host import PluginHost, Registered
from srum_plugins.providers import Kind, NoOptions

OURS = "srum-plugins"
LONGEST = 60  # of a default in the table; longer texts stand below it
TITLES = {
    Kind.ADAPTER: "Adapters",
    Kind.GROUNDER: "Grounders",
    Kind.JUDGE: "Judges",
    Kind.AGGREGATOR: "Aggregators",
    Kind.OBJECTIVE: "Objectives",
    Kind.PROMPTS: "Prompt sets",
    Kind.BENCHMARK: "Benchmarks",
    Kind.ATTENTION: "Attention kernels",
    Kind.MONITOR: "Monitors",
}


def page(host: PluginHost) -> str:
    """The page of all sections and of our own providers; plugins of others have their own documentation."""
    parts = [
        "# Configuration, every key",
        MADE,
        "Types, defaults and meanings as the code has them. [Configuration](../configuration.md) explains how a file "
        "is read, overridden and reused. A default of `???` must be given.",
        "## Sections",
        *(_options(name, section, f"### `{name}`") for name, section in SECTIONS.items()),
    ]
    for of, title in TITLES.items():
        parts.append(f"## {title}")
        parts += [_provider(of, one) for one in host.found(of) if one.distribution == OURS]
    return "\n\n".join(parts) + "\n"


def _provider(of: Kind, registered: Registered) -> str:
    provider = registered.provider
    slot = "monitors" if of is Kind.MONITOR else of.value
    facts = [f"{provider.summary[0].upper()}{provider.summary[1:]}."]
    if provider.extra:
        facts.append(f"Needs `{provider.extra}`.")
    if provider.capabilities:
        facts.append(f"It can {', '.join(sorted(provider.capabilities))}.")
    if provider.presets:
        facts.append(f"Presets of its sampling: {', '.join(code(name) for name in provider.presets)}.")
    parts = [f"### `{slot}: {provider.name}`", " ".join(facts)]
    for where, cls in (
        (slot if of is not Kind.MONITOR else "", provider.options),
        ("generate.sampling", provider.sampling),
        ("train.adapter", provider.training),
    ):
        if cls is not NoOptions:
            title = (
                ""
                if cls is provider.options
                else f"**`{where}`** with this adapter"
                + (", and `evaluate.sampling`:" if where == "generate.sampling" else ":")
            )
            parts.append(_options(where, cls, title))
    return "\n\n".join(parts)


def _options(where: str, cls: type, title: str) -> str:
    """The table of a dataclass of settings, what its docstrings say, and the texts that are too long for a cell."""
    rows, texts = [], []
    for path, hint, default in _fields(cls):
        key = f"{where}.{path}" if where else path
        shown = plain(default)
        if isinstance(default, str) and (len(shown) > LONGEST or "\n" in shown):
            texts.append(f"Default of `{key}`:\n\n```text\n{shown}\n```")
            shown = "text below"
        else:
            shown = f"`{shown}`"
        rows.append((f"`{key}`", hint, shown))
    return "\n\n".join(part for part in (title, *_told(cls), table(("key", "type", "default"), rows), *texts) if part)


def _told(cls: type) -> Iterator[str]:
    """What a dataclass and those that it is made of say of their fields, the most general first."""
    for base in reversed(cls.__mro__):
        own = vars(base).get("__doc__")
        if dataclasses.is_dataclass(base) and own and not own.startswith(f"{base.__name__}("):
            yield prose(own)


def _fields(cls: Any, default: Any = None) -> Iterator[tuple[str, str, Any]]:
    """Path, type and default of every field, nested ones after the one that holds them. ``default`` is an instance that
    has the defaults, where there is one."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        value = getattr(default, field.name) if default is not None else _default(field)
        nested = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
        if not nested:
            yield field.name, kind(hint), value
            continue
        if value is None:
            yield field.name, "mapping or null", None
        for path, of, inner in _fields(nested[0], value):
            yield f"{field.name}.{path}", of, inner


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "???" if field.default is dataclasses.MISSING else field.default
