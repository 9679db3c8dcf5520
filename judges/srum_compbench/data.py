"""Reads T2I-CompBench's prompts, in either of the forms in which they are public.

- A JSON file as in SRUM's release (``val_comp.json``): a list of objects with ``Question``, ``Category`` and
  ``Question_id``.
- A folder of text files as in T2I-CompBench itself: ``color_val.txt`` and so on, one prompt a line. Blank lines do not
  count, and the ends of lines may be of any kind. ``complex_val_action.txt`` and ``complex_val_spatial.txt`` are the
  categories ``complex_action`` and ``complex_spatial``, which Complex counts again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from srum_compbench.options import CATEGORIES, PromptOptions
from srum_plugins.contracts import Composite
from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.records import Prompt

SPLIT = "compbench_vlm_judged"
"""The split of all prompts, and so the name of every figure: it is not the official metric."""
FILES: Mapping[str, str] = {
    **{name: f"{name.replace('-', '_')}_val.txt" for name in CATEGORIES},
    "complex_action": "complex_val_action.txt",
    "complex_spatial": "complex_val_spatial.txt",
}
_COMPLEX = ("complex", "complex_action", "complex_spatial")
_OTHERS = tuple(name for name in CATEGORIES if name not in _COMPLEX)

COMPOSITES = (
    Composite("complex of three", dict.fromkeys(_COMPLEX, 1 / 3)),
    Composite("overall of eight", {**dict.fromkeys(_OTHERS, 1 / 8), **dict.fromkeys(_COMPLEX, 1 / 24)}),
)
"""As in SRUM's release: Complex is the mean of three means, overall the mean of Complex and seven other categories."""


def read_prompts(options: PromptOptions) -> list[Prompt]:
    """The prompts that the options name, category by category. Their ids hold the category, and the ``Question_id`` or
    the number of the prompt in its file, from 0.

    Raises:
        ConfigError: there is no such file or folder, it is in another form, or it lacks a category that is asked for.
    """
    path = options.path
    found = _from_folder(path, options.categories) if path.is_dir() else _from_json(path, options.categories)
    if not found:
        raise ConfigError(f"{path} has no prompt of any category. {_expected()}")
    return [prompt for prompts in found.values() for prompt in prompts[: options.per_category]]


def digest(path: Path) -> str:
    """sha256 of the file, or of the names and contents of the folder's text files."""
    if not path.is_dir():
        return sha256(_bytes(path)).hexdigest()
    listed = {name: sha256(_bytes(path / name)).hexdigest() for name in FILES.values() if (path / name).is_file()}
    return sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _from_folder(folder: Path, wanted: Sequence[str]) -> dict[str, list[Prompt]]:
    found: dict[str, list[Prompt]] = {}
    for category in wanted or CATEGORIES:
        path = folder / FILES[category]
        if not path.is_file():
            if wanted:
                raise ConfigError(f"there is no {path}, which category {category!r} is in")
            continue
        texts = [line.strip() for line in _text(path).splitlines()]
        found[category] = [
            _prompt(category, f"{index:04d}", text) for index, text in enumerate(text for text in texts if text)
        ]
        if not found[category]:
            raise ConfigError(f"{path} has no prompt, one of which is expected in every line")
    return found


def _from_json(path: Path, wanted: Sequence[str]) -> dict[str, list[Prompt]]:
    try:
        items = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}. {_expected()}") from error
    if not isinstance(items, list):
        raise ConfigError(f"{path} holds no JSON list. {_expected()}")
    found: dict[str, list[Prompt]] = {name: [] for name in wanted or CATEGORIES}
    known: set[str] = set()
    for index, item in enumerate(items):
        prompt = _from_item(item, f"{path}, item {index}")
        if prompt.id in known:
            raise ConfigError(f"{path}, item {index}: the Question_id occurs twice in its category: {prompt.id}")
        known.add(prompt.id)
        if prompt.category in found:
            found[prompt.category].append(prompt)
    if empty := [name for name in wanted if not found[name]]:
        raise ConfigError(f"{path} has no prompt of {empty[0]!r}")
    return {name: prompts for name, prompts in found.items() if prompts}


def _from_item(item: Any, where: str) -> Prompt:
    if not isinstance(item, dict) or (missing := {"Question", "Category", "Question_id"} - item.keys()):
        lacking = f" It lacks {', '.join(sorted(missing))}." if isinstance(item, dict) else ""
        raise ConfigError(f"{where}: expected an object with Question, Category and Question_id.{lacking}")
    text, category, number = item["Question"], item["Category"], item["Question_id"]
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: Question must be a text that is not empty, got {text!r}")
    if category not in CATEGORIES:
        raise ConfigError(f"{where}: there is no category {category!r}.{did_you_mean(str(category), CATEGORIES)}")
    if isinstance(number, bool) or not isinstance(number, int | str) or number == "":
        raise ConfigError(f"{where}: Question_id must be a whole number or a text, got {number!r}")
    return _prompt(category, str(number), text.strip())


def _prompt(category: str, number: str, text: str) -> Prompt:
    return Prompt(f"{category}-{number}", text, category, SPLIT)


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not in UTF-8: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. {_expected()}") from error


def _expected() -> str:
    return "It must be a file such as val_comp.json, or a folder with color_val.txt and so on (docs/benchmarks.md)"
