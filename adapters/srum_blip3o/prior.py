"""The prior: a Lumina-Next DiT that denoises EVA-CLIP features, told by the states of 64 learned queries
(blip3o.md 2.3).

Times are those of the released weights: 1 is noise, 0 is data, and a velocity is noise minus data. Lumina's own
pipeline in diffusers has both the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import LuminaNextDiT2DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection, apply_rotary_emb, get_2d_rotary_pos_embed_lumina
from diffusers.models.transformers.lumina_nextdit2d import LuminaNextDiTBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srum_plugins.attention.contract import Attention, Segments
from srum_plugins.attention.sdpa import SDPA
from srum_plugins.errors import ContractError

TIMESTEPS = 1000
"""The time that the DiT is told at pure noise."""
QUERY_SPREAD = 0.02
"""Standard deviation of new latent queries: that of a new Qwen's embeddings, among which they stand."""


@dataclass(frozen=True)
class PriorConfig:
    """All shapes. ``condition`` is the language model's hidden size; the rest are the released values, which no
    checkpoint states (blip3o.md 1.2). Images are ``grid`` x ``grid`` tokens of ``channels`` features."""

    condition: int
    channels: int = 1792
    grid: int = 8
    layers: int = 24
    heads: int = 28
    queries: int = 64
    norm_eps: float = 1e-5
    multiple_of: int = 256


class Prior(nn.Module):
    """Latent queries, caption projection and DiT; ``attention`` is the kernel (default: torch's SDPA).

    diffusers' ``pad_token`` is taken out: nothing reads it, no checkpoint has it, and weight decay would move it.
    """

    def __init__(self, config: PriorConfig, attention: Attention | None = None) -> None:
        super().__init__()
        self.config = config
        self.latent_queries = nn.Parameter(QUERY_SPREAD * torch.randn(1, config.queries, config.condition))
        self.caption_projection = PixArtAlphaTextProjection(config.condition, config.channels)
        self.dit = LuminaNextDiT2DModel(
            sample_size=config.grid,
            patch_size=1,
            in_channels=config.channels,
            hidden_size=config.channels,
            num_layers=config.layers,
            num_attention_heads=config.heads,
            num_kv_heads=config.heads,
            multiple_of=config.multiple_of,
            norm_eps=config.norm_eps,
            learn_sigma=False,
            qk_norm=True,
            cross_attention_dim=config.channels,
        )
        del self.dit.pad_token
        for layer in self.dit.layers:
            layer.__class__ = _Layer  # the same weights under the same names, built once
        use_attention(self, attention or SDPA())

    @property
    def checkpointing(self) -> bool:
        """Whether a layer's activations are computed again in the backward pass, and only its inputs kept for it."""
        return all(layer.checkpointing for layer in self.dit.layers)

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        for layer in self.dit.layers:
            layer.checkpointing = on

    def prior_parameters(self, queries: bool = False) -> dict[str, nn.Parameter]:
        """What training changes, by name: the DiT with its caption projection, and the latent queries if asked for.
        Gradients of the queries go through the language model; without them conditions may be kept (blip3o.md 3)."""
        return {name: each for name, each in self.named_parameters() if queries or name != "latent_queries"}

    def velocity(self, noisy: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Predicted noise minus data (B, C, g, g), float32, at noise levels ``sigma`` (B,) in [0, 1].

        ``noisy`` (B, C, g, g) is (1 - sigma) data + sigma noise, ``condition`` (B, Q, H) the states of the queries, or
        zeros for none.

        Raises:
            ContractError: a shape is another.
        """
        velocity: Tensor = self(noisy, TIMESTEPS * sigma.float(), condition)
        return velocity

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """:meth:`velocity` at the times (B,) that the DiT is told, 0 to 1000. They stay float32 whatever the weights:
        bfloat16 tells no 967 from 966."""
        config = self.config
        expected = {
            "noisy": (noisy, (len(noisy), config.channels, config.grid, config.grid)),
            "the time": (timestep, (len(noisy),)),
            "the condition": (condition, (len(noisy), config.queries, config.condition)),
        }
        for what, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ContractError(f"{what} has shape {tuple(tensor.shape)}, but the prior takes {shape}")
        dtype = self.dit.patch_embedder.proj.weight.dtype
        caption = self.caption_projection(condition.to(dtype))
        predicted: Tensor = self.dit(
            noisy.to(dtype),
            timestep.float(),
            caption,
            torch.ones(caption.shape[:2], dtype=torch.bool, device=caption.device),
            _rope(config.channels // config.heads, config.grid, noisy.device),
            cross_attention_kwargs={},
        ).sample
        return predicted.float()


def use_attention(prior: Prior, kernel: Attention) -> None:
    """Let every attention of the DiT go through this kernel.

    diffusers' own ``set_attention_backend`` does nothing here, without a word: its processor for this model asks
    torch's SDPA directly (blip3o.md 6.1).
    """
    for layer in prior.dit.layers:
        layer.attn1.set_processor(_Processor(kernel))
        layer.attn2.set_processor(_Processor(kernel))


@dataclass(frozen=True)
class _Processor:
    """What diffusers' does but for the mask, which is all ones here: norm over all heads, RoPE, the kernel."""

    kernel: Attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        query_rotary_emb: Tensor | None = None,
        key_rotary_emb: Tensor | None = None,
    ) -> Tensor:
        """Heads (B, Lq, heads, width) that are still apart; the block joins them."""
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (part.unflatten(2, (attn.heads, -1)) for part in (q, k, v))
        if query_rotary_emb is not None:
            q = apply_rotary_emb(q, query_rotary_emb, use_real=False)
        if key_rotary_emb is not None:
            k = apply_rotary_emb(k, key_rotary_emb, use_real=False)
        segments = _segments(*q.shape[:2], k.shape[1], q.device)
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast the norms give float32
        return self.kernel.attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), segments).view(q.shape)


class _Layer(LuminaNextDiTBlock):  # type: ignore[misc]  # diffusers has no types
    """diffusers' block, which can forget its activations; diffusers offers that for other models only."""

    checkpointing = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's, recomputed in the backward pass if so."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
        return super().forward(*args, **kwargs)


# Both are kept for the backward pass too, where tensors that were first made for inference would be refused.
@lru_cache(maxsize=8)
def _rope(width: int, grid: int, device: torch.device) -> Tensor:
    """Rotations (grid, grid, width / 2), complex64, for heads of that width."""
    with torch.inference_mode(False):
        table: Tensor = get_2d_rotary_pos_embed_lumina(width, grid, grid)
        return table.to(device)


@lru_cache(maxsize=32)
def _segments(batch: int, queries: int, keys: int, device: torch.device) -> Segments:
    """As many equal segments as images."""
    with torch.inference_mode(False):
        return Segments.of([queries] * batch, [keys] * batch, False, device)
