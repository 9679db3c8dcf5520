"""The tiny SAM: segment-anything's own classes, with dimensions for the pictures of the drawn world."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

SIDE = 32
"""Of the drawn world's pictures, in pixels; others are resized to it. The decoder's masks have the same side: four
pixels for one of the encoder's grid."""
PATCH = 4
GRID = SIDE // PATCH
WIDTH = 96
"""Of image encoder, prompts and decoder."""


def tiny_sam() -> Any:
    """A ``Sam`` of 0.9 million parameters with random weights, in float32."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=4,
            num_heads=4,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            out_chans=WIDTH,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH, image_embedding_size=(GRID, GRID), input_image_size=(SIDE, SIDE), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=128, num_heads=4),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=64,
        ),
    )
