"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from srum_plugins.errors import SrumError

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do about it: empty if there is nothing to do, or if ``says`` has it.

    A ``problem`` keeps a run from its end, or a plugin from being used. A ``warning`` may.
    """

    check: str
    level: Level
    says: str
    mend: str = ""


def found(check: str, examine: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds. One that fails is a problem itself: what is broken on a machine breaks in any way."""
    try:
        return list(examine())
    except SrumError as error:
        return [Finding(check, "problem", str(error))]
    except Exception as error:
        return [Finding(check, "problem", f"it cannot be looked at: {type(error).__name__}: {error}")]
