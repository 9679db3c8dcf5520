"""Tries kernels on the device that they are for, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srum_plugins.attention.contract import Attention, FirstOf, Heads, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.config import Choice
from srum_plugins.errors import ConfigError, ContractError, PluginError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind

CASES: dict[str, tuple[tuple[int, int], tuple[int, int], bool]] = {
    "causal text": ((5, 130), (5, 130), True),
    "text after an image": ((5, 40), (69, 163), True),
    "images after text": ((64, 33), (69, 163), False),
}
"""Lengths of two segments' queries and keys: more than one tile, one with itself and of another length."""
TOLERANCE = {"float32": 1e-4}
"""Largest deviation from float32, in terms of the largest value."""
HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Chosen:
    """A kernel that works, its name, and why each that was tried before it does not."""

    kernel: Attention
    name: str
    refused: Mapping[str, str]


def choose(choice: Choice, host: PluginHost, heads: Heads, device: str) -> Chosen:
    """The kernel of a filled slot.

    Raises:
        ConfigError: it does not work here, or none of those that it names does; why.
    """
    provider = choice.registered.provider
    made = _made(choice.name, lambda: provider.factory(choice.options))
    if not isinstance(made, FirstOf):
        found = tried(made, heads, device)
        if isinstance(found, str):
            raise ConfigError(
                f"attention={choice.name} does not work here: {found}. attention=auto takes one that does"
            )
        return Chosen(found, choice.name, {})
    refused: dict[str, str] = {}
    for name in made.names:
        kernel = _made(name, partial(_default, host, name))
        if isinstance(kernel, FirstOf):
            raise ContractError(f"attention {choice.name!r} names {name!r}, which is no kernel")
        found = tried(kernel, heads, device)
        if isinstance(found, str):
            refused[name] = found
        else:
            return Chosen(found, name, refused)
    causes = "".join(f"\n  {name}: {cause}" for name, cause in refused.items())
    raise ConfigError(f"attention={choice.name}: none of its kernels works here:{causes}")


def tried(made: Attention | str, heads: Heads, device: str) -> Attention | str:
    """A kernel if it works; else why it does not, or why there is none."""
    return made if isinstance(made, str) else refusal(made, heads, device) or made


def refusal(attention: Attention, heads: Heads, device: str) -> str:
    """Why a kernel cannot be used for these heads on this device; empty if it can.

    Output and gradients of every case are compared with the reference in float32. What is missing, built for another
    card, or levels causal texts at their beginning shows here and not in the middle of a run.
    """
    allowed = TOLERANCE.get(heads.dtype, HALF_TOLERANCE)
    try:
        for what, (queries, keys, causal) in CASES.items():
            segments = Segments.of(queries, keys, causal, torch.device(device))
            inputs = _inputs(segments, heads, device)
            found, wanted = _results(attention, inputs, segments), _results(Dense(), inputs, segments, torch.float32)
            for name, own, right in zip(("output", "gradient of q", "of k", "of v"), found, wanted, strict=True):
                error = float((own.float() - right).abs().max() / right.abs().max())
                if not error <= allowed:  # also if it is no number
                    return f"{what}: its {name} is off by {error:.1e} of the largest value"
    # Whatever a kernel raises, it is not to be used: wheels fail in many ways.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return ""


def _inputs(segments: Segments, heads: Heads, device: str) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, heads.dtype)
    counts = (sum(segments.queries), sum(segments.keys), sum(segments.keys), sum(segments.queries))
    shared = (heads.queries, heads.keys, heads.keys, heads.queries)
    return [
        torch.randn(count, number, heads.width, generator=generator).to(device, dtype)
        for count, number in zip(counts, shared, strict=True)
    ]


def _results(
    attention: Attention, inputs: list[Tensor], segments: Segments, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """The output and the gradients of q, k and v."""
    q, k, v, after = (part.to(dtype or part.dtype) for part in inputs)
    q, k, v = (part.detach().clone().requires_grad_() for part in (q, k, v))
    with torch.enable_grad():
        out = attention.attend(q, k, v, segments)
        gradients = torch.autograd.grad(out, (q, k, v), after)
    if out.is_cuda:  # a kernel that cannot be launched says so only when it is waited for
        torch.cuda.synchronize(out.device)
    return out.detach(), *gradients


def _default(host: PluginHost, name: str) -> Any:
    provider = host.get(Kind.ATTENTION, name).provider
    return provider.factory(provider.options())


def _made(name: str, make: Callable[[], Any]) -> Attention | FirstOf | str:
    """What a factory gives, or why it gives none."""
    try:
        made = make()
    except PluginError as error:
        return str(error)
    # A broken wheel fails at its import, in any way.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(made, Attention | FirstOf):
        raise ContractError(f"attention {name!r}: its factory returned a {type(made).__name__}, which is no Attention")
    return made
