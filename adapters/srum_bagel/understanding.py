"""Answering: tokens written one by one on a context of BAGEL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srum_bagel.model import Bagel
from srum_bagel.mot import Cache
from srum_plugins import decoding
from srum_plugins.decoding import Choose, Written, likeliest


@torch.no_grad()
def write(
    model: Bagel,
    context: Cache,
    limit: int,
    choose: Choose,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> list[Written]:
    """At most ``limit`` tokens, without bos and eos, for each row of the context: see
    :func:`srum_plugins.decoding.write`."""
    tokens = model.config.tokens

    def step(ids: Tensor) -> Tensor:
        nonlocal context
        logits, context = model.next_logits(ids, context)
        return logits

    first = step(torch.full((len(context.ends),), tokens.bos, device=model.device))
    return decoding.write(first, step, (tokens.eos,), limit, choose, stopped)


def greedy(model: Bagel, context: Cache, limit: int) -> list[list[int]]:
    """The likeliest tokens of each row of the context, without bos and eos, at most ``limit`` of them."""
    return [list(one.ids) for one in write(model, context, limit, likeliest)]
