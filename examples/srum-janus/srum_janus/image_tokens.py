"""The half of Janus that draws: logits of image tokens, teacher-forced or drawn one by one, and pixels of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from srum_plugins.decoding import Choose

ROWS_PER_CALL = 16
"""Sequences that are read in one forward outside training."""


class ImageTokens(nn.Module):
    """Images as N = side * side tokens in [0, V), row by row. ``janus`` is transformers' model for generation."""

    def __init__(self, janus: Any) -> None:
        super().__init__()
        self.janus = janus
        vq = janus.config.vq_config
        self.side: int = vq.num_patches
        """Of the token grid."""
        self.pixels: int = vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)
        """Of an image's side."""
        self.positions: int = janus.config.text_config.max_position_embeddings
        """The longest sequence that the language model was made for."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.janus.lm_head.weight.device
        return device

    def forward(self, prompts: Sequence[Sequence[int]], tokens: Tensor) -> Tensor:
        """Logits (B, N, V), float32, of each of the tokens (B, N) after the prompt's ids and the tokens before it."""
        model = self.janus.model
        before = self._embedded(tokens[:, :-1])
        rows = [torch.cat([self.words(ids), image]) for ids, image in zip(prompts, before, strict=True)]
        hidden = read(model.language_model, rows)
        starts = [len(ids) - 1 for ids in prompts]
        own = [states[at : at + tokens.shape[1]] for at, states in zip(starts, hidden, strict=True)]
        logits: Tensor = model.generation_head(torch.stack(own).float())
        return logits

    def words(self, ids: Sequence[int]) -> Tensor:
        """Embeddings (L, H) of text."""
        words: Tensor = self.janus.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return words

    @torch.no_grad()
    def drawn(
        self, prompts: Sequence[Sequence[int]], away: Sequence[Sequence[int]], guidance: float, choose: Choose
    ) -> Tensor:
        """Tokens (B, N) drawn one after the other for prompts of one length, guided away from others of that length;
        none of them for a guidance of 1."""
        rows = [*prompts, *away] if guidance != 1 else list(prompts)
        seen, cache = torch.stack([self.words(ids) for ids in rows]), DynamicCache()
        drawn: list[Tensor] = []
        for _ in range(self.side**2):
            found = self.janus.model.language_model(inputs_embeds=seen, past_key_values=cache, use_cache=True)
            logits = self.janus.model.generation_head(found.last_hidden_state[:, -1].float())
            if guidance != 1:
                own, bare = logits.chunk(2)
                logits = bare + guidance * (own - bare)
            drawn.append(choose(logits))
            seen = self._embedded(drawn[-1].repeat(len(rows) // len(prompts))[:, None])
        return torch.stack(drawn, dim=1)

    @torch.no_grad()
    def images(self, tokens: Tensor) -> list[Image.Image]:
        """The pictures of tokens (B, N)."""
        pixels = (self.janus.decode_image_tokens(tokens).float() + 1) / 2 * 255
        return [Image.fromarray(array) for array in pixels.clamp(0, 255).to(torch.uint8).cpu().numpy()]

    @torch.no_grad()
    def tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """Tokens (B, N) of RGB pictures of this model's size. transformers' own ``encode`` compares lengths too, where
        the code that Janus was trained with compares directions alone."""
        arrays = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
        pixels = torch.from_numpy(arrays / 127.5 - 1).permute(0, 3, 1, 2).to(self.device)
        vq = self.janus.model.vqmodel
        found = F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1)
        codes = F.normalize(vq.quantize.embedding.weight, dim=1)
        return torch.einsum("bchw,vc->bhwv", found, codes).argmax(dim=-1).flatten(1)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """What the language model reads of tokens (B, n): (B, n, H)."""
        embedded: Tensor = self.janus.prepare_embeddings_for_image_generation(tokens)
        return embedded.to(self.janus.get_input_embeddings().weight.dtype)


def read(language: Any, rows: Sequence[Tensor]) -> Tensor:
    """Hidden states (B, L, H) of sequences of embeddings (L_b, H), each in the first L_b places. Padding stands at the
    end, where nothing that counts sees it, so that no mask is needed."""
    padded = pad_sequence(list(rows), batch_first=True)
    hidden: Tensor = language(inputs_embeds=padded, use_cache=False).last_hidden_state
    return hidden


def alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of sequences of one length, at most ROWS_PER_CALL at a time: what is written token by token needs no
    padding then."""
    for length in sorted(set(lengths)):
        places = [place for place, own in enumerate(lengths) if own == length]
        for start in range(0, len(places), ROWS_PER_CALL):
            yield places[start : start + ROWS_PER_CALL]
