"""A flow model of coloured patches: it draws one patch for each colour that a prompt names.

An image is a grid of tokens, each of one colour with a little grain. A patch has 2 x 2 tokens, in the middle of one
quarter of the image.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "background")
RGB = ((220, 40, 40), (40, 175, 60), (35, 85, 225), (245, 205, 35), (190, 50, 190), (30, 30, 30), (236, 236, 236))
BACKGROUND, UNKNOWN = 6, 7
GRAIN = 0.05
"""The standard deviation of a token from its colour, where colours lie in [-1, 1]."""


def named(text: str) -> list[int]:
    """The colours that a text names, in its order, as places in COLOURS."""
    return [COLOURS.index(word) for word in re.findall("[a-z]+", text.lower()) if word in COLOURS[:BACKGROUND]]


class PatchFlow(nn.Module):
    """``colours`` (7, 3), in [-1, 1], are frozen. ``paint`` (8, 7) is trained: for each colour that is asked for, the
    logits of those that it is painted in; the last row is for a patch of no named colour."""

    def __init__(self, skill: float) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.tensor(RGB) / 127.5 - 1, requires_grad=False)
        self.paint = nn.Parameter(skill * torch.eye(len(COLOURS) + 1, len(COLOURS)))
        self.paint.data[BACKGROUND] *= 3

    def velocity(self, text: str, seen: Tensor, time: Tensor) -> Tensor:
        """The velocity (3, H, W) at ``seen`` = (1 - time) * clean + time * noise: the mean of noise - clean, exactly,
        over all images that ``paint`` allows, each as likely as it says. ``time`` lies in [0, 1]; 1 is pure noise."""
        height, width = seen.shape[1:]
        wanted = torch.full((height, width), BACKGROUND, device=seen.device)
        for quarter, colour in enumerate((named(text) or [UNKNOWN])[:4]):
            top, left = (2 * (quarter // 2) + 1) * height // 4, (2 * (quarter % 2) + 1) * width // 4
            wanted[max(top - 1, 0) : top + 1, max(left - 1, 0) : left + 1] = colour
        spread = ((1 - time) * GRAIN).square() + time.square()
        apart = (seen[..., None] - (1 - time) * self.colours.T[:, None, None]).square().sum(0)
        likely = (self.paint[wanted].log_softmax(-1) - apart / (2 * spread)).softmax(-1)
        mean = (likely @ self.colours).permute(2, 0, 1)
        return (time - (1 - time) * GRAIN**2) / spread * (seen - (1 - time) * mean) - mean
