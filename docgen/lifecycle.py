"""When the event hooks are called: the order, as data, and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

Times = Literal["once", "maybe", "often"]


@dataclass(frozen=True)
class Event:
    """A call of a hook. ``note`` says when, in a few words."""

    hook: str
    note: str = ""
    times: Times = "once"


@dataclass(frozen=True)
class Block:
    """Calls that belong together, in this order. Where an exception ends them, ``failed`` is called in place of the
    rest."""

    title: str
    parts: tuple[Event | Block, ...]
    failed: str = ""
    times: Times = "once"


STEP = Block(
    "each training step, in the stage train",
    (
        Event("srum_train_step_started"),
        Event("srum_train_step_finished"),
        Event("srum_monitor", "phase during; each monitor that is due", "often"),
        Event("srum_checkpoint_saved", "every train.checkpoint_every steps, and at the last", "maybe"),
    ),
    "srum_train_step_failed",
    "often",
)
STAGE = Block(
    "each stage",
    (
        Event("srum_stage_started"),
        Block(
            "until all work is done; left out where the stage is reused",
            (
                Event("srum_attention_chosen", "before a model that takes a kernel is loaded", "maybe"),
                Event("srum_monitor", "phase before; each monitor", "often"),
                STEP,
                Event("srum_stage_advanced", "a chunk or a checkpoint is on the disk"),
            ),
            times="often",
        ),
        Event("srum_monitor", "phase after; each monitor", "often"),
        Event("srum_metrics"),
        Event("srum_images", "each picture", "often"),
        Event("srum_table", "after the stage evaluate", "maybe"),
        Event("srum_stage_finished"),
    ),
    "srum_stage_failed",
    "often",
)
RUN = Block(
    "a run",
    (
        Event("srum_run_started"),
        STAGE,
        Event("srum_report", "once there is an evaluation", "maybe"),
        Event("srum_run_finished"),
    ),
    "srum_run_failed",
)

WIDTH, ROW, INDENT, MARGIN = 760, 24, 18, 10


def pattern(part: Event | Block = RUN) -> str:
    """A regular expression of the hooks' names in the order in which a run without an exception calls them, each with a
    space behind it."""
    own = f"{part.hook} " if isinstance(part, Event) else "".join(pattern(one) for one in part.parts)
    return f"(?:{own}){ {'once': '', 'maybe': '?', 'often': '*'}[part.times] }"


def picture() -> str:
    """The lifecycle as an SVG image: boxes in boxes, time runs down."""
    drawn: list[str] = []
    height = _block(RUN, 0, MARGIN, drawn) + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">'
    )
    style = "<style>.hook,.bad{font-family:monospace}.hook{fill:#1a1a1a}.note{fill:#555}.bad{fill:#b00020}</style>"
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *drawn, "</svg>", ""])


def _block(block: Block, depth: int, top: int, drawn: list[str]) -> int:
    """Draw a block from ``top`` on, and give where it ends."""
    left, place = MARGIN + depth * INDENT, len(drawn)
    _text(left + 8, top, block.title, "note", drawn)
    if block.failed:
        _text(WIDTH - left - 8, top, f"exception: {block.failed}", "bad", drawn, "end")
    bottom = top + ROW
    for part in block.parts:
        if isinstance(part, Block):
            bottom = _block(part, depth + 1, bottom, drawn) + 6
        else:
            bottom = _event(part, left + INDENT, bottom, drawn)
    width, fill = WIDTH - 2 * left, ("#f6f8fb", "#eaf0f8", "#dde8f5", "#cfdff2")[depth]
    place_and_size = f'x="{left}" y="{top}" width="{width}" height="{bottom - top + 4}"'
    drawn.insert(place, f'<rect {place_and_size} rx="6" fill="{fill}" stroke="#8aa4c4"/>')
    return bottom + 4


def _event(event: Event, left: int, top: int, drawn: list[str]) -> int:
    _text(left, top, event.hook, "hook", drawn)
    if event.note:
        _text(left + 210, top, event.note, "note", drawn)
    return top + ROW


def _text(left: int, top: int, words: str, style: str, drawn: list[str], anchor: str = "start") -> None:
    drawn.append(f'<text x="{left}" y="{top + 17}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>')
