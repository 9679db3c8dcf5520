"""Regions from a file of boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from srum_file.lines import Given, read
from srum_file.options import FileOptions
from srum_plugins.boxes import fitted
from srum_plugins.contracts import Grounder, Located, ModelAdapter
from srum_plugins.errors import ConfigError
from srum_plugins.records import Failure, Grounding, Region

NOT_IN_FILE = "not in file"
"""Counted for a candidate without a line."""


class FileGrounder(Grounder):
    """The boxes of a file, in its order; a box's label is its phrase.

    Raises:
        ConfigError: see :func:`srum_file.lines.read`.
    """

    def __init__(self, options: FileOptions) -> None:
        self._options = options
        self._file = read(options.path)

    def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
        """One grounding per item; the model is not asked. What is no box of the image is dropped and counted by its
        cause, what can be mended by rule is (:func:`srum_plugins.boxes.fitted`).

        Raises:
            ConfigError: a candidate has no line, and the options do not allow it.
        """
        given = [self._file.of(item.prompt, item.candidate) for item in items]
        absent = [item.candidate.id for item, boxes in zip(items, given, strict=True) if boxes is None]
        if absent and self._options.missing == "refuse":
            more = f" and {len(absent) - 1} more of these {len(items)}" if len(absent) > 1 else ""
            raise ConfigError(
                f"grounder.path: {self._options.path} has no line for the candidate {absent[0]!r}{more}. One with "
                '"boxes": [] says that nothing was found; grounder.missing=empty takes all that are not there for such'
            )
        return [self._grounding(item, boxes) for item, boxes in zip(items, given, strict=True)]

    def _grounding(self, item: Located, given: Sequence[Given] | None) -> Grounding:
        if given is None:
            return Grounding(item.candidate.id, (), {NOT_IN_FILE: 1})
        told_in = (1.0, 1.0) if self._options.units == "relative" else None
        regions: list[Region] = []
        dropped: Counter[str] = Counter()
        for one in given:
            found = fitted(one.corners, item.image.size, told_in)
            if isinstance(found, Failure):
                dropped[found.cause] += 1
            else:
                regions.append(Region(found.box, one.label, one.score, mended=found.mended))
        return Grounding(item.candidate.id, tuple(regions), dict(dropped))
