"""Whether a checkpoint is one of Janus, as far as its place and its config tell. Cheap to import: it is asked before
anything heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srum_janus.options import AdapterOptions
from srum_plugins.checkpoint_config import read_json
from srum_plugins.errors import CheckpointError
from srum_plugins.hub import check_place


def check(options: AdapterOptions) -> None:
    """Refuse what holds no Janus. Of a checkpoint on the hub only its name is looked at.

    Raises:
        ConfigError: ``checkpoint`` is no place.
        CheckpointError: the folder holds no Janus in the layout of transformers.
    """
    check_place(options.checkpoint, options.revision)
    folder = Path(options.checkpoint).expanduser()
    if folder.is_dir():
        config_data(folder)


def config_data(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says.

    Raises:
        CheckpointError: it is missing or damaged, or of another model or layout.
    """
    file = folder / "config.json"
    data = read_json(file, "it is no Janus")
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind == "multi_modality":
        raise CheckpointError(
            f"{file} is of the original code's layout: give the same model in that of transformers, such as "
            "deepseek-community/Janus-Pro-1B"
        )
    if kind != "janus":
        raise CheckpointError(f"{file} is of model_type {kind!r}, not 'janus'")
    found: dict[str, Any] = data
    return found
