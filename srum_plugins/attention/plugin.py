"""The attention kernels that come with the framework, and the order in which ``auto`` tries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srum_plugins.attention.contract import FirstOf
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import NoOptions, Provider


@dataclass(frozen=True)
class AutoOptions:
    """``order`` names the kernels that are tried, first come first served."""

    order: tuple[str, ...] = ("varlen", "sdpa", "dense")

    def __post_init__(self) -> None:
        if not self.order:
            raise ValueError("order must name at least one kernel")


@hookimpl
def srum_attentions() -> list[Provider]:
    """Kernels of torch and xformers, the reference, and the first that works."""
    return [
        Provider("auto", "the first kernel that works here", lambda options: FirstOf(options.order), AutoOptions),
        Provider("varlen", "torch's kernel for packed sequences; CUDA, half precision", _varlen),
        Provider("sdpa", "torch's scaled_dot_product_attention; any device", _sdpa),
        Provider("flex", "torch's flex_attention, compiled; CUDA", _flex),
        Provider(
            "xformers",
            "xformers' memory-efficient attention; CUDA",
            _xformers,
            modules=("xformers",),
            extra="pip install 'srum-plugins[xformers]'",
        ),
        Provider("dense", "the reference: all scores in float32, for small sizes", _dense),
    ]


def _varlen(options: NoOptions) -> Any:
    from srum_plugins.attention.varlen import Varlen

    return Varlen()


def _sdpa(options: NoOptions) -> Any:
    from srum_plugins.attention.sdpa import SDPA

    return SDPA()


def _flex(options: NoOptions) -> Any:
    from srum_plugins.attention.flex import Flex

    return Flex()


def _xformers(options: NoOptions) -> Any:
    from srum_plugins.attention.xformers import XFormers

    return XFormers()


def _dense(options: NoOptions) -> Any:
    from srum_plugins.attention.dense import Dense

    return Dense()
