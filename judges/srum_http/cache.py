"""Answers of endpoints on disk: what was asked once is not asked and paid again, and a rerun gets the same answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srum_http.messages import Reply
from srum_plugins.errors import ContractError, StageError, StorageError
from srum_plugins.records import from_json, to_json
from srum_plugins.runs.files import write_json
from srum_plugins.runs.fingerprint import fingerprint


class ReplyCache:
    """One JSON file per request in ``folder``, named by a hash of the URL and of all that is sent but the key: model,
    texts, images, sampling. None keeps nothing. ``where`` is the path of the endpoint's settings in the config."""

    def __init__(self, folder: Path | None, where: str = "judge") -> None:
        self._folder, self._where = folder, where

    @staticmethod
    def key(url: str, body: Mapping[str, Any]) -> str:
        """The name of a request, 64 hex digits."""
        return fingerprint([url, body])

    def get(self, key: str) -> Reply | None:
        """What was answered; None if nothing is there, or nothing that can be read."""
        if self._folder is None:
            return None
        try:
            data = json.loads(self._path(self._folder, key).read_bytes())
            return from_json(Reply, data["reply"]) if data["request"] == key else None
        except (OSError, ValueError, RecursionError, KeyError, TypeError, ContractError):
            return None  # absent or damaged: asked anew, and written over

    def put(self, key: str, reply: Reply) -> None:
        """Keep an answer. Raises StageError if it cannot be written."""
        if self._folder is None:
            return
        try:
            write_json(self._path(self._folder, key), {"request": key, "reply": to_json(reply)})
        except (OSError, StorageError) as error:
            raise StageError(
                f"an answer cannot be kept in {self._folder}: {error.__cause__ or error}. Set {self._where}.cache to a "
                "folder that can be written, or to null to go without"
            ) from error

    def _path(self, folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.json"
