"""Reading images and texts into contexts that are gone on from: one reading of an image serves all its questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from srum_blip3o.qwen import Qwen


@dataclass(frozen=True)
class Context:
    """What rows have read. ``cache`` holds keys and values of (B, L) columns, ``mask`` (B, L) says which of them are no
    padding, None that there is none, and ``places`` (B,) are the positions of what comes next: an image has as many as
    its longer side has tokens. :func:`step` goes on in the same cache, so that a context can be stepped from once."""

    cache: Any
    mask: Tensor | None
    places: tuple[int, ...]


def image_positions(start: int, height: int, width: int) -> Tensor:
    """Positions (3, height * width) in time, down and across of an image of so many tokens that follows ``start``
    positions of text (blip3o.md 5, 7.1.7)."""
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return start + torch.stack([torch.zeros_like(down), down, across]).flatten(1)


def read_images(qwen: Qwen, seen: Sequence[Tensor], grids: Tensor) -> Context:
    """One row an image, of tokens (N, H) and grid (3,) of patches, on the host: the chat up to the image and the
    image."""
    merge, rows, positions, places = qwen.preparation.merge, [], [], []
    for tokens, grid in zip(seen, grids.tolist(), strict=True):
        height, width = grid[1] // merge, grid[2] // merge
        ids = torch.tensor(qwen.tokenizer.seeing(len(tokens)), device=qwen.device)
        row = qwen.language.embed_tokens(ids)
        start = len(ids) - len(tokens) - 1  # one token closes the image
        row[start:-1] = tokens.to(row)
        after = start + max(height, width)
        closing = torch.full((3, 1), after)
        text = torch.arange(start).expand(3, -1)
        rows.append(row)
        positions.append(torch.cat([text, image_positions(start, height, width), closing], dim=1))
        places.append(after + 1)
    return _read(qwen, DynamicCache(), None, rows, positions, places)[0]


def read_opening(qwen: Qwen) -> Context:
    """One row: what every chat begins with, for questions without an image."""
    ids = torch.tensor(qwen.tokenizer.opening(), device=qwen.device)
    positions = torch.arange(len(ids)).expand(3, -1)
    return _read(qwen, DynamicCache(), None, [qwen.language.embed_tokens(ids)], [positions], [len(ids)])[0]


def read_texts(
    qwen: Qwen, context: Context, parents: Sequence[int], texts: Sequence[Sequence[int]]
) -> tuple[Context, Tensor]:
    """Each text's ids read after the row of the context that is its parent: a context with a row a text, and the last
    hidden states (B, L, H), padded at the end. The context itself stays as it was."""
    chosen = torch.tensor(list(parents), device=qwen.device)
    cache = DynamicCache()
    for number, layer in enumerate(context.cache.layers):
        cache.update(layer.keys.index_select(0, chosen), layer.values.index_select(0, chosen), number)
    starts = [context.places[parent] for parent in parents]
    rows = [qwen.language.embed_tokens(torch.tensor(list(ids), device=qwen.device)) for ids in texts]
    positions = [torch.arange(start, start + len(ids)).expand(3, -1) for start, ids in zip(starts, texts, strict=True)]
    places = [start + len(ids) for start, ids in zip(starts, texts, strict=True)]
    mask = None if context.mask is None else context.mask.index_select(0, chosen)
    return _read(qwen, cache, mask, rows, positions, places)


def step(qwen: Qwen, context: Context, ids: Tensor) -> tuple[Context, Tensor]:
    """One token (B,) more for each row; logits (B, V) of the next, float32."""
    mask = context.mask
    if mask is not None:
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    hidden = qwen.language(
        inputs_embeds=qwen.language.embed_tokens(ids)[:, None],
        attention_mask=mask,
        position_ids=torch.tensor(context.places, device=ids.device)[None, :, None].expand(3, -1, -1),
        past_key_values=context.cache,
        use_cache=True,
    ).last_hidden_state
    places = tuple(place + 1 for place in context.places)
    return Context(context.cache, mask, places), logits(qwen, hidden[:, 0])


def logits(qwen: Qwen, hidden: Tensor) -> Tensor:
    """Logits (..., V), float32, of the tokens that follow hidden states (..., H)."""
    found: Tensor = qwen.model.lm_head(hidden).float()
    return found


def last(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Of hidden states (B, L, H), those (B, H) of the last of so many tokens of each row."""
    ends = torch.tensor(list(lengths), device=hidden.device) - 1
    return hidden[torch.arange(len(ends), device=hidden.device), ends]


def _read(
    qwen: Qwen,
    cache: Any,
    before: Tensor | None,
    rows: Sequence[Tensor],
    positions: Sequence[Tensor],
    places: Sequence[int],
) -> tuple[Context, Tensor]:
    """Embedded rows (L, H) at positions (3, L) read in one forward, after what the cache holds."""
    embeddings = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = _mask(qwen, cache.get_seq_length(), before, [len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([one.T for one in positions], batch_first=True)
    hidden = qwen.language(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=padded.permute(2, 0, 1).to(qwen.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return Context(cache, mask, tuple(places)), hidden


def _mask(qwen: Qwen, known: int, before: Tensor | None, lengths: Sequence[int]) -> Tensor | None:
    """Which columns are no padding: those of ``before``, (B, known) or None for all, and then rows of so many tokens.
    None where there is no padding at all."""
    if before is None and min(lengths) == max(lengths):
        return None
    # Padding comes last, behind every token of its row, so that no row of the mask is empty.
    own = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(length, dtype=torch.long) for length in lengths], batch_first=True
    ).to(qwen.device)
    return torch.cat([own.new_ones(len(lengths), known) if before is None else before, own], dim=1)
