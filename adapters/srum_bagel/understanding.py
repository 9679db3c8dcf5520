"""Answering: greedy decoding on a context."""

from __future__ import annotations

import torch

from srum_bagel.model import Bagel
from srum_bagel.mot import Cache


@torch.no_grad()
def greedy(model: Bagel, context: Cache, limit: int) -> list[list[int]]:
    """Greedy answers as token ids, without bos and eos, of at most ``limit`` tokens, one per row of the context."""
    tokens = model.config.tokens
    ids = torch.full((len(context.ends),), tokens.bos, device=model.device)
    answers: list[list[int]] = [[] for _ in range(len(ids))]
    open_rows = torch.ones(len(ids), dtype=torch.bool, device=model.device)
    for _ in range(limit):
        logits, context = model.next_logits(ids, context)
        ids = logits.argmax(dim=-1)
        open_rows &= ids != tokens.eos
        if not bool(open_rows.any()):
            break
        for row in torch.nonzero(open_rows).flatten().tolist():
            answers[row].append(int(ids[row]))
    return answers
