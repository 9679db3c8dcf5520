"""The dimensions of a BAGEL, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from srum_plugins.errors import CheckpointError, ContractError
from srum_plugins.records import from_json


@dataclass(frozen=True)
class LanguageConfig:
    """The mixture-of-transformers: Qwen2 with q/k norm and a second set of weights for latents."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.tie_word_embeddings:
            raise CheckpointError("BAGEL's text head has weights of its own: tie_word_embeddings must be false")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VisionConfig:
    """The understanding tower (SigLIP). ``num_hidden_layers`` counts the layers that are used.

    ``patch_kernel`` larger than ``patch_size`` makes the patch embedding an overlapping convolution with stride
    ``patch_size``; the released model has none (``None``).
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    image_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    patch_kernel: int | None = None


@dataclass(frozen=True)
class AutoencoderConfig:
    """The latent space. ``kind`` is ``pixels`` (identity) or ``kl`` (diffusers ``AutoencoderKL(**arguments)``)."""

    kind: str = "pixels"
    downsample: int = 1
    z_channels: int = 3
    scale: float = 1.0
    shift: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that wrap text pieces (bos, eos) and images (boi, eoi)."""

    bos: int
    eos: int
    boi: int
    eoi: int


@dataclass(frozen=True)
class BagelConfig:
    """Everything that fixes the shapes of a BAGEL."""

    llm: LanguageConfig
    vit: VisionConfig
    vae: AutoencoderConfig
    tokens: SpecialTokens
    latent_patch_size: int = 2
    max_latent_size: int = 64
    vit_max_num_patch_per_side: int = 70
    timestep_shift: float = 1.0

    @property
    def latent_token_dim(self) -> int:
        """Numbers in one latent token."""
        return self.latent_patch_size**2 * self.vae.z_channels

    @property
    def latent_stride(self) -> int:
        """Image pixels along one side of a latent token."""
        return self.vae.downsample * self.latent_patch_size

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def parse(cls, data: Any) -> BagelConfig:
        """The config from :meth:`to_json` output; keys that the class does not know are refused."""
        try:
            return from_json(cls, data)
        except ContractError as error:
            raise CheckpointError(f"this is not a BAGEL config: {error}") from error
