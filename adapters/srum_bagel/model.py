"""The BAGEL network: pieces in, velocities and text logits out.

Module names are those of the released checkpoints. The autoencoder is held apart: checkpoints keep it in a file of its
own, and it is never trained with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srum_bagel.config import BagelConfig
from srum_bagel.embeddings import PositionTable, TimestepEmbedder, grid_ids
from srum_bagel.mot import Cache, Layout, MoTForCausalLM
from srum_bagel.packing import Packed, Piece, PieceKind, pack
from srum_bagel.vision import Connector, VisionModel


@dataclass(frozen=True)
class DenoisingBlock:
    """The block [boi, latents, eoi] of every row, laid out once for all steps of a sampling."""

    layout: Layout
    positions: Tensor
    marker_ids: Tensor
    latent_ids: Tensor


class Bagel(nn.Module):
    """See the module's text. ``config`` fixes all shapes."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.llm.hidden_size
        self.language_model = MoTForCausalLM(config.llm)
        self.vit_model = VisionModel(config.vit)
        self.connector = Connector(config.vit.hidden_size, dim)
        self.vit_pos_embed = PositionTable(config.vit_max_num_patch_per_side, dim)
        self.vae2llm = nn.Linear(config.latent_token_dim, dim)
        self.llm2vae = nn.Linear(dim, config.latent_token_dim)
        self.time_embedder = TimestepEmbedder(dim)
        self.latent_pos_embed = PositionTable(config.max_latent_size, dim)
        self.trains_reading = False
        """Whether training moves what reads the text, so that :meth:`forward` needs its graph."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vae2llm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which everything between pixels, latents and velocities is computed."""
        return self.vae2llm.weight.dtype

    def generation_parameters(self) -> dict[str, nn.Parameter]:
        """The generation half by name: the generation expert, the latent maps and the timestep embedder."""
        own = ("vae2llm.", "llm2vae.", "time_embedder.")
        return {
            name: parameter for name, parameter in self.named_parameters() if "_moe_gen" in name or name.startswith(own)
        }

    def drawing_parameters(self) -> dict[str, nn.Parameter]:
        """All that a picture drawn from text depends on, by name: the generation half, and the understanding expert
        that reads the text. Not the text head, and not what sees."""
        own = ("language_model.model.", "vae2llm.", "llm2vae.", "time_embedder.")
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(own)}

    def pack(self, samples: Sequence[Sequence[Piece]]) -> Packed:
        """:func:`srum_bagel.packing.pack` with this model's markers and device."""
        tokens = self.config.tokens
        return pack(samples, tokens.boi, tokens.eoi, self.device)

    def text(self, ids: Sequence[int]) -> Piece:
        """A text piece: bos, ids, eos."""
        return Piece(PieceKind.TEXT, (self.config.tokens.bos, *ids, self.config.tokens.eos))

    def vision_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to language-model inputs (B, h * w, D)."""
        patch = self.config.vit.patch_size
        ids = grid_ids(pixels.shape[2] // patch, pixels.shape[3] // patch, self.vit_pos_embed.side)
        tokens: Tensor = self.connector(self.vit_model(pixels.to(self.dtype))) + self.vit_pos_embed(
            ids.to(pixels.device)
        )
        return tokens

    def latent_tokens(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Latent tokens (T, p * p * C) at timesteps (T,) and grid ids (T,) to language-model inputs (T, D)."""
        tokens: Tensor = self.vae2llm(noisy.to(self.dtype)) + self.time_embedder(timestep) + self.latent_pos_embed(ids)
        return tokens

    def latent_ids(self, height: int, width: int) -> Tensor:
        """Grid ids of an (h, w) latent token grid, row-major."""
        return grid_ids(height, width, self.latent_pos_embed.side).to(self.device)

    # --- whole sequences ------------------------------------------------------------------------------------
    def hidden(self, packed: Packed, vision: Tensor | None, latents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Final hidden states of both streams of packed samples.

        ``vision`` (Tv, D) are the vision tokens and ``latents`` (Tg, D) the latent tokens, both in packed order.
        """
        layout = Layout(packed.batch, packed.length, packed.und_cells, packed.gen_cells, packed.mask)
        und = self._und_stream(packed, vision)
        gen = und.new_zeros(0, und.shape[1]) if latents is None else latents
        und, gen = self.language_model.model(und, gen, packed.positions, layout)
        return und, gen

    def velocity(self, packed: Packed, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Velocity (T, p * p * C) of packed latent tokens, as in training: the whole sequence in one call."""
        _, gen = self.hidden(packed, None, self.latent_tokens(noisy, timestep, ids))
        out: Tensor = self.llm2vae(gen)
        return out

    # --- contexts -------------------------------------------------------------------------------------------
    def empty_cache(self, rows: int) -> Cache:
        """A cache of ``rows`` empty contexts."""
        return Cache(
            valid=torch.zeros(rows, 0, dtype=torch.bool, device=self.device),
            ends=torch.zeros(rows, dtype=torch.long, device=self.device),
        )

    def prefill(self, samples: Sequence[Sequence[Piece]], vision: Tensor | None) -> Cache:
        """The cache of contexts of pieces (text and vision only, no branches), one a row; rows may be empty."""
        empty = self.empty_cache(len(samples))
        packed = self.pack(samples)
        if packed.length == 0:
            return empty
        _, cache = self._continue(packed, self._und_stream(packed, vision), empty)
        return cache

    def _continue(self, packed: Packed, und: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        batch, length = packed.batch, packed.length
        rows = packed.und_cells // length
        layout = Layout(packed.batch, packed.length, packed.und_cells, packed.gen_cells, _with_past(packed.mask, past))
        positions = packed.positions + past.ends[rows]
        used = torch.zeros(batch * length, dtype=torch.bool, device=self.device)
        used[packed.und_cells] = True
        fresh = Cache(valid=torch.cat([past.valid, used.reshape(batch, length)], dim=1), ends=past.ends + packed.ends)
        hidden, _ = self.language_model.model(und, und.new_zeros(0, und.shape[1]), positions, layout, past, keep=fresh)
        if past.length:
            fresh.keys = [torch.cat(pair, dim=1) for pair in zip(past.keys, fresh.keys, strict=True)]
            fresh.values = [torch.cat(pair, dim=1) for pair in zip(past.values, fresh.values, strict=True)]
        return hidden, fresh

    def next_logits(self, ids: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Feed one token (B,) to each row: logits (B, V) for the next one, and the longer cache."""
        rows = len(ids)
        cells = torch.arange(rows, device=self.device)
        packed = Packed(
            batch=rows,
            length=1,
            mask=torch.ones(rows, 1, 1, 1, dtype=torch.bool, device=self.device),
            positions=torch.zeros_like(cells),
            und_cells=cells,
            gen_cells=cells[:0],
            text_rows=cells,
            text_ids=ids,
            vision_rows=cells[:0],
            ends=torch.ones_like(cells),
        )
        hidden, fresh = self._continue(packed, self._und_stream(packed, None), past)
        logits: Tensor = self.language_model.lm_head(hidden)
        return logits, fresh

    # --- denoising on a context -----------------------------------------------------------------------------
    def denoising_block(self, context: Cache, height: int, width: int) -> DenoisingBlock:
        """Lay out an (h, w) block to be denoised on each row of a context."""
        tokens, rows, count = self.config.tokens, len(context.ends), height * width
        packed = self.pack([[Piece(PieceKind.LATENT, count=count, noised=True)]] * rows)
        mask = _with_past(packed.mask, context)
        length = count + 2
        cells = torch.cat([packed.und_cells, packed.gen_cells])
        return DenoisingBlock(
            layout=Layout(packed.batch, packed.length, packed.und_cells, packed.gen_cells, mask),
            positions=context.ends[cells // length],
            marker_ids=torch.tensor([tokens.boi, tokens.eoi], device=self.device).repeat(rows),
            latent_ids=self.latent_ids(height, width),
        )

    def denoise(self, block: DenoisingBlock, context: Cache, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Velocity (B, N, p * p * C) of latent tokens (B, N, p * p * C) at timesteps (B,); the context is only read."""
        rows, count, _ = noisy.shape
        gen = self.latent_tokens(noisy.flatten(0, 1), timestep.repeat_interleave(count), block.latent_ids.repeat(rows))
        und = self.language_model.model.embed_tokens(block.marker_ids)
        _, hidden = self.language_model.model(und, gen, block.positions, block.layout, context)
        out: Tensor = self.llm2vae(hidden)
        return out.reshape(rows, count, -1)

    def forward(
        self, texts: Sequence[Sequence[Piece]], grid: tuple[int, int], noisy: Tensor, timestep: Tensor
    ) -> Tensor:
        """As in training: velocity (B, N, p * p * C) of latent tokens (B, N, p * p * C) of an (h, w) grid at timesteps
        (B,), each row after its own text. The text is read without a graph unless training moves what reads it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_reading):
            context = self.prefill(texts, None)
        return self.denoise(self.denoising_block(context, *grid), context, noisy, timestep)

    def _und_stream(self, packed: Packed, vision: Tensor | None) -> Tensor:
        text: Tensor = self.language_model.model.embed_tokens(packed.text_ids)
        if vision is None or not len(packed.vision_rows):
            return text
        stream = text.new_zeros(len(packed.und_cells), text.shape[1])
        return stream.index_copy(0, packed.text_rows, text).index_copy(0, packed.vision_rows, vision)


def _with_past(mask: Tensor, past: Cache) -> Tensor:
    """A (B, 1, L, L) mask widened by the cache entries in use, which every new token sees."""
    if not past.length:
        return mask
    seen = past.valid[:, None, None, :].expand(-1, 1, mask.shape[2], -1)
    return torch.cat([seen, mask], dim=3)
