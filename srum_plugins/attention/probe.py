"""Tries kernels on the device that they are for, before any weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from srum_plugins.attention.contract import Attention, FirstOf, Heads, Segments
from srum_plugins.attention.dense import Dense
from srum_plugins.config import Choice
from srum_plugins.errors import ConfigError, PluginError, did_you_mean
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind

Cases = Mapping[str, tuple[Sequence[int], Sequence[int], bool]]
"""Lengths of the queries and of the keys of some segments, and whether they are causal, each by what it stands for."""
CASES: Cases = {
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


def choose(choice: Choice, host: PluginHost, heads: Sequence[Heads], device: str) -> Chosen:
    """The kernel of a filled slot, for every attention of a model.

    Raises:
        ConfigError: it does not work here, or none of those that it names does; why.
    """
    provider = choice.registered.provider
    made = _made(lambda: provider.factory(choice.options))
    if not isinstance(made, FirstOf):
        found = tried(made, heads, device)
        if isinstance(found, str):
            raise ConfigError(
                f"attention={choice.name} does not work here: {found}. attention=auto finds one that does"
            )
        return Chosen(found, choice.name, {})
    known = [row["name"] for row in host.rows() if row["kind"] == Kind.ATTENTION]
    if unknown := [name for name in made.names if name not in known]:
        raise ConfigError(f"attention={choice.name} names {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    refused: dict[str, str] = {}
    for name in made.names:
        kernel = kernel_of(host, name)
        if isinstance(kernel, FirstOf):
            raise ConfigError(f"attention={choice.name} names {name!r}, which is no kernel but an order of kernels")
        found = tried(kernel, heads, device)
        if isinstance(found, str):
            refused[name] = found
        else:
            return Chosen(found, name, refused)
    causes = "".join(f"\n  {name}: {cause}" for name, cause in refused.items())
    raise ConfigError(f"attention={choice.name}: none of its kernels works here:{causes}")


def tried(made: Attention | str, heads: Sequence[Heads], device: str) -> Attention | str:
    """A kernel if it works for all; else why it does not, or why there is none."""
    if isinstance(made, str):
        return made
    return next((refused for one in heads if (refused := refusal(made, one, device))), made)


def refusal(attention: Attention, heads: Heads, device: str, cases: Cases = CASES) -> str:
    """Why a kernel cannot be used for these heads on this device; empty if it can.

    Output and gradients of every case are compared with the reference in float32, computed on the CPU, because a GPU
    may be told to take less for float32. What is missing, built for another card, or levels causal texts at their
    beginning shows here and not in the middle of a run.
    """
    if attention.devices and torch.device(device).type not in attention.devices:
        return f"it runs on {' and '.join(attention.devices)} only, not on {device}"
    allowed = TOLERANCE.get(heads.dtype, HALF_TOLERANCE)
    try:
        for what, (queries, keys, causal) in cases.items():
            segments = Segments.of(queries, keys, causal, torch.device(device))
            inputs = _inputs(segments, heads)
            found = _results(attention, [part.to(device) for part in inputs], segments)
            wanted = _results(Dense(), [part.float() for part in inputs], Segments.of(queries, keys, causal))
            for name, own, right in zip(("output", "gradient of q", "of k", "of v"), found, wanted, strict=True):
                error = float((own.float().cpu() - right).abs().max() / right.abs().max())
                if not error <= allowed:  # also if it is no number
                    return f"{what}: its {name} is off by {error:.1e} of the largest value"
    # Whatever a kernel raises, it is not to be used: wheels fail in many ways.
    except Exception as error:
        return _told(error)
    return ""


def _inputs(segments: Segments, heads: Heads) -> list[Tensor]:
    """q, k, v and the gradient of the output, on the CPU."""
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, heads.dtype)
    counts = (sum(segments.queries), sum(segments.keys), sum(segments.keys), sum(segments.queries))
    shared = (heads.queries, heads.keys, heads.keys, heads.queries)
    return [
        torch.randn(count, number, heads.width, generator=generator).to(dtype)
        for count, number in zip(counts, shared, strict=True)
    ]


def _results(attention: Attention, inputs: list[Tensor], segments: Segments) -> tuple[Tensor, ...]:
    """The output and the gradients of q, k and v."""
    *leaves, after = inputs
    q, k, v = (part.detach().clone().requires_grad_() for part in leaves)
    with torch.enable_grad():
        out = attention.attend(q, k, v, segments)
        gradients = torch.autograd.grad(out, (q, k, v), after)
    if out.is_cuda:  # a kernel that cannot be launched says so only when it is waited for
        torch.cuda.synchronize(out.device)
    return out.detach(), *gradients


def kernel_of(host: PluginHost, name: str) -> Attention | FirstOf | str:
    """The kernel of this name with its default options, or why there is none."""

    def default() -> Any:
        provider = host.get(Kind.ATTENTION, name).provider
        return provider.factory(provider.options())

    return _made(default)


def _made(make: Callable[[], Any]) -> Attention | FirstOf | str:
    """What a factory gives, or why it gives none."""
    try:
        made = make()
    except PluginError as error:
        return str(error)
    # A broken wheel fails at its import, in any way.
    except Exception as error:
        return _told(error)
    return made if isinstance(made, Attention | FirstOf) else f"its factory gave a {type(made).__name__}, no Attention"


def _told(error: Exception) -> str:
    """An exception's first sentence; those of kernels go on for pages."""
    first = re.split(r"\n|(?<=\.)\s", str(error).strip(), maxsplit=1)[0]
    return f"{type(error).__name__}: {shorten(first, 200)}"
