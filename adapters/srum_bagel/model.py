"""The BAGEL network: pieces in, velocities and text logits out.

Module names are those of the released checkpoints. The autoencoder is held apart: checkpoints keep it in a file of its
own, and it is never trained with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from srum_bagel.config import BagelConfig
from srum_bagel.embeddings import PositionTable, TimestepEmbedder, grid_ids
from srum_bagel.mot import Cache, Layout, MoTForCausalLM
from srum_bagel.packing import Context, Packed, Piece, PieceKind, pack, starts
from srum_bagel.vision import Connector, VisionModel
from srum_plugins.attention.contract import Attention
from srum_plugins.attention.sdpa import SDPA


@dataclass(frozen=True)
class DenoisingBlock:
    """The block [boi, latents, eoi] of every row behind its context, laid out once for all steps of a sampling.

    ``memory`` is the context, or a room that holds it. ``counts`` (B,) are the latent tokens of each row.
    """

    layout: Layout
    memory: Cache
    positions: Tensor
    marker_ids: Tensor
    latent_ids: Tensor
    counts: Tensor


class Bagel(nn.Module):
    """See the module's text. ``config`` fixes all shapes; ``attention`` is the kernel (default: torch's SDPA)."""

    def __init__(self, config: BagelConfig, attention: Attention | None = None) -> None:
        super().__init__()
        self.config = config
        self.attention = attention or SDPA()
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

    def pack(self, samples: Sequence[Sequence[Piece]], contexts: Sequence[Context] = (), past: int = 0) -> Packed:
        """:func:`srum_bagel.packing.pack` with this model's markers and device."""
        tokens = self.config.tokens
        return pack(samples, tokens.boi, tokens.eoi, self.device, contexts, past)

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
    def hidden(
        self, packed: Packed, vision: Tensor | None, latents: Tensor | None, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Final hidden states of both streams of packed samples; of the und stream only ``rows`` (R,) if given.

        ``vision`` (Tv, D) are the vision tokens and ``latents`` (Tg, D) the latent tokens, both in packed order.
        """
        und = self._und_stream(packed, vision)
        gen = und.new_zeros(0, und.shape[1]) if latents is None else latents
        und, gen = self.language_model.model(und, gen, packed.positions, self._layout(packed), rows=rows)
        return und, gen

    def velocity(self, packed: Packed, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Velocity (T, p * p * C) of packed latent tokens, as in training: the whole sequence in one call."""
        _, gen = self.hidden(packed, None, self.latent_tokens(noisy, timestep, ids))
        out: Tensor = self.llm2vae(gen)
        return out

    # --- contexts -------------------------------------------------------------------------------------------
    def empty_cache(self, rows: int) -> Cache:
        """A cache of ``rows`` empty contexts."""
        return Cache((0,) * rows, (0,) * rows)

    def prefill(self, samples: Sequence[Sequence[Piece]], vision: Tensor | None) -> Cache:
        """The cache of contexts of pieces (text and vision only, no branches), one a row; rows may be empty."""
        return self.extend(self.empty_cache(len(samples)), samples, vision)

    def extend(
        self,
        past: Cache,
        samples: Sequence[Sequence[Piece]],
        vision: Tensor | None = None,
        parents: Sequence[int] | None = None,
    ) -> Cache:
        """The cache of samples (as in :meth:`prefill`) that go on from rows of a cache: from the row of the same
        number, or from that of ``parents``, so that several samples may share what was read before them."""
        chosen = range(len(samples)) if parents is None else parents
        contexts = _contexts(past)
        packed = self.pack(samples, [contexts[row] for row in chosen], past.entries)
        if packed.und_tokens:
            return self._continue(packed, self._layout(packed), self._und_stream(packed, vision), past)[1]
        keys, values = ([part.index_select(0, packed.memory) for part in parts] for parts in (past.keys, past.values))
        return Cache(packed.lengths, packed.ends, keys, values)

    def _continue(self, packed: Packed, layout: Layout, und: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        fresh = Cache(packed.lengths, packed.ends)
        nothing = und.new_zeros(0, und.shape[1])
        hidden, _ = self.language_model.model(und, nothing, packed.positions, layout, past, keep=fresh)
        return hidden, fresh

    def next_logits(self, ids: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Feed one token (B,) to each row: logits (B, V) for the next one, and the longer cache."""
        token = [Piece(PieceKind.TEXT, (0,))]  # which one, only the device knows
        packed = replace(self.pack([token] * len(ids), _contexts(past), past.entries), text_ids=ids)
        hidden, fresh = self._continue(packed, self._once(packed), self._und_stream(packed, None), past)
        logits: Tensor = self.language_model.lm_head(hidden)
        return logits, fresh

    def _layout(self, packed: Packed) -> Layout:
        return Layout(self.attention, packed.memory, packed.calls, packed.back)

    def _once(self, packed: Packed) -> Layout:
        """Where every entry of the past is taken once."""
        return replace(self._layout(packed), places=packed.memory.argsort())

    # --- denoising on a context -----------------------------------------------------------------------------
    def denoising_block(self, context: Cache, grids: Sequence[tuple[int, int]]) -> DenoisingBlock:
        """Lay out a block to be denoised on each row of a context; ``grids`` are their (h, w)."""
        return self._block(self._behind(context, grids), context, grids)

    def denoising_room(self, context: Cache, grids: Sequence[tuple[int, int]]) -> Cache:
        """Memory for contexts and blocks together, the contexts in place: what :meth:`in_room` needs."""
        packed = self._behind(context, grids)
        places = packed.memory.argsort()[: context.entries]
        width = (self.config.llm.num_key_value_heads, self.config.llm.head_dim)

        def roomy(part: Tensor | None) -> Tensor:
            room = torch.empty(len(packed.memory), *width, device=self.device, dtype=self.dtype)
            return room if part is None else room.index_copy_(0, places, part)

        layers = [context.layer(index) or (None, None) for index in range(self.config.llm.num_hidden_layers)]
        keys, values = ([roomy(pair[side]) for pair in layers] for side in (0, 1))
        return Cache(packed.lengths, packed.ends, keys, values)

    def in_room(self, context: Cache, grids: Sequence[tuple[int, int]], room: Cache) -> DenoisingBlock:
        """As :meth:`denoising_block`, for many steps: only a block's own keys and values are written. ``room`` was made
        for this context and these grids, or for more rows of which these are the first. Without gradient."""
        packed = self._behind(context, grids)
        size = len(packed.memory)
        memory = Cache(packed.lengths, packed.ends, [k[:size] for k in room.keys], [v[:size] for v in room.values])
        block = self._block(packed, memory, grids)
        assert block.layout.places is not None
        own = block.layout.places[context.entries :]
        return replace(block, layout=replace(block.layout, memory=own, places=None, in_place=True))

    def _behind(self, context: Cache, grids: Sequence[tuple[int, int]]) -> Packed:
        blocks = [[Piece(PieceKind.LATENT, count=height * width, noised=True)] for height, width in grids]
        return self.pack(blocks, _contexts(context), context.entries)

    def _block(self, packed: Packed, memory: Cache, grids: Sequence[tuple[int, int]]) -> DenoisingBlock:
        return DenoisingBlock(
            layout=self._once(packed),
            memory=memory,
            positions=packed.positions,
            marker_ids=packed.text_ids,
            latent_ids=torch.cat([self.latent_ids(*grid) for grid in grids]),
            counts=torch.tensor([height * width for height, width in grids], device=self.device),
        )

    def denoise(self, block: DenoisingBlock, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Velocity (T, p * p * C) of the latent tokens (T, p * p * C) of all rows at timesteps (B,)."""
        time = timestep.repeat_interleave(block.counts, output_size=len(noisy))
        gen = self.latent_tokens(noisy, time, block.latent_ids)
        und = self.language_model.model.embed_tokens(block.marker_ids)
        _, hidden = self.language_model.model(und, gen, block.positions, block.layout, block.memory)
        out: Tensor = self.llm2vae(hidden)
        return out

    def forward(
        self, texts: Sequence[Sequence[Piece]], grids: Sequence[tuple[int, int]], noisy: Tensor, timestep: Tensor
    ) -> Tensor:
        """As in training: velocity (T, p * p * C) of the latent tokens (T, p * p * C) of images with (h, w) grids at
        timesteps (B,), each after its own text, which is read without a graph unless training moves what reads it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_reading):
            context = self.prefill(texts, None)
        return self.denoise(self.denoising_block(context, grids), noisy, timestep)

    def _und_stream(self, packed: Packed, vision: Tensor | None) -> Tensor:
        text: Tensor = self.language_model.model.embed_tokens(packed.text_ids)
        if vision is None or not len(packed.vision_rows):
            return text
        stream = text.new_zeros(packed.und_tokens, text.shape[1])
        return stream.index_copy(0, packed.text_rows, text).index_copy(0, packed.vision_rows, vision)


def _contexts(cache: Cache) -> list[Context]:
    """The rows of a cache as what samples go on from."""
    parts = zip(starts(cache.lengths), cache.lengths, cache.ends, strict=True)
    return [Context(start, length, position) for start, length, position in parts]
