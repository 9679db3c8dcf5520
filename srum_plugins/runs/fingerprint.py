"""Fingerprints: what a stage's results depend on, as one hash, and in words when it changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SHORT = 12  # hex digits of a fingerprint in a directory name


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Refuses NaN and foreign types."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """The sha256 of :func:`canonical`, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def stable_seed(*parts: Any) -> int:
    """A seed in [0, 2^63) that depends on these plain values only: the same on every machine and in every process."""
    return int(fingerprint(parts)[:16], 16) >> 1


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between the ingredients of two fingerprints, one phrase each, such as
    ``aggregator was srum, is shuffled``. A provider whose name changed is one difference, not one per option."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if key in old and key in new and canonical(before) == canonical(after):
            continue
        if prefix == "inputs.":
            found.append(f"its input {key} changed")
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            if "name" in before and before["name"] != after.get("name"):
                found.append(f"{path} was {_show(before['name'])}, is {_show(after.get('name'))}")
            else:
                found.extend(changes(before, after, f"{path}."))
        else:
            found.append(f"{path} was {_show(before)}, is {_show(after)}")
    return found


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value[:SHORT] if len(value) == 64 else value
    return "unset" if value is None else canonical(value)
