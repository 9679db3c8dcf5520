"""The understanding tower: SigLIP from transformers behind BAGEL's linear patch embedding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from srum_bagel.config import VisionConfig
from srum_bagel.embeddings import grid_ids


class PatchEmbeddings(nn.Module):
    """A linear map of patches, each flattened as (row, column, channel), plus learned positions.

    With ``patch_kernel`` the patches overlap: the image is padded with zeros and read with stride ``patch_size``.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.stride = config.patch_size
        self.kernel = config.patch_kernel or config.patch_size
        self.side = config.image_size // config.patch_size
        self.patch_embedding = nn.Linear(self.kernel**2 * config.num_channels, config.hidden_size)
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) to embedded patches (B, h * w, D)."""
        batch, channels, height, width = pixels.shape
        border = (self.kernel - self.stride) // 2
        columns = F.unfold(pixels, self.kernel, padding=border, stride=self.stride)
        patches = columns.reshape(batch, channels, self.kernel**2, -1).permute(0, 3, 2, 1).flatten(2)
        ids = grid_ids(height // self.stride, width // self.stride, self.side).to(pixels.device)
        embedded: Tensor = self.patch_embedding(patches) + self.position_embedding(ids)
        return embedded


class VisionTransformer(nn.Module):
    """Patches, encoder and the final norm; no pooling head."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        encoder = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_channels=config.num_channels,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.layer_norm_eps,
        )
        encoder._attn_implementation = "sdpa"
        self.embeddings = PatchEmbeddings(config)
        self.encoder = SiglipEncoder(encoder)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to features (B, h * w, D)."""
        hidden = self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state
        features: Tensor = self.post_layernorm(hidden)
        return features


class VisionModel(nn.Module):
    """Holds the tower under the name that checkpoints use (``vit_model.vision_model``)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """See :class:`VisionTransformer`."""
        features: Tensor = self.vision_model(pixels)
        return features


class Connector(nn.Module):
    """Tower features to the language model's width."""

    def __init__(self, vision_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_dim, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(..., Dv) to (..., D)."""
        hidden: Tensor = self.fc2(F.gelu(self.fc1(features), approximate="tanh"))
        return hidden
