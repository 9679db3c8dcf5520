"""Open answers, token by token: the likeliest ones or drawn ones, ended by the model, by a text or by a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srum_plugins.contracts import Decoding

Choose = Callable[[Tensor], Tensor]
"""Next tokens (B,) from logits (B, V)."""


@dataclass(frozen=True)
class Written:
    """Token ids without the one that ends them, and whether the limit ended them where the model would have gone on."""

    ids: tuple[int, ...]
    truncated: bool


def write(
    logits: Tensor,
    step: Callable[[Tensor], Tensor],
    ends: Collection[int],
    limit: int,
    choose: Choose,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> list[Written]:
    """At most ``limit`` tokens for each row of the logits (B, V) of the first one; ``step`` takes tokens (B,) and gives
    the logits of the next.

    A row ends before a token of ``ends``, or with the token after which ``stopped`` holds of its tokens. One that has
    ``limit`` tokens is asked once more, since only the next token tells whether it was at its end. Rows that have ended
    stay in the batch, and what they go on to say is dropped.
    """
    written: list[list[int]] = [[] for _ in range(len(logits))]
    open_rows = set(range(len(logits)))
    for count in range(limit + 1):
        ids = choose(logits)
        chosen = ids.tolist()
        open_rows = {row for row in open_rows if chosen[row] not in ends}
        if count == limit:
            break
        for row in open_rows:
            written[row].append(chosen[row])
        if stopped is not None:
            open_rows = {row for row in open_rows if not stopped(written[row])}
        if not open_rows:
            break
        logits = step(ids)
    return [Written(tuple(row_ids), row in open_rows) for row, row_ids in enumerate(written)]


def likeliest(logits: Tensor) -> Tensor:
    """The token (B,) with the highest of the logits (B, V), the first of equals."""
    return logits.argmax(dim=-1)


def sampled(decoding: Decoding, seeds: Sequence[int]) -> Choose:
    """Draws by a temperature above 0. Every row has its own generator, on the CPU, and uses one number of it a token:
    what is drawn for a row depends on its seed and its logits alone."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: Tensor) -> Tensor:
        uniforms = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in generators])
        kept = nucleus(probabilities(logits, decoding.temperature), decoding.top_p)
        return draw(kept, uniforms.to(logits.device))

    return choose


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), (B, V), float64; the temperature is above 0, however little."""
    wide = logits.double()
    return torch.softmax((wide - wide.amax(dim=-1, keepdim=True)) / temperature, dim=-1)


def nucleus(shares: Tensor, top_p: float) -> Tensor:
    """Probabilities (B, V) with all set to 0 but the fewest that together have at least ``top_p``, in (0, 1]: the
    likeliest ones, of equals those that come first. What is left is not normalised."""
    if top_p == 1.0:
        return shares
    ordered, places = shares.sort(dim=-1, descending=True, stable=True)
    before = F.pad(ordered.cumsum(dim=-1)[..., :-1], (1, 0))
    kept = torch.zeros_like(shares, dtype=torch.bool).scatter(-1, places, before < top_p)
    return torch.where(kept, shares, 0.0)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Where numbers (B,) in [0, 1) fall among weights (B, V), at least 0, in the order of the tokens: ids (B,) of
    weight above 0, each as often as its share. A rounding of the weights moves the borders by as little, which it would
    not in the order of size, where two tokens of nearly one weight could change places."""
    heights = weights.cumsum(dim=-1)
    usable = weights > 0  # sums made in parallel on a GPU may, by their rounding, rise at a weight of 0, or fall
    whole = torch.where(usable, heights, 0.0).amax(dim=-1)
    return (usable & (heights > (uniforms * whole)[:, None])).int().argmax(dim=-1)
