"""The rules by which corners and labels that someone wrote down become a region: mended and noted, or refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from srum_plugins.phrases import meant
from srum_plugins.records import Box, Failure, Region

MALFORMED = "malformed boxes"
"""What are no four finite numbers."""
EMPTY = "empty box"
"""What has no area within the image."""
UNKNOWN = "unknown label"
"""What no phrase that was asked for is called."""
ROUNDING = 1e-6
"""Of a pixel: a box that lies as little outside the image is not noted as one that was clamped."""

_SHOWN = 80


@dataclass(frozen=True)
class Fitted:
    """A box within its image, and what was mended to get it: ``sorted`` corners, ``clamped`` sides."""

    box: Box
    mended: tuple[str, ...] = ()


def fitted(corners: object, size: tuple[int, int], told_in: tuple[float, float] | None = None) -> Fitted | Failure:
    """The box (x0, y0, x1, y1) of an image of (width, height) ``size`` in pixels.

    ``told_in`` is the (width, height) of what the corners were told in, such as (1, 1) for shares of the sides or the
    size that a model saw the image in; None is ``size`` itself. Opposite corners may come in any order, and are sorted;
    sides are clamped to the image. A Failure is what is no list of four finite numbers (:data:`MALFORMED`), and a box
    that then has no area (:data:`EMPTY`). Never raises.
    """
    if not (isinstance(corners, list | tuple) and len(corners) == 4 and all(map(is_finite, corners))):
        return Failure(MALFORMED, f"no four finite numbers: {shown(corners)}")
    told = [float(corner) for corner in corners]
    x0, x1 = sorted((told[0], told[2]))
    y0, y1 = sorted((told[1], told[3]))
    ordered = [x0, y0, x1, y1]
    there = ordered if told_in is None else [s * size[axis % 2] / told_in[axis % 2] for axis, s in enumerate(ordered)]
    inside = [min(max(side, 0.0), float(size[axis % 2])) for axis, side in enumerate(there)]
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return Failure(EMPTY, f"no area within the image: {shown(corners)}")
    clamped = any(abs(was - now) > ROUNDING for was, now in zip(there, inside, strict=True))
    notes = (("sorted", ordered != told), ("clamped", clamped))
    return Fitted(Box(*inside), tuple(what for what, done in notes if done))


def labelled(label: str, phrases: Iterable[str], box: Box, mended: tuple[str, ...] = ()) -> Region | Failure:
    """The region of a box that was found by asking for several phrases; a Failure (:data:`UNKNOWN`) if its label stands
    for none of them (:func:`srum_plugins.phrases.meant`)."""
    phrase = meant(label, phrases)
    return (
        Failure(UNKNOWN, f"nobody asked for {shown(label)}") if phrase is None else Region(box, phrase, mended=mended)
    )


def is_finite(value: object) -> bool:
    """Whether this is a number, and one that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(what: object) -> str:
    """The beginning of what was found, for messages."""
    try:
        text = what.strip() if isinstance(what, str) else str(what)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"a {type(what).__name__} that is too long to be shown"
    return repr(text[:_SHOWN])
