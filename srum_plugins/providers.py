"""Provider records: what a plugin says about itself before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from srum_plugins.attention.contract import Heads
from srum_plugins.contracts import Capability


class Kind(StrEnum):
    """The seams of the framework. Each has one provider hook."""

    ADAPTER = "adapter"
    GROUNDER = "grounder"
    JUDGE = "judge"
    AGGREGATOR = "aggregator"
    OBJECTIVE = "objective"
    PROMPTS = "prompts"
    BENCHMARK = "benchmark"
    ATTENTION = "attention"
    MONITOR = "monitor"


PRESET = "preset"
"""The word under ``sampling`` that names a preset."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a provider that has none."""


@dataclass(frozen=True)
class Provider:
    """One named implementation of a contract.

    ``factory`` is called as ``factory(options)`` (adapters: ``factory(options, device)``, and with ``heads`` as
    ``factory(options, device, attention)``) and may import heavy packages; building the record must not. ``options``
    is a dataclass with defaults, owned by the plugin; adapters add ``sampling``, the dataclass of generation settings,
    ``presets``, named settings of it that users may start from (``generate.sampling.preset``), and ``training``, the
    dataclass of what training moves and holds (``train.adapter``). ``capabilities`` is what an adapter can do;
    ``needs`` is what any other provider asks of the adapter, as a function of its own options. ``modules`` are the
    import names that must be there for the provider to be ready; if one is not, ``extra`` is the pip line that users
    are shown. ``check`` refuses options that cannot work on this machine, such as a folder without weights, by an error
    in plain words; it is called before any weight is loaded, and only where a stage needs the provider.
    ``identity`` is whatever else decides the provider's results, such as a hash of the weights or the file
    that its options name; it becomes part of the fingerprints of stages. ``trained_dtype`` gives, from options and
    training settings, the dtype of an adapter's trainable weights, which decides what optimizer can move them.
    ``heads`` gives, from options, those of every attention in an adapter; the adapter is then made with a kernel that
    was probed for them. ``weightless`` makes an adapter without memory from its options, as a
    :class:`srum_plugins.contracts.Weightless`, for ``srum doctor --memory``; None if it cannot be. ``cannot_encode``
    says of an adapter's options why it could not encode images and what to do, and is empty if it can; it is asked
    before anything is loaded where ``train.latents=encoded``. ``squared`` says whether an adapter's token losses and
    distances are squared errors of one prediction, as those of flows are, and ``needs_squared`` of an objective's
    options why its loss is bounded below for such adapters alone and what to set, empty if it is for all; it is asked
    where the adapter's are not. ``parts`` are the options of a monitor that
    name a provider themselves, each with its kind: in a config such an option is filled like that kind's slot.
    """

    name: str
    summary: str
    factory: Callable[..., Any]
    options: type = NoOptions
    sampling: type = NoOptions
    capabilities: frozenset[Capability] = frozenset()
    needs: Callable[[Any], frozenset[Capability]] = lambda options: frozenset()
    modules: tuple[str, ...] = ()
    extra: str = ""
    check: Callable[[Any], None] = lambda options: None
    identity: Callable[[Any], str] = lambda options: ""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: type = NoOptions
    trained_dtype: Callable[[Any, Any], str] = lambda options, training: "float32"
    heads: Callable[[Any], tuple[Heads, ...]] | None = None
    weightless: Callable[[Any], Any] | None = None
    cannot_encode: Callable[[Any], str] = lambda options: ""
    squared: bool = True
    needs_squared: Callable[[Any], str] = lambda options: ""
    parts: Mapping[str, Kind] = field(default_factory=dict)
