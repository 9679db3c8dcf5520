"""Reads fixed question sets from a user's own copy: the forms of MME, MMBench and POPE."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from srum_plugins.choices import YES_NO
from srum_plugins.errors import ConfigError

LETTERS = ("A", "B", "C", "D", "E")
FORMS = "a folder or .txt (MME), a .tsv (MMBench) or a .jsonl (POPE)"


@dataclass(frozen=True)
class Asked:
    """A question with its admissible answers and the right one. ``group`` is what is kept together, such as both
    questions of an image; ``image`` are the bytes of its image file."""

    group: str
    text: str
    choices: tuple[str, ...]
    answer: str
    image: bytes

    def open(self) -> Image.Image:
        """The image, RGB. Raises ConfigError if it cannot be read."""
        try:
            return Image.open(io.BytesIO(self.image)).convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ConfigError(f"the image of the question {self.text[:80]!r} cannot be read: {error}") from error


def read_questions(path: Path, images: Path | None, count: int) -> list[Asked]:
    """Up to ``count`` questions, in whole groups (at least one), spread evenly over a folder or file.

    MME: tab-separated ``image, question, Yes|No`` in ``<subtask>.txt``, images in ``<subtask>/``,
    ``<subtask>/images/`` or beside the file. MMBench: a table with ``index, image (base64), question, hint, A, B, ...,
    answer``; of a circular one only the first pass counts. POPE: JSON Lines of ``image, text, label``.

    Raises:
        ConfigError: a file is missing or not of its form.
    """
    rows = list(_rows(path, images))
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    if not groups:
        raise ConfigError(f"{path} has no question; it must be {FORMS}")
    least = -(-len(rows) // len(groups))
    wanted = max(1, min(count // least, len(groups)))
    names = list(groups)
    return [
        Asked(row.group, row.text, row.choices, row.answer, row.bytes())
        for index in range(wanted)
        for row in groups[names[index * len(names) // wanted]]
    ]


def digest(questions: Sequence[Asked]) -> str:
    """A sha256 of the questions, answers and images, 64 hex digits."""
    found = hashlib.sha256()
    for one in questions:
        found.update(json.dumps([one.group, one.text, one.choices, one.answer]).encode())
        found.update(hashlib.sha256(one.image).digest())
    return found.hexdigest()


@dataclass(frozen=True)
class _Row:
    """A question whose image is not read yet: ``image`` is a file, or base64 text."""

    group: str
    text: str
    choices: tuple[str, ...]
    answer: str
    image: Path | str
    where: str

    def bytes(self) -> bytes:
        try:
            if isinstance(self.image, Path):
                return self.image.read_bytes()
            return base64.b64decode(self.image, validate=True)
        except (OSError, binascii.Error) as error:
            raise ConfigError(f"{self.where}: its image cannot be read: {error}") from error


def _rows(path: Path, images: Path | None) -> Iterator[_Row]:
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield from _mme(file, images)
    elif not path.is_file():
        raise ConfigError(f"there is no question file {path}; it must be {FORMS}")
    elif path.suffix == ".txt":
        yield from _mme(path, images)
    elif path.suffix == ".tsv":
        yield from _mmbench(path)
    elif path.suffix in (".jsonl", ".json"):
        yield from _pope(path, images)
    else:
        raise ConfigError(f"{path} ends in {path.suffix!r}; a question file must be {FORMS}")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with the place that messages name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r")


def _mme(path: Path, images: Path | None) -> Iterator[_Row]:
    folder = images or path.parent
    places = (folder / path.stem / "images", folder / path.stem, folder)
    for where, line in _lines(path):
        cells = line.split("\t")
        if len(cells) < 3:
            raise ConfigError(f"{where}: expected `image<TAB>question<TAB>Yes|No`")
        name, text, answer = cells[:3]
        image = next((place / name for place in places if (place / name).is_file()), folder / name)
        yield _Row(f"{path.stem}/{name}", text, YES_NO, _yes_or_no(answer, where), image, where)


def _pope(path: Path, images: Path | None) -> Iterator[_Row]:
    for where, line in _lines(path):
        try:
            row = json.loads(line)
            name, text, label = str(row["image"]), str(row["text"]), str(row["label"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{where}: expected a JSON object with image, text and label") from error
        yield _Row(name, text, YES_NO, _yes_or_no(label, where), (images or path.parent) / name, where)


def _mmbench(path: Path) -> Iterator[_Row]:
    csv.field_size_limit(2**30)  # an image in one cell
    seen: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            where = f"{path}, index {row.get('index')}"
            missing = [name for name in ("index", "image", "question", "A", "B", "answer") if not row.get(name)]
            if missing:
                raise ConfigError(f"{where}: no {', '.join(missing)}; the split `test` has no answers")
            seen[row["index"]] = row["image"] if len(row["image"]) > 64 else seen.get(row["image"], "")
            if int(row["index"]) >= 1_000_000:  # a rotated copy of a question
                continue
            letters = tuple(letter for letter in LETTERS if row.get(letter))
            options = "\n".join(f"{letter}. {row[letter]}" for letter in letters)
            hint = f"{row['hint']}\n" if row.get("hint") else ""
            if row["answer"] not in letters:
                raise ConfigError(f"{where}: the answer {row['answer']!r} is none of {', '.join(letters)}")
            text = f"{hint}{row['question']}\n{options}\nAnswer with the letter of the right option."
            yield _Row(row["index"], text, letters, row["answer"], seen[row["index"]], where)


def _yes_or_no(answer: str, where: str) -> str:
    if (word := answer.strip().lower()) not in YES_NO:
        raise ConfigError(f"{where}: the answer must be Yes or No, got {answer!r}")
    return word
