"""Whether what a provider returned belongs to what it was asked about."""

from __future__ import annotations

from collections.abc import Sequence

from srum_plugins.errors import ContractError
from srum_plugins.records import Grounding, Judgement


def same_ids(expected: Sequence[str], got: Sequence[str], source: str) -> None:
    """Raise ContractError, which names ``source``, unless a provider answered exactly what it was asked, in order."""
    if list(expected) == list(got):
        return
    if len(expected) != len(got):
        raise ContractError(f"{source} returned {len(got)} results for {len(expected)} items")
    index = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
    raise ContractError(f"{source}: result {index} is for {got[index]!r}, expected {expected[index]!r}")


def check_judgements(given: Sequence[Judgement], groundings: Sequence[Grounding], source: str) -> None:
    """Raise ContractError unless a judge gave one judgement per grounding, in order, with a local score per region."""
    same_ids([one.candidate_id for one in groundings], [one.candidate_id for one in given], source)
    for judgement, grounding in zip(given, groundings, strict=True):
        if len(judgement.local) != len(grounding.regions):
            raise ContractError(
                f"{source}: candidate {judgement.candidate_id!r} has {len(grounding.regions)} regions, "
                f"but got {len(judgement.local)} local scores"
            )
