"""Where a checkpoint is: a folder, or a pinned revision on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from srum_plugins.errors import CheckpointError, ConfigError

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ["*.json", "*.txt", "*.safetensors"]  # of subfolders too


def check_place(checkpoint: str, revision: str | None) -> None:
    """Refuse what can be neither, before anything is downloaded.

    Raises:
        ConfigError: neither a folder nor a hub id, a hub id without a commit, or a folder with one.
    """
    if Path(checkpoint).expanduser().is_dir():
        if revision is not None:
            raise ConfigError(f"adapter.revision is for checkpoints of the hub; {checkpoint} is a folder")
        return
    if not _ID.fullmatch(checkpoint):
        raise ConfigError(f"adapter.checkpoint={checkpoint!r} is neither a folder nor a hub id, owner/name")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"adapter.checkpoint={checkpoint} is no folder here, and a hub id needs adapter.revision, the commit that "
            f"it is pinned to (40 hex digits, from the history of the model's files on the hub); got {revision!r}"
        )


def local_folder(checkpoint: str, revision: str | None, download: bool = True) -> Path:
    """The folder; downloads a pinned revision into the hub's cache, or finds it there.

    Raises:
        ConfigError: see :func:`check_place`.
        CheckpointError: the download failed, or is not wanted and would be needed.
    """
    check_place(checkpoint, revision)
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(checkpoint, revision=revision, allow_patterns=_PATTERNS, local_files_only=not download)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        if not download:
            raise CheckpointError(
                f"{checkpoint} at {revision} is not on this machine, and nothing is downloaded for an estimate: "
                "download it first, or give a folder"
            ) from error
        raise CheckpointError(f"cannot get {checkpoint} at {revision} from the hub: {error}") from error


def not_downloaded(error: BaseException) -> bool:
    """Whether an error comes of a checkpoint that is not on this machine, where nothing may be downloaded
    (``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error.__cause__, LocalEntryNotFoundError)


def folder_identity(checkpoint: str, revision: str | None) -> str:
    """What tells one checkpoint from another, without reading its weights: of one from the hub its commit; of a folder
    a hash of its small files and, because reading tens of gigabytes at every start would take minutes, of the names,
    sizes and dates of the large ones."""
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        return f"{checkpoint}@{revision}"
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.suffix == ".safetensors":
            digest.update(f"{name} {file_identity(file)}\n".encode())
        elif file.suffix in (".json", ".txt"):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def file_identity(file: Path) -> str:
    """What tells one large file from another, without reading it: its size and date. Of one that is not there, its
    name."""
    if not file.is_file():
        return str(file)
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"
