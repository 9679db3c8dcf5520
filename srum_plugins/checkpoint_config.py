"""The JSON files of a checkpoint, which say what its weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srum_plugins.errors import CheckpointError


def read_json(file: Path, absent: str) -> Any:
    """What a checkpoint's JSON file holds; ``absent`` is what its absence says of the folder.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent} holds no {file.name}: {absent}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also for bytes that are no text
        raise CheckpointError(f"{file} is damaged: {error}") from error
