"""Pictures for people: sample grids, reward-map overlays, before/after sheets, training curves.

All functions are pure and return RGB images. ``scale`` is the size of a shown pixel; left out, small images are
enlarged by a whole number and large ones shrunk, so that a picture of many images stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Mask
from srum_plugins.rewards.maps import MapRegion, RewardMap, mask_array

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (34, 34, 34)
MUTED: Colour = (110, 110, 110)
GOOD: Colour = (27, 120, 55)
BAD: Colour = (178, 24, 43)

# Red - white - blue for -1 .. 0 .. +1 (ColorBrewer RdBu), told apart by the colour-blind too.
_STOPS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_COLOURS = np.array([[178, 24, 43], [239, 138, 98], [255, 255, 255], [103, 169, 207], [33, 102, 172]], dtype=float)

_GAP = 10
_TILE = 128
_OVERLAY_TILE = 256
_CAPTION_LINES = 6


@dataclass(frozen=True)
class SheetItem:
    """One entry of :func:`reward_sheet`: a candidate, its reward map, the token grid (rows, columns), a caption."""

    image: Image.Image
    map: RewardMap
    grid: tuple[int, int]
    caption: str = ""


def diverging(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The colours (..., 3) of values in [-1, 1]: red for -1, white for 0, blue for +1."""
    channels = [np.interp(values, _STOPS, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def sample_grid(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 8, scale: float | None = None
) -> Image.Image:
    """Images in reading order, each with its caption below."""
    _same_length(images=images, captions=captions)
    tiles = [_tile(image, scale, _TILE) for image in images]
    width = max(tile.width for tile in tiles)
    cells = [
        _stack([tile, _text(caption, width, lines=_CAPTION_LINES)], gap=4)
        for tile, caption in zip(tiles, captions, strict=True)
    ]
    rows = [_beside(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return _framed(_stack(rows))


def overlay(
    image: Image.Image,
    reward_map: RewardMap,
    grid: tuple[int, int],
    scale: float | None = None,
    caption: str = "",
) -> Image.Image:
    """The candidate with its regions and their scores, beside it the weights on the token grid (rows, columns).

    Negative scores and weights are red, zero is white (outlines: grey), positive ones blue; the colour scale is always
    -1 to +1, so that pictures can be compared.

    Raises:
        ContractError: the map is not that of an image of this size.
    """
    if image.size != (reward_map.width, reward_map.height):
        raise ContractError(
            f"the reward map is of an image of {reward_map.width} x {reward_map.height}, got one of "
            f"{image.width} x {image.height}"
        )
    shown = _tile(image, scale, _OVERLAY_TILE)
    weights = reward_map.tokens(*grid).numpy()
    outlined = _outlined(shown, reward_map, shown.width / image.width)
    tokens = Image.fromarray(diverging(weights)).resize(shown.size, Image.Resampling.NEAREST)
    _token_lines(tokens, grid)
    left = _stack([_text("candidate: regions, local scores", shown.width, MUTED), outlined], gap=4)
    right = _stack([_text(f"weights of {grid[0]} x {grid[1]} tokens", shown.width, MUTED), tokens], gap=4)
    bar = _stack([_text(" ", 50), _colour_bar(shown.height)], gap=4)
    panels = _beside([left, right, bar])
    facts = (
        f"alpha {reward_map.alpha:.2f} · outside regions {_signed(reward_map.alpha * reward_map.background)} · "
        f"weights {_signed(weights.min())} to {_signed(weights.max())}"
    )
    header = [_text(caption, panels.width, size=14)] if caption else []
    return _framed(_stack([*header, _text(facts, panels.width), panels], gap=5))


def reward_sheet(items: Sequence[SheetItem], columns: int = 2, scale: float | None = None) -> Image.Image:
    """Several overlays in reading order."""
    _same_length(items=items)
    cells = [overlay(item.image, item.map, item.grid, scale, item.caption) for item in items]
    return _stack([_beside(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def before_after(
    prompts: Sequence[str],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    marks: Sequence[tuple[bool, bool]] | None = None,
    columns: int = 8,
    scale: float | None = None,
) -> Image.Image:
    """Two rows per block of prompts, before and after training with the same seeds, prompts above.

    ``marks`` says for each prompt whether the image before and the one after meet it: shown as tick or cross.
    """
    _same_length(prompts=prompts, before=before, after=after)
    if marks is not None:
        _same_length(prompts=prompts, marks=marks)
    shown = [[_tile(image, scale, _TILE) for image in images] for images in (before, after)]
    width = max(tile.width for tiles in shown for tile in tiles)
    if marks is not None:
        for side, tiles in enumerate(shown):
            for tile, mark in zip(tiles, marks, strict=True):
                _draw_mark(tile, mark[side])
    blocks = []
    for start in range(0, len(prompts), columns):
        part = slice(start, start + columns)
        texts = [_text(prompt, width, lines=_CAPTION_LINES) for prompt in prompts[part]]
        tall = max(text.height for text in texts)
        heads = [_bottom(text, tall) for text in texts]
        rows = [
            _beside([_row_label(label, tiles[part][0].height), *tiles[part]], gap=6)
            for label, tiles in zip(("before", "after"), shown, strict=True)
        ]
        indent = Image.new("RGB", (_row_label("", 1).width, 1), PAPER)
        blocks.append(_stack([_beside([indent, *heads], gap=6), *rows], gap=6))
    note = "same prompt and seed in each column"
    if marks is not None:
        wins = [sum(mark[side] for mark in marks) for side in (0, 1)]
        note += f" · prompt met: {wins[0]} of {len(prompts)} before, {wins[1]} of {len(prompts)} after"
    sheet = _stack(blocks, gap=2 * _GAP)
    return _framed(_stack([sheet, _text(note, max(sheet.width, 220), MUTED)]))


def training_curve(rows: Sequence[Mapping[str, float]]) -> Image.Image:
    """One panel per metric over the key ``step``: the values in light, their running mean in dark.

    ``rows`` are the metrics of train steps; a metric may be missing from some of them.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    _same_length(metrics=names)
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = Figure(figsize=(4.2 * across, 2.9 * down), dpi=100, layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(down, across, index + 1)
        steps = np.array([row["step"] for row in rows if name in row])
        values = np.array([row[name] for row in rows if name in row], dtype=float)
        window = max(1, len(values) // 20)
        axes.plot(steps, values, color="#a8c6e0", linewidth=1, marker="." if len(values) < 2 else "")
        if window > 1:
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color="#2166ac", linewidth=1.8)
        title = name + (f" (dark: mean of {window} points)" if window > 1 else "")
        axes.set_title(title, fontsize=10, parse_math=False)  # the name is the objective's own
        axes.set_xlabel("train step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    png = BytesIO()
    figure.savefig(png, format="png")
    return Image.open(png).convert("RGB")


# --- parts -----------------------------------------------------------------------------------------------------------
@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _same_length(**lists: Sequence[object]) -> None:
    lengths = {name: len(items) for name, items in lists.items()}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise ContractError(f"a picture needs as many of each, and at least one: {lengths}")


def _tile(image: Image.Image, scale: float | None, target: int) -> Image.Image:
    """A copy at the given scale, or at one that brings the longer side near the target size."""
    longer = max(image.size)
    if scale is None:
        scale = max(1, target // longer) if longer <= target else target / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, resample)


def _wrap(text: str, width: int, size: int, most: int | None) -> list[str]:
    """The text in lines of at most ``width`` pixels; what goes beyond ``most`` lines is cut with an ellipsis."""
    font = _font(size)
    lines: list[str] = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:  # letter by letter, for words wider than a line
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "..."]


def _text(text: str, width: int, colour: Colour = INK, size: int = 12, lines: int | None = None) -> Image.Image:
    """A block of wrapped text."""
    wrapped = _wrap(text, width, size, lines)
    height = size + 4
    block = Image.new("RGB", (width, height * len(wrapped)), PAPER)
    draw = ImageDraw.Draw(block)
    for index, line in enumerate(wrapped):
        draw.text((0, index * height + height / 2), line, fill=colour, font=_font(size), anchor="lm")
    return block


def _stack(parts: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Parts below one another, aligned left."""
    size = (max(part.width for part in parts), sum(part.height for part in parts) + gap * (len(parts) - 1))
    whole = Image.new("RGB", size, PAPER)
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + gap
    return whole


def _beside(parts: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Parts beside one another, aligned at the top."""
    size = (sum(part.width for part in parts) + gap * (len(parts) - 1), max(part.height for part in parts))
    whole = Image.new("RGB", size, PAPER)
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + gap
    return whole


def _bottom(part: Image.Image, height: int) -> Image.Image:
    """The part at the bottom of a strip of this height."""
    strip = Image.new("RGB", (part.width, height), PAPER)
    strip.paste(part, (0, height - part.height))
    return strip


def _framed(part: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (part.width + 2 * _GAP, part.height + 2 * _GAP), PAPER)
    whole.paste(part, (_GAP, _GAP))
    return whole


def _row_label(text: str, height: int) -> Image.Image:
    label = Image.new("RGB", (46, height), PAPER)
    ImageDraw.Draw(label).text((0, height / 2), text, fill=INK, font=_font(13), anchor="lm")
    return label


def _signed(value: float) -> str:
    """Two decimals with a sign, but none for zero."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _score_colour(score: float) -> Colour:
    return BAD if score < 0 else (33, 102, 172) if score > 0 else MUTED


def _outlined(shown: Image.Image, reward_map: RewardMap, scale: float) -> Image.Image:
    """The image with each region outlined in the colour of its score, and the scores written."""
    picture = shown.copy()
    draw = ImageDraw.Draw(picture)
    whole = Box(0, 0, reward_map.width, reward_map.height)
    for region in reward_map.regions:
        colour = _score_colour(region.score)
        if isinstance(region.area, Mask):
            _outline_mask(picture, region.area, region.extent or whole, scale, colour)
        else:
            x0, y0, x1, y1 = _corners(region.area, scale)
            draw.rectangle((x0, y0, x1, y1), outline=PAPER, width=5)
            draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=colour, width=3)
    taken: list[tuple[int, int, int, int]] = []
    for region in reward_map.regions:  # after all outlines, so that none crosses a number
        taken.append(_label(draw, picture.size, _extent(region, whole), scale, region.score, taken))
    return picture


def _extent(region: MapRegion, whole: Box) -> Box:
    """The box that holds the region: for a mask, its set pixels (or all, if none is set)."""
    if isinstance(region.area, Box):
        return region.area
    frame = region.extent or whole
    pixels = mask_array(region.area)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if rows.size == 0:
        return frame
    x, y = (frame.x1 - frame.x0) / region.area.width, (frame.y1 - frame.y0) / region.area.height
    return Box(
        frame.x0 + x * columns[0],
        frame.y0 + y * rows[0],
        frame.x0 + x * (columns[-1] + 1),
        frame.y0 + y * (rows[-1] + 1),
    )


def _outline_mask(picture: Image.Image, mask: Mask, extent: Box, scale: float, colour: Colour) -> None:
    x0, y0, x1, y1 = _corners(extent, scale)
    size = (x1 - x0 + 1, y1 - y0 + 1)
    spread = Image.new("L", picture.size)
    spread.paste(Image.fromarray(mask_array(mask)).convert("L").resize(size, Image.Resampling.NEAREST), (x0, y0))
    for width, ink in ((9, PAPER), (7, colour)):
        rim = ImageChops.subtract(spread, spread.filter(ImageFilter.MinFilter(width)))
        picture.paste(ink, (0, 0, *picture.size), rim)


def _corners(box: Box, scale: float) -> tuple[int, int, int, int]:
    """The first and the last pixel of a box in the picture, both inside it."""
    x0, y0, x1, y1 = (round(side * scale) for side in (box.x0, box.y0, box.x1, box.y1))
    return x0, y0, max(x0 + 6, x1 - 1), max(y0 + 6, y1 - 1)


def _label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Box,
    scale: float,
    score: float,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Write a score at a corner of its box where no other label is; returns the place."""
    text = _signed(score)
    width, height = round(draw.textlength(text, font=_font(12))) + 6, 16
    x0, y0, x1, y1 = _corners(box, scale)
    corners = [(x, y) for y in (y0 - height, y1 + 1, y0, y1 - height) for x in (x0, x1 - width + 1)]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in corners]
    places = [(x, y, x + width - 1, y + height - 1) for x, y in inside]
    place = min(places, key=lambda p: sum(_shared(p, other) for other in taken))
    draw.rectangle(place, fill=_score_colour(score), outline=PAPER)
    draw.text((place[0] + width / 2, place[1] + height / 2), text, fill=PAPER, font=_font(12), anchor="mm")
    return place


def _shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """The area that two places share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)


def _token_lines(picture: Image.Image, grid: tuple[int, int]) -> None:
    """Fine lines between tokens, and a border, so that white tokens are seen against the paper."""
    draw = ImageDraw.Draw(picture)
    rows, columns = grid
    if min(picture.width / columns, picture.height / rows) >= 6:
        for column in range(1, columns):
            x = round(column * picture.width / columns)
            draw.line((x, 0, x, picture.height), fill=(225, 225, 225))
        for row in range(1, rows):
            y = round(row * picture.height / rows)
            draw.line((0, y, picture.width, y), fill=(225, 225, 225))
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=MUTED)


def _colour_bar(height: int) -> Image.Image:
    """The scale from +1 (top) to -1, with ticks."""
    bar = Image.new("RGB", (50, height), PAPER)
    ramp = diverging(np.linspace(1, -1, height))[:, None, :]
    bar.paste(Image.fromarray(np.repeat(ramp, 14, axis=1)), (0, 0))
    draw = ImageDraw.Draw(bar)
    draw.rectangle((0, 0, 13, height - 1), outline=MUTED)
    for value in (1.0, 0.5, 0.0, -0.5, -1.0):
        y = round((1 - value) / 2 * (height - 1))
        draw.line((14, y, 17, y), fill=MUTED)
        text_y = min(max(y, 6), height - 7)
        draw.text((20, text_y), _signed(value), fill=INK, font=_font(11), anchor="lm")
    return bar


def _draw_mark(tile: Image.Image, good: bool) -> None:
    """A badge in the lower right corner: a tick or a cross."""
    side = max(12, min(tile.size) // 6)
    badge = Image.new("RGBA", (4 * side, 4 * side))  # drawn large, then shrunk: smooth edges
    draw = ImageDraw.Draw(badge)
    draw.ellipse((0, 0, 4 * side - 1, 4 * side - 1), fill=GOOD if good else BAD, outline=PAPER, width=side // 3)
    line = max(2, side // 2)
    if good:
        points = [(1.05, 2.1), (1.75, 2.8), (3.0, 1.35)]
        draw.line([(x * side, y * side) for x, y in points], fill=PAPER, width=line, joint="curve")
    else:
        for start, end in (((1.3, 1.3), (2.7, 2.7)), ((2.7, 1.3), (1.3, 2.7))):
            draw.line([(x * side, y * side) for x, y in (start, end)], fill=PAPER, width=line)
    badge = badge.resize((side, side), Image.Resampling.LANCZOS)
    tile.paste(badge, (tile.width - side - 3, tile.height - side - 3), badge)
