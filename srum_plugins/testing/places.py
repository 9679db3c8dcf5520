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

CORE, SUITES = "srum_plugins", "srum_plugins.testing"
PREDICTED = ("token_losses", "token_distance", "velocities")
"""Methods of what ``predict`` gives, whose class may be one of ours: then ``predict`` is where to look."""
LAST = 8
"""How many entries of a traceback are shown."""


def packages(*things: object) -> frozenset[str]:
    """The outermost packages in which these classes and functions were written."""
    modules = [getattr(inspect.unwrap(one) if callable(one) else one, "__module__", None) for one in things]
    return frozenset(module.partition(".")[0] for module in modules if isinstance(module, str))


def place_of(method: str, owners: Iterable[object], own: frozenset[str]) -> str | None:
    """Where the plugin wrote a method, as "path:line": that of the first owner (a class or an object) that has it from
    one of its ``own`` packages. None if none has, or if there is no source."""
    owners = list(owners)
    for name in (method, "predict") if method in PREDICTED else (method,):
        for owner in owners:
            written = inspect.unwrap(getattr(owner, name)) if callable(getattr(owner, name, None)) else None
            module = getattr(written, "__module__", None) or ""
            if written is None or not _is_own(module, own) or module in (f"{CORE}.contracts", f"{CORE}.flow"):
                continue
            try:
                return f"{inspect.getsourcefile(written)}:{inspect.getsourcelines(written)[1]}"
            except (OSError, TypeError):  # written where no file is
                continue
    return None


def entries(error: BaseException, own: frozenset[str]) -> tuple[str, list[str]]:
    """ "path:line" of the last entry of a traceback that lies in one of the ``own`` packages, else of the last at all;
    and the entries from the first own one on, as Python shows them, the last :data:`LAST` of them."""
    walked = [
        (frame.f_globals.get("__name__", ""), frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    summaries = traceback.StackSummary.extract((frame, line) for _, frame, line in walked)
    mine = [index for index, (module, _, _) in enumerate(walked) if _is_own(module, own)]
    last = summaries[mine[-1] if mine else -1]
    kept = list(summaries[mine[0] if mine else -1 :])[-LAST:]
    return f"{last.filename}:{last.lineno}", "".join(traceback.format_list(kept)).splitlines()


def _is_own(module: str, own: frozenset[str]) -> bool:
    return module.partition(".")[0] in own and not f"{module}.".startswith(f"{SUITES}.")


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
