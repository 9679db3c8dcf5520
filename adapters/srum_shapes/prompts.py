"""Facts of the drawn world, their captions and back, and the prompts made of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product, zip_longest
from typing import Literal, get_args

import numpy as np

from srum_plugins.errors import ConfigError, ContractError, did_you_mean
from srum_plugins.records import Check, Prompt
from srum_shapes.options import CATEGORIES
from srum_shapes.world import COLOURS, MOST_OBJECTS, OPPOSITE, RELATIONS, SHAPES, Pair

HELD_OUT: frozenset[Pair] = frozenset(
    {("red", "triangle"), ("green", "cross"), ("blue", "circle"), ("yellow", "square"), ("purple", "triangle")}
)
"""The (colour, shape) pairs that no prompt of post-training names: about 20 % of all 24."""

PAIRS: tuple[Pair, ...] = tuple(product(COLOURS, SHAPES))
NUMBERS = ("zero", "one", "two", "three", "four")
RELATION_TEXT = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
PLURAL = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}

Split = Literal["train", "validation", "in_domain", "out_of_domain"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Group:
    """``count`` (1 to 4) objects of one colour and shape."""

    count: int
    colour: str
    shape: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS or self.shape not in SHAPES or not 1 <= self.count <= MOST_OBJECTS:
            raise ContractError(f"not a group of the drawn world: {self.count} {self.colour} {self.shape}")

    @property
    def pair(self) -> Pair:
        """(colour, shape)."""
        return (self.colour, self.shape)

    @property
    def phrase(self) -> str:
        """Such as ``red circle``."""
        return f"{self.colour} {self.shape}"

    @property
    def text(self) -> str:
        """Such as ``a red circle`` or ``two red circles``."""
        if self.count == 1:
            return f"a {self.phrase}"
        return f"{NUMBERS[self.count]} {self.colour} {PLURAL[self.shape]}"


@dataclass(frozen=True)
class Facts:
    """What a caption says: exactly these objects and, where ``relation`` is one of RELATIONS, where the first object
    lies from the second. Groups differ in colour or shape, and hold at most 4 objects in all."""

    groups: tuple[Group, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        pairs = {group.pair for group in self.groups}
        if not self.groups or len(pairs) != len(self.groups) or self.total > MOST_OBJECTS:
            raise ContractError(f"facts need distinct groups of 1 to {MOST_OBJECTS} objects in all: {self.groups}")
        if self.relation is not None and (
            self.relation not in RELATIONS or len(self.groups) < 2 or any(g.count != 1 for g in self.groups[:2])
        ):
            raise ContractError(f"{self.relation!r} is no relation between two single objects: {self.groups}")

    @property
    def total(self) -> int:
        """The number of objects."""
        return sum(group.count for group in self.groups)

    @property
    def counts(self) -> Counter[Pair]:
        """The number of objects of each pair."""
        return Counter({group.pair: group.count for group in self.groups})

    @property
    def text(self) -> str:
        """The caption, such as ``a red circle left of a blue square and a green cross``."""
        words = [group.text for group in self.groups]
        if self.relation is not None:
            words[:2] = [f"{words[0]} {RELATION_TEXT[self.relation]} {words[1]}"]
        return " and ".join(words)

    @property
    def category(self) -> str:
        """``single`` or one of CATEGORIES."""
        if self.relation is not None:
            return "spatial" if len(self.groups) == 2 else "complex"
        if self.total > len(self.groups):
            return "numeracy"
        if len(self.groups) == 1:
            return "single"
        return "shape" if len({group.colour for group in self.groups}) == 1 else "colour"

    @property
    def related(self) -> tuple[frozenset[Pair], str] | None:
        """The relation whichever way round it is told: the two objects, and the word of the lesser from the greater."""
        if self.relation is None:
            return None
        first, second = self.groups[0].pair, self.groups[1].pair
        return frozenset((first, second)), self.relation if first < second else OPPOSITE[self.relation]

    @property
    def in_domain(self) -> bool:
        """Whether none of the held-out pairs is named."""
        return HELD_OUT.isdisjoint(group.pair for group in self.groups)


_GROUP = re.compile(r"(a|two|three|four) (\w+) (\w+)")
_SINGULAR = {plural: shape for shape, plural in PLURAL.items()}


def parse(text: str) -> Facts:
    """The facts of a caption: the exact inverse of :attr:`Facts.text`.

    Raises:
        ContractError: the text is not a caption of this world.
    """
    relation = next((word for word in RELATIONS if f" {RELATION_TEXT[word]} " in text), None)
    parts = text.split(" and ")
    if relation is not None:
        parts[:1] = parts[0].split(f" {RELATION_TEXT[relation]} ")
    facts = Facts(tuple(_parse_group(part, text) for part in parts), relation)
    if facts.text != text:
        raise ContractError(f"not a caption of the drawn world: {text!r}")
    return facts


def _parse_group(part: str, text: str) -> Group:
    match = _GROUP.fullmatch(part)
    if match is None:
        raise ContractError(f"not a caption of the drawn world: {part!r} in {text!r}")
    number, colour, noun = match.groups()
    return Group(1, colour, noun) if number == "a" else Group(NUMBERS.index(number), colour, _SINGULAR.get(noun, noun))


def contradicts(facts: Facts, other: Facts) -> bool:
    """Whether no scene drawn for ``facts`` can also make ``other`` true: the objects differ, or the relation between
    the same two objects does."""
    if facts.counts != other.counts:
        return True
    if facts.related is None or other.related is None:
        return False
    return facts.related[0] == other.related[0] and facts.related[1] != other.related[1]


# --- every caption, by category -------------------------------------------------------------------------------


_SINGLE = {pair: Group(1, *pair) for pair in PAIRS}


def _singles(pairs: Iterable[Pair], relation: str | None = None) -> Facts:
    return Facts(tuple(_SINGLE[pair] for pair in pairs), relation)


@cache
def all_facts(category: str) -> tuple[tuple[Facts, ...], ...]:
    """Every caption of a category, in strata that are drawn equally often however many captions they hold."""
    if category == "single":
        return (tuple(_singles([pair]) for pair in PAIRS),)
    if category == "colour":
        return (tuple(_singles(pairs) for pairs in permutations(PAIRS, 2) if pairs[0][0] != pairs[1][0]),)
    if category == "shape":
        return tuple(
            tuple(_singles((colour, s) for s in shapes) for colour in COLOURS for shapes in permutations(SHAPES, n))
            for n in (2, 3)
        )
    if category == "spatial":
        return (tuple(_singles(pairs, word) for pairs in permutations(PAIRS, 2) for word in RELATIONS),)
    if category == "numeracy":
        one = tuple(Facts((Group(n, *pair),)) for pair in PAIRS for n in (2, 3, 4))
        counts = [(n, m) for n in (1, 2, 3) for m in (1, 2, 3) if 3 <= n + m <= MOST_OBJECTS]
        two = tuple(
            Facts((Group(n, *first), Group(m, *second))) for first, second in permutations(PAIRS, 2) for n, m in counts
        )
        return (one, two)
    if category == "complex":
        return (tuple(_singles(pairs, word) for pairs in permutations(PAIRS, 3) for word in RELATIONS),)
    raise ConfigError(f"unknown prompt category {category!r}.{did_you_mean(category, CATEGORIES)}")


PRETRAINING_WEIGHTS = {
    "single": 0.10,
    "colour": 0.20,
    "shape": 0.10,
    "spatial": 0.20,
    "numeracy": 0.20,
    "complex": 0.20,
}


def sample_facts(rng: np.random.Generator, category: str | None = None) -> Facts:
    """Random facts of a category, or of one drawn with PRETRAINING_WEIGHTS; held-out pairs included."""
    if category is None:
        mark = rng.random() * sum(PRETRAINING_WEIGHTS.values())
        for category, weight in PRETRAINING_WEIGHTS.items():  # noqa: B007 - the loop ends at the category drawn
            mark -= weight
            if mark < 0:
                break
        assert category is not None
    strata = all_facts(category)
    stratum = strata[rng.integers(len(strata))]
    return stratum[rng.integers(len(stratum))]


# --- caption noise --------------------------------------------------------------------------------------------


def _rebuilt(facts: Facts, groups: Iterable[Group]) -> Iterator[Facts]:
    groups = tuple(groups)
    if len({group.pair for group in groups}) == len(groups) and sum(g.count for g in groups) <= MOST_OBJECTS:
        yield replace(facts, groups=groups)


def _with(facts: Facts, changes: dict[int, Group]) -> Iterator[Facts]:
    yield from _rebuilt(facts, (changes.get(i, group) for i, group in enumerate(facts.groups)))


def _swapped(facts: Facts) -> Iterator[Facts]:
    for (i, a), (j, b) in combinations(enumerate(facts.groups), 2):
        yield from _with(facts, {i: replace(a, colour=b.colour), j: replace(b, colour=a.colour)})
        yield from _with(facts, {i: replace(a, shape=b.shape), j: replace(b, shape=a.shape)})


def _changed(facts: Facts) -> Iterator[Facts]:
    for i, group in enumerate(facts.groups):
        for colour in COLOURS:
            yield from _with(facts, {i: replace(group, colour=colour)})
        for shape in SHAPES:
            yield from _with(facts, {i: replace(group, shape=shape)})


def _flipped(facts: Facts) -> Iterator[Facts]:
    if facts.relation is not None:
        yield replace(facts, relation=OPPOSITE[facts.relation])


def _miscounted(facts: Facts) -> Iterator[Facts]:
    for i, group in enumerate(facts.groups):
        if facts.relation is None or i >= 2:
            for count in (group.count - 1, group.count + 1):
                if 1 <= count <= MOST_OBJECTS:
                    yield from _with(facts, {i: replace(group, count=count)})


CORRUPTIONS: dict[str, Callable[[Facts], Iterator[Facts]]] = {
    "swap": _swapped,
    "change": _changed,
    "flip": _flipped,
    "miscount": _miscounted,
}


def corrupt(facts: Facts, rng: np.random.Generator) -> Facts:
    """Caption noise: attributes swapped between objects, one attribute changed, the relation flipped, or a count off
    by one, each kind equally likely where it is possible. False of every scene drawn for ``facts``."""
    kinds = list(CORRUPTIONS.values())
    while True:  # ends: an attribute can always be changed
        kind = kinds.pop(int(rng.integers(len(kinds))))
        found = [other for other in kind(facts) if contradicts(facts, other)]
        if found:
            return found[rng.integers(len(found))]


# --- prompts --------------------------------------------------------------------------------------------------


def existence_question(phrase: str) -> str:
    """Answered by yes or no."""
    return f"is there a {phrase} ?"


def count_question(colour: str, shape: str) -> str:
    """Answered by one of NUMBERS."""
    return f"how many {colour} {PLURAL[shape]} ?"


TOTAL_QUESTION = "how many objects ?"


def relation_question(phrase: str, other: str) -> str:
    """Answered by one of RELATIONS."""
    return f"where is the {phrase} from the {other} ?"


def checks(facts: Facts) -> tuple[Check, ...]:
    """The facts as questions, worded exactly as in :mod:`srum_shapes.questions`."""
    groups = facts.groups
    found = [Check("existence", existence_question(g.phrase), ("yes", "no"), "yes") for g in groups]
    found += [Check("count", count_question(g.colour, g.shape), NUMBERS, NUMBERS[g.count]) for g in groups]
    found.append(Check("total", TOTAL_QUESTION, NUMBERS[1:], NUMBERS[facts.total]))
    if facts.relation is not None:
        question = relation_question(groups[0].phrase, groups[1].phrase)
        found.append(Check("relation", question, RELATIONS, facts.relation))
    return tuple(found)


def to_prompt(facts: Facts, id: str, split: str) -> Prompt:
    """The prompt of these facts, with noun phrases for grounders and checks for judges."""
    return Prompt(
        id=id,
        text=facts.text,
        category=facts.category,
        split=split,
        phrases=tuple(group.phrase for group in facts.groups),
        checks=checks(facts),
    )


def _share(facts: Facts) -> float:
    """A fixed number in [0, 1) of what the facts mean, equal however they are worded."""
    key = f"{sorted(facts.counts.items())} {facts.related and (sorted(facts.related[0]), facts.related[1])}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(facts: Facts) -> Split:
    """The split that facts belong to. In-domain facts are shared out between training (55 %), validation (15 %) and
    evaluation (30 %) by their meaning, so that no two of these hold the same scene in other words; facts with a
    held-out pair are for out-of-domain evaluation only."""
    if not facts.in_domain:
        return "out_of_domain"
    share = _share(facts)
    return "train" if share < 0.55 else "validation" if share < 0.70 else "in_domain"


@cache
def _strata(category: str) -> dict[Split, tuple[tuple[Facts, ...], ...]]:
    """:func:`all_facts` of a category, shared out to the splits in that order."""
    found: dict[Split, list[tuple[Facts, ...]]] = {split: [] for split in SPLITS}
    for stratum in all_facts(category):
        splits = [split_of(facts) for facts in stratum]
        for split, strata in found.items():
            strata.append(tuple(facts for facts, of in zip(stratum, splits, strict=True) if of == split))
    return {split: tuple(strata) for split, strata in found.items()}


def _shared_out(count: int, sizes: Sequence[int]) -> list[int]:
    """``count`` shared out as evenly as the sizes allow."""
    taken = [0] * len(sizes)
    while count > 0:
        open_ = [i for i, size in enumerate(sizes) if taken[i] < size]
        if not open_:
            raise ConfigError(f"only {sum(sizes)} distinct prompts exist, {sum(sizes) + count} were asked for")
        for i in open_[:count]:
            taken[i] += 1
        count -= min(count, len(open_))
    return taken


def prompt_list(count: int, seed: int, split: Split, categories: Sequence[str] = CATEGORIES) -> list[Prompt]:
    """``count`` prompts of a split, all of different text, spread over the categories as evenly as the number of
    captions allows (``shape`` has few), interleaved by category, ids ``<split>-<category>-<number>``.

    Raises:
        ConfigError: an unknown category, or more prompts than there are.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found: list[list[list[Facts]]] = []
    for category in categories:
        found.append([[stratum[i] for i in rng.permutation(len(stratum))] for stratum in _strata(category)[split]])
    chosen: list[list[Prompt]] = []
    shares = _shared_out(count, [sum(map(len, strata)) for strata in found])
    for category, strata, share in zip(categories, found, shares, strict=True):
        taken = _shared_out(share, [len(stratum) for stratum in strata])
        facts = [facts for stratum, n in zip(strata, taken, strict=True) for facts in stratum[:n]]
        mixed = [facts[i] for i in rng.permutation(len(facts))]
        chosen.append([to_prompt(item, f"{split}-{category}-{i:04d}", split) for i, item in enumerate(mixed)])
    return [prompt for row in zip_longest(*chosen) for prompt in row if prompt is not None]
