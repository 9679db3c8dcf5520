"""Euler sampling of the flow with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from srum_bagel.model import Bagel
from srum_bagel.mot import Cache
from srum_bagel.options import Sampling


def shifted(timestep: Tensor, shift: float) -> Tensor:
    """The timestep shift s * t / (1 + (s - 1) * t); maps [0, 1] onto itself."""
    return shift * timestep / (1 + (shift - 1) * timestep)


def schedule(points: int, shift: float) -> list[float]:
    """Timesteps that fall from 1 (noise) to 0 (data), both included exactly."""
    inner = shifted(torch.linspace(1, 0, points, dtype=torch.float64), shift)[1:-1]
    return [1.0, *inner.tolist(), 0.0]


def guide(conditional: Tensor, unconditional: Tensor, text_only: Tensor, sampling: Sampling) -> Tensor:
    """Guided velocity (B, N, D), renormed per image or per token."""
    guided = unconditional + sampling.guidance * (conditional - unconditional)
    if sampling.renorm == "text_channel":
        guided = _renormed(guided, conditional, (2,), sampling.renorm_min)
    if sampling.image_guidance > 1:
        guided = text_only + sampling.image_guidance * (guided - text_only)
    if sampling.renorm == "global":
        return _renormed(guided, conditional, (1, 2), sampling.renorm_min)
    if sampling.renorm == "channel":
        return _renormed(guided, conditional, (2,), sampling.renorm_min)
    return guided


def _renormed(guided: Tensor, conditional: Tensor, dims: tuple[int, ...], least: float) -> Tensor:
    """``guided`` with at most the norm of ``conditional`` over these dimensions."""
    factor = conditional.norm(dim=dims, keepdim=True) / (guided.norm(dim=dims, keepdim=True) + 1e-8)
    renormed: Tensor = guided * factor.clamp(min=least, max=1.0)
    return renormed


@torch.no_grad()
def sample(
    model: Bagel,
    context: Cache,
    unconditional: Cache,
    noise: Tensor,
    grid: tuple[int, int],
    sampling: Sampling,
    text_only: Cache | None = None,
) -> Tensor:
    """Latent tokens (B, N, p * p * C), float32, from noise of that shape.

    ``context``, ``unconditional`` and ``text_only`` have one row per image. ``text_only`` is the context without images
    and plan, for image guidance; None says that it equals ``context``, and then it costs nothing. Nor does guidance
    away from nothing: where all contexts are empty, every branch is the same. All branches of a step run in one batch.
    """
    times = schedule(sampling.points, sampling.shift)
    guides = sampling.guidance > 1 and context.entries + unconditional.entries > 0
    guided = [guides and sampling.interval[0] < t <= sampling.interval[1] for t in times[:-1]]
    branches = [context, unconditional]
    if text_only is not None and sampling.image_guidance > 1:
        branches.append(text_only)
    stacked = stack(branches) if any(guided) else context
    rows, repeats = len(noise), len(branches)
    grids = [grid] * len(stacked.lengths)
    room = model.denoising_room(stacked, grids)
    plain_block = model.in_room(context, grids[:rows], room)
    guided_block = model.in_room(stacked, grids, room) if any(guided) else plain_block
    x = noise.float()
    for step, (now, after) in enumerate(pairwise(times)):
        time = torch.full((rows,), now, device=x.device)
        tokens = x.flatten(0, 1)
        if guided[step]:
            all_branches = model.denoise(guided_block, tokens.repeat(repeats, 1), time.repeat(repeats))
            parts = all_branches.float().reshape(repeats, *x.shape)
            velocity = guide(parts[0], parts[1], parts[2] if len(parts) > 2 else parts[0], sampling)
        else:
            velocity = model.denoise(plain_block, tokens, time).float().reshape(x.shape)
        x = x - velocity * (now - after)
    return x


def stack(caches: Sequence[Cache]) -> Cache:
    """The rows of several caches as one."""
    filled = [cache for cache in caches if cache.entries]
    layers = range(len(filled[0].keys)) if filled else range(0)
    return Cache(
        lengths=tuple(length for cache in caches for length in cache.lengths),
        ends=tuple(end for cache in caches for end in cache.ends),
        keys=[torch.cat([cache.keys[layer] for cache in filled]) for layer in layers],
        values=[torch.cat([cache.values[layer] for cache in filled]) for layer in layers],
    )
