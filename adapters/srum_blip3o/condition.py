"""How a prompt becomes a condition: the language model reads it, and query vectors after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from srum_plugins.errors import ContractError


def condition(
    language_model: Any, prompts: Sequence[Sequence[int]], queries: Tensor, checkpointing: bool = False
) -> Tensor:
    """The last hidden states (B, Q, H), after the final norm, of queries (1, Q, H) that follow the ids of each prompt
    (blip3o.md 2.1). Gradients flow to the queries.

    The queries come directly after each prompt's own ids, and padding after them, where nothing that is causal sees it:
    so a prompt has the same condition in every batch, and no mask is needed. Positions count from 0 on all three axes.
    With ``checkpointing`` each layer holds its input alone for the gradients, and computes the rest a second time.

    Raises:
        ContractError: a prompt has no ids, or one with its queries is longer than the model's context.
    """
    room, count = language_model.config.max_position_embeddings, queries.shape[1]
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ContractError(f"prompt {number} of the batch has no tokens")
        if len(prompt) + count > room:
            raise ContractError(
                f"prompt {number} of the batch takes {len(prompt)} tokens and {count} queries, more than the model's "
                f"{room} positions: shorten it"
            )
    table = language_model.embed_tokens.weight
    longest = max(len(prompt) for prompt in prompts)
    rows, places = [], []
    for prompt in prompts:
        words = language_model.embed_tokens(torch.tensor(list(prompt), device=table.device))
        padding = table.new_zeros(longest - len(prompt), table.shape[1])
        rows.append(torch.cat([words, queries[0].to(words), padding]))
        places.append(torch.arange(len(prompt), len(prompt) + count))
    embeddings = torch.stack(rows)
    positions = torch.arange(longest + count, device=table.device).expand(3, len(prompts), -1)
    with _recomputed(language_model.layers) if checkpointing and torch.is_grad_enabled() else nullcontext():
        hidden = language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state
    index = torch.stack(places).to(hidden.device)[:, :, None].expand(-1, -1, hidden.shape[2])
    taken: Tensor = hidden.gather(1, index)
    return taken


@contextmanager
def _recomputed(layers: Any) -> Iterator[None]:
    """Within it, a layer's forward is computed again for the gradients. transformers' own switch would put the frozen
    model into training mode, in which it reads without a cache whatever it is asked."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # that of its class is there again
