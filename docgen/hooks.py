"""Every hook with its signature, and the contracts that providers fulfil."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from docgen.markdown import MADE, prose
from srum_plugins.hookspecs import Events, Providers, RunInfo
from srum_plugins.host import KIND_OF_HOOK

LONGEST = 100  # of a signature on one line
_CONTRACT = re.compile(r":class:`([\w.]+)\.(\w+)`")


def page() -> str:
    """The page of all hooks."""
    parts = [
        "# Hooks",
        MADE,
        "A plugin implements any of these with `@srum_plugins.hookimpl`. A hook may take fewer arguments than it is "
        "given, by the names below. [Plugins](../plugins.md) tells how a plugin is found, "
        "[one how-to a kind](../kinds.md) how it is written.",
        "## Lifecycle",
        "![the order of the event hooks in a run](lifecycle.svg)",
        "A run that has nothing to do calls nothing. Figures, tables and pictures of a stage are told again when a "
        "later run reuses it. An experiment of several runs (`srum ablate`) is told as a run without stages, whose "
        "`run.directory` holds its tables; the runs of its arms come between its start and its end, and have it as "
        "`run.parent`. Where a run has several processes, listeners hear the main one alone, and are told the work of "
        "all.",
        "## Provider hooks",
        f"{prose(Providers.__doc__ or '')} Called once, when the host loads. What the class of a contract must do "
        "stands below its hook, and what its methods get and give in [records](records.md).",
    ]
    for name, function in _hooks(Providers):
        parts += [_heading(name, function), python(signature(function)), prose(function.__doc__ or "")]
        parts.append(f"It fills the slot `{_slot(name)}` of a config.")
        parts += _contract(function)
    parts += ["## Event hooks", prose(Events.__doc__ or "")]
    parts.append(f"`run` is a `srum_plugins.hookspecs.RunInfo`:\n\n{prose(RunInfo.__doc__ or '')}")
    for name, function in _hooks(Events):
        parts += [_heading(name, function), python(signature(function)), prose(function.__doc__ or "")]
    return "\n\n".join(parts) + "\n"


def signature(function: Any) -> str:
    """A function's header as it is written, with types and defaults; broken into a line an argument if it is long."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{function!r} is no function")
    return header(node)


def header(node: ast.FunctionDef) -> str:
    """As :func:`signature`, of a function as it is parsed."""
    node.args.args = [one for one in node.args.args if one.arg not in ("self", "cls")]
    parts, result = list(_arguments(node.args)), ast.unparse(node.returns) if node.returns else "None"
    head = f"def {node.name}({', '.join(parts)}) -> {result}: ..."
    if len(head) <= LONGEST:
        return head
    lines = "".join(f"    {one},\n" for one in parts)
    return f"def {node.name}(\n{lines}) -> {result}: ..."


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    plain = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    for one, default in zip(arguments.args, plain, strict=True):
        yield ast.unparse(one) + (f" = {ast.unparse(default)}" if default else "")
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{ast.unparse(arguments.vararg) if arguments.vararg else ''}"
    for one, named in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield ast.unparse(one) + (f" = {ast.unparse(named)}" if named else "")


def class_node(cls: type) -> ast.ClassDef:
    """A class as it is parsed."""
    node = ast.parse(inspect.getsource(cls)).body[0]
    if not isinstance(node, ast.ClassDef):
        raise TypeError(f"{cls!r} is no class")
    return node


def text_below(after: ast.stmt | None) -> Iterator[str]:
    """The text of a field or a value, if that is what follows it."""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        yield prose(str(after.value.value))


def _hooks(specification: type) -> list[tuple[str, Any]]:
    return [(name, function) for name, function in vars(specification).items() if name.startswith("srum_")]


def _heading(name: str, function: Any) -> str:
    return f"### `{name}({', '.join(list(inspect.signature(function).parameters)[1:])})`"


def _slot(hook: str) -> str:
    kind = KIND_OF_HOOK[hook].value
    return "monitors" if kind == "monitor" else kind


def python(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text}\n```"


def _contract(function: Any) -> Iterator[str]:
    """What the class that a provider hook names must do: its text, attributes and methods."""
    found = _CONTRACT.search(function.__doc__ or "")
    if found is None:
        raise ValueError(f"{function.__name__} names no contract as :class:`module.Class` in its docstring")
    cls = getattr(importlib.import_module(found[1]), found[2])
    yield f"**`{cls.__name__}`**: {prose(cls.__doc__ or '')}"
    body = class_node(cls).body
    for one, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign):
            yield python(ast.unparse(one))
            yield from text_below(after)
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            yield python(header(one))
            yield prose(ast.get_docstring(one) or "")
