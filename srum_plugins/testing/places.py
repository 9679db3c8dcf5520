"""Where in a plugin's own code a breach lies, and what it was given, for messages."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from srum_plugins.contracts import GenerationRequest, Question

CORE = ("srum_plugins.contracts", "srum_plugins.flow")
"""Modules whose classes plugins take over: what stands there is none of a plugin's own."""
SUITES = "srum_plugins.testing."
PREDICTED = ("token_losses", "token_distance", "velocities")
"""Methods of what ``predict`` gives, whose class may be one of ours: then ``predict`` is where to look."""
LINES = 12
"""Of a traceback that are shown at its beginning and at its end."""


def packages(*things: object) -> frozenset[str]:
    """The outermost packages in which these classes and functions were written."""
    modules = [getattr(inspect.unwrap(one) if callable(one) else one, "__module__", None) for one in things]
    return frozenset(one.partition(".")[0] for one in modules if isinstance(one, str) and one not in CORE)


def place_of(method: str, owners: Iterable[object], own: frozenset[str]) -> str | None:
    """Where the plugin wrote a method, as "path:line": that of the first owner (a class or an object) that has it from
    one of its ``own`` packages. None if none has, or if there is no source."""
    owners = list(owners)
    for name in (method, "predict") if method in PREDICTED else (method,):
        for owner in owners:
            written = inspect.unwrap(getattr(owner, name)) if callable(getattr(owner, name, None)) else None
            module = getattr(written, "__module__", None) or ""
            if written is None or not _is_own(module, own) or module in CORE:
                continue
            try:
                return f"{inspect.getsourcefile(written)}:{inspect.getsourcelines(written)[1]}"
            except (OSError, TypeError):  # written where no file is
                continue
    return None


def entries(error: BaseException, own: frozenset[str]) -> tuple[str, list[str]]:
    """The "path:line" of the last entry of a traceback that lies in one of the ``own`` packages, else of the last at
    all; and the lines of the entries from the first own one on, as Python shows them: of many, the first and the last
    :data:`LINES`."""
    walked = list(traceback.walk_tb(error.__traceback__))
    summaries = traceback.StackSummary.extract(iter(walked))
    mine = [index for index, (frame, _) in enumerate(walked) if _is_own(frame.f_globals.get("__name__", ""), own)]
    last = summaries[mine[-1] if mine else -1]
    lines = "".join(traceback.format_list(summaries[mine[0] if mine else -1 :])).splitlines()
    if len(lines) > 2 * LINES:
        lines = [*lines[:LINES], "  ...", *lines[-LINES:]]
    return f"{last.filename}:{last.lineno}", lines


def _is_own(module: str, own: frozenset[str]) -> bool:
    return module.partition(".")[0] in own and not f"{module}.".startswith(SUITES)


def shown(value: Any) -> str:
    """What a value is, in a few words: kinds with numbers and sizes, and no contents."""
    match value:
        case Image.Image():
            return f"{value.mode} image of {value.width} x {value.height}"
        case Tensor():
            return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
        case GenerationRequest():
            size = f" of {value.width} x {value.height}" if value.width and value.height else ""
            return f"GenerationRequest{size}"
        case Question():
            about = "no image" if value.image is None else shown(value.image)
            choices = f", {len(value.choices)} choices" if value.choices else ""
            return f"Question about {about}{', a box of it' if value.box else ''}{choices}"
        case None | bool() | int() | float() | str():
            return f"{value!r:.80}"
        case Mapping():
            return f"{type(value).__name__} of {len(value)}"
        case Sequence():
            kinds = [f"{count} {kind}" for kind, count in Counter(map(shown, value)).items()]
            return f"{type(value).__name__} of {', '.join(kinds) or 'nothing'}"
        case _:
            return type(value).__name__
