"""Reads a file of boxes: JSON Lines, one object for the boxes of one image.

    {"candidate": "p0-1", "boxes": [{"box": [12, 30, 200, 180], "label": "red apple", "score": 0.83}]}
    {"prompt": "a red apple on a green plate", "index": 2, "boxes": []}
    {"prompt_id": "p0", "boxes": [{"box": [0, 0, 64, 64]}]}

A line is for the candidate of that id, for the candidate of that index (from 0) of the prompt with that text, or for
all candidates of the prompt of that id. ``label`` and ``score``, in [0, 1], may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from srum_plugins.boxes import is_finite
from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.records import Candidate, Prompt

WHOSE = ("candidate", "prompt_id", "prompt")
KEYS = (*WHOSE, "index", "boxes")
BOX_KEYS = ("box", "label", "score")

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Given:
    """A box as it is written: ``corners`` may be anything."""

    corners: Any
    label: str
    score: float | None


@dataclass(frozen=True)
class BoxFile:
    """The boxes of a file by whose they are, and the sha256 of its bytes."""

    boxes: Mapping[Key, tuple[Given, ...]]
    digest: str

    def of(self, prompt: Prompt, candidate: Candidate) -> tuple[Given, ...] | None:
        """The boxes of a candidate, by the line that is most its own: its id's, its prompt's text and index', its
        prompt's id's; None if there is no line."""
        keys: tuple[Key, ...] = (
            ("candidate", candidate.id),
            ("prompt", prompt.text, candidate.index),
            ("prompt_id", prompt.id),
        )
        return next((self.boxes[key] for key in keys if key in self.boxes), None)


def read(path: Path) -> BoxFile:
    """Read and check a whole file. What the corners of its boxes are is not checked here: see
    :func:`srum_plugins.boxes.fitted`.

    Raises:
        ConfigError: there is no file; or a line that is not as it must be, or for boxes that an earlier one was for, as
            ``path:line``.
    """
    if not path.is_file():
        raise ConfigError(
            f"grounder.path: there is no file {path}. Images to find boxes in are made by `srum generate` with any "
            "other grounder, such as grounder=whole-image"
        )
    data = path.read_bytes()
    boxes: dict[Key, tuple[Given, ...]] = {}
    first: dict[Key, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            key, given = _line(line)
            if key in first:
                raise ValueError(f"the boxes of {' '.join(map(str, key))} are in line {first[key]} already")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
        first[key], boxes[key] = number, given
    return BoxFile(boxes, sha256(data).hexdigest())


def _line(line: bytes) -> tuple[Key, tuple[Given, ...]]:
    """Whose boxes a line holds, and these. Raises ValueError."""
    said = _checked(json.loads(line.decode()), KEYS, "a line")
    whose = [name for name in WHOSE if name in said]
    if len(whose) != 1:
        raise ValueError(f"a line names one of {', '.join(WHOSE)}, this one {', '.join(whose) or 'none'}")
    (name,) = whose
    if not isinstance(said[name], str):
        raise ValueError(f"{name} must be a text, got {said[name]!r}")
    index = said.get("index")
    if name == "prompt" and not (isinstance(index, int) and not isinstance(index, bool) and index >= 0):
        raise ValueError(f"prompt needs index, the number of its candidate from 0, got {index!r}")
    if name != "prompt" and "index" in said:
        raise ValueError(f"index goes with prompt, not with {name}")
    if not isinstance(said.get("boxes"), list):
        raise ValueError(f"boxes must be a list, which may be empty, got {said.get('boxes')!r}")
    key: Key = (name, said[name], *(() if index is None else (index,)))
    return key, tuple(_given(box) for box in said["boxes"])


def _given(box: Any) -> Given:
    said = _checked(box, BOX_KEYS, "a box")
    if "box" not in said:
        raise ValueError(f"a box needs box, its corners [x0, y0, x1, y1], got {said!r}")
    label, score = said.get("label", ""), said.get("score")
    if not isinstance(label, str):
        raise ValueError(f"label must be a text, got {label!r}")
    if score is not None and not (is_finite(score) and 0 <= score <= 1):
        raise ValueError(f"score must lie in [0, 1], got {score!r}")
    return Given(said["box"], label.strip(), None if score is None else float(score))


def _checked(value: Any, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, got {value!r}")
    if unknown := [key for key in value if key not in keys]:
        raise ValueError(f"{what} has no {unknown[0]!r}.{did_you_mean(unknown[0], keys)}")
    return value
