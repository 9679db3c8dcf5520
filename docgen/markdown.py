"""Docstrings, types and values as Markdown."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, Union

MADE = "<!-- Made by `python -m docgen` from the code. Change it there. -->"

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")
_NOTE = re.compile(r" \(\w+\.md [\d., ]+\)")  # a chapter of the authors' notes, which no reader has
_SECTION = re.compile(r"^(Args|Raises|Returns):$", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def prose(docstring: str) -> str:
    """A docstring as paragraphs: roles and double backticks become code, the arguments of a function a list."""
    text = _NOTE.sub("", _ROLE.sub(r"`\1`", inspect.cleandoc(docstring)).replace("``", "`"))
    text = _SECTION.sub(r"\1:\n", text)
    return _ENTRY.sub(r"- `\1`: ", text)


def kind(hint: Any) -> str:
    """A type as users write its values: ``number``, ``one of a, b``, ``list of int``, ``null``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(one) for one in inner)
    if origin is Literal:
        return " or ".join(code(one) for one in inner)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(code(one.value) for one in hint)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(kind(one) for one in inner)}]"
    if origin in (tuple, list, set, frozenset) or (origin is not None and issubclass(origin, Sequence)):
        return f"list of {kind(inner[0])}"
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return "path"
    names = {bool: "true or false", int: "int", float: "float", str: "text"}
    return names.get(hint, "mapping")


def code(value: Any) -> str:
    """A value as inline code, in YAML."""
    return f"`{plain(value)}`"


def plain(value: Any) -> str:
    """A value in YAML on one line. Text that needs no quotes has none."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(plain(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {plain(one)}' for key, one in value.items())}}}"
    return str(value) if str(value) else "''"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells on one line each."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
