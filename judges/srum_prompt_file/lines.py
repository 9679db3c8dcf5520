"""Reads a file of prompts. Its name says the form:

- ``.jsonl``: an object a line, ``{"prompt": "a red cube", "id": "c1", "category": "colour", "split": "mine"}``. All but
  ``prompt`` may be left out: the id is then the line's number, from 1.
- any other: one prompt a line.

Blank lines do not count. The split is ``vlm_judged`` where none is given.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.records import Prompt

SPLIT = "vlm_judged"
KEYS = ("prompt", "id", "category", "split")


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order.

    Raises:
        ConfigError: it cannot be read, has no prompts, or a line is not as it must be, as ``path:line``.
    """
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not in UTF-8: {error}") from error
    prompts: list[Prompt] = []
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = _from_json(line, number) if path.suffix == ".jsonl" else _prompt(line.strip(), str(number))
            if prompt.id in first:
                raise ValueError(f"the id {prompt.id!r} is that of line {first[prompt.id]} already")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
        first[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise ConfigError(f"{path} has no prompts, one of which is expected in every line")
    return prompts


def digest(path: Path) -> str:
    """sha256 of the file."""
    return sha256(_bytes(path)).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. It must be a text file with one prompt a line, "
            "or a .jsonl file (docs/benchmarks.md)"
        ) from error


def _from_json(line: str, number: int) -> Prompt:
    said: Any = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError(f"a line must be an object, got {said!r}")
    for name, value in said.items():
        if name not in KEYS:
            raise ValueError(f"a line has no {name!r}.{did_you_mean(name, KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} must be a text that is not empty, got {value!r}")
    if "prompt" not in said:
        raise ValueError(f"a line needs prompt, got {said!r}")
    own = {name: value.strip() for name, value in said.items()}
    return _prompt(own["prompt"], own.get("id", str(number)), own.get("category", ""), own.get("split", SPLIT))


def _prompt(text: str, identifier: str, category: str = "", split: str = SPLIT) -> Prompt:
    return Prompt(identifier, text, category, split)
