"""The contract gate: compares a whole config with what its providers declare, before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from shutil import which
from typing import Any

from srum_plugins.config import EvaluateSection, GroundSection, TrainSection
from srum_plugins.contracts import Benchmark, Capability
from srum_plugins.errors import CapabilityError, ConfigError, ContractError, SrumError, did_you_mean
from srum_plugins.host import PluginHost, Registered, missing_modules
from srum_plugins.options import build_options
from srum_plugins.providers import Kind, Provider

EIGHT_BIT = "pip install 'srum-plugins[gpu]'"
MOST_BETA2 = 0.98  # above it 1 - beta2 is too small a step for a moment in bfloat16 (engine.md 3.1)

STAGE_NEEDS = {
    "generate": frozenset({Capability.GENERATE}),
    "ground": frozenset[Capability](),
    "judge": frozenset[Capability](),
    "reward": frozenset[Capability](),
    "train": frozenset({Capability.TRAIN}),
    "evaluate": frozenset({Capability.GENERATE}),
}
STAGE_OF_SLOT = {
    "prompts": "generate",
    "grounder": "ground",
    "judge": "judge",
    "aggregator": "reward",
    "objective": "train",
    "monitors": "train",
    "benchmark": "evaluate",
}


def check(
    adapter: Registered,
    others: Mapping[str, tuple[Registered, Any]],
    stages: Sequence[str],
    *,
    ground: GroundSection | None = None,
    host: PluginHost | None = None,
) -> None:
    """Refuse a config that cannot run to its end.

    Args:
        adapter: the model adapter.
        others: the other providers with their options, by slot of the config (``"grounder"``, ``"judge"``, ...; of a
            slot with several ``"judge[0]"``, ``"judge[1]"``).
        stages: the stages that are to run. What only other stages use is not checked; slots that belong to no stage
            always are.
        ground: the settings of the stage of that name, whose filter asks the model.
        host: of all plugins: what would fit in place of a provider that does not is told from it.

    Raises:
        CapabilityError: a stage, provider or filter needs of the adapter what it does not declare. Lists all other
            problems too.
        ConfigError: an unknown stage, packages that are not installed, a provider that its own check refuses, or
            ``needs`` that cannot be read.
    """
    lacking: list[str] = []
    problems = [
        f"there is no stage {stage!r}.{did_you_mean(stage, STAGE_NEEDS)}"
        for stage in stages
        if stage not in STAGE_NEEDS
    ]
    used = {slot: pair for slot, pair in others.items() if STAGE_OF_SLOT.get(slot.partition("[")[0]) in (None, *stages)}
    for slot, registered in [("adapter", adapter), *((slot, registered) for slot, (registered, _) in used.items())]:
        provider = registered.provider
        if missing := missing_modules(provider):
            problems.append(f"the {slot} {provider.name!r} needs {', '.join(missing)}, not installed: {provider.extra}")
    for stage in stages:
        lacking += _lacking(f"the stage {stage!r}", STAGE_NEEDS.get(stage, frozenset()), adapter)
    for slot, (registered, options) in used.items():
        asker = f"the {slot} {registered.provider.name!r} of {registered.origin}"
        try:
            needs = frozenset(Capability(need) for need in registered.provider.needs(options))
        except Exception as error:  # a stranger's function: told with its name, beside all other problems
            problems.append(f"{asker} cannot say what it needs: {type(error).__name__}: {error}")
        else:
            instead = ""
            if host is not None and not needs <= adapter.provider.capabilities:
                instead = _fitting(registered.kind, adapter, host)
            lacking += _lacking(asker, needs, adapter, instead)
        problems += _refused(asker, registered.provider, options)
    if ground is not None and "ground" in stages:
        lacking += _lacking(f"ground.filter={ground.filter}", ground.needs, adapter, "; ground.filter=none does not")
    if lacking or problems:
        raise (CapabilityError if lacking else ConfigError)("\n".join(lacking + problems))


def check_adapter(adapter: Registered, options: Any) -> None:
    """Refuse an adapter whose own check refuses its options.

    Raises:
        ConfigError: why.
    """
    asker = f"the adapter {adapter.provider.name!r} of {adapter.origin}"
    if refused := _refused(asker, adapter.provider, options):
        raise ConfigError("\n".join(refused))


def check_optimizer(adapter: Registered, options: Any, training: Any, train: TrainSection) -> None:
    """Refuse an optimizer that cannot run here or cannot move the adapter's weights.

    Raises:
        ConfigError: why, and what to set.
    """
    dtype = adapter.provider.trained_dtype(options, training)
    if train.optimizer == "adamw8bit":
        if find_spec("torchao") is None:
            raise ConfigError(f"train.optimizer=adamw8bit needs torchao, not installed: {EIGHT_BIT}")
        if not any(which(compiler) for compiler in (os.environ.get("CXX", ""), "g++", "clang++", "c++")):
            raise ConfigError("train.optimizer=adamw8bit compiles its step and finds no C++ compiler: install g++")
        if dtype != "float32" and train.beta2 > MOST_BETA2:
            raise ConfigError(
                f"train.beta2={train.beta2:g} does not work with weights in {dtype}: small tensors keep their moments "
                f"in that dtype, where such a moment never decays. Set it to {MOST_BETA2:g} or less"
            )
    if train.master_weights and dtype == "float32":
        raise ConfigError(
            f"train.master_weights keeps a copy in float32, and the weights of the adapter {adapter.provider.name!r} "
            "are in float32 already: leave it out"
        )
    if train.optimizer == "adamw" and dtype != "float32" and not train.master_weights:
        raise ConfigError(
            f"train.optimizer={train.optimizer} cannot train weights in {dtype}, which is what the adapter "
            f"{adapter.provider.name!r} has with these options: a step far smaller than a weight rounds to nothing. "
            "Set train.optimizer=adamw8bit, which rounds at random, or train.master_weights=true, which moves a copy "
            "in float32, or give the adapter float32 weights"
        )


def check_world(adapter: Registered, train: TrainSection, size: int) -> None:
    """Refuse a training that ``size`` processes cannot do together.

    Raises:
        ConfigError: why, and what to set.
    """
    if train.batch % size:
        raise ConfigError(
            f"train.batch={train.batch} cannot be shared equally by {size} processes: make it a multiple of {size}, or "
            "start another number of them"
        )
    if train.sharding == "fsdp2":
        if Capability.SHARD not in adapter.provider.capabilities:
            raise ConfigError(
                f"train.sharding=fsdp2 needs an adapter whose weights can be shared out, and {adapter.provider.name!r} "
                "does not say so (capability shard): set train.sharding=none"
            )
        if train.optimizer == "adamw8bit":
            raise ConfigError(
                "train.sharding=fsdp2 does not work with train.optimizer=adamw8bit, whose blocks cannot be shared out: "
                "set train.optimizer=adamw, with train.master_weights=true for weights in bfloat16"
            )


def check_monitors(monitors: Mapping[str, tuple[Registered, Any]], train: TrainSection, size: int) -> None:
    """Refuse monitors, by slot with their options, that ask more of a model whose weights are shared out than training
    does.

    Raises:
        ConfigError: which, and what to set.
    """
    if train.sharding == "none" or size == 1:
        return
    for slot, (registered, options) in monitors.items():
        if more := sorted(set(registered.provider.needs(options)) - {Capability.TRAIN}):
            raise ConfigError(
                f"{slot} {registered.provider.name!r} needs a model that can {', '.join(more)} during training, and "
                f"with train.sharding={train.sharding} each of {size} processes holds a part of it, which can only "
                "predict. Leave it out, or set train.sharding=none"
            )


def check_latents(adapter: Registered, options: Any, train: TrainSection) -> None:
    """Refuse to have images encoded by an adapter that cannot: the stages before training take hours.

    Raises:
        ConfigError: why, and what to do.
    """
    if train.latents == "encoded" and (why := adapter.provider.cannot_encode(options)):
        raise ConfigError(f"train.latents=encoded does not work with the adapter {adapter.provider.name!r}: {why}")


def check_objective(adapter: Registered, objective: Registered, options: Any) -> None:
    """Refuse an objective that with these options is bounded below for squared errors alone, for an adapter whose token
    losses are others: negative weights would push it ever further.

    Raises:
        ConfigError: why, and what to set.
    """
    if not adapter.provider.squared and (why := objective.provider.needs_squared(options)):
        raise ConfigError(
            f"the objective {objective.provider.name!r} does not work with the adapter {adapter.provider.name!r}, "
            f"whose token losses are no squared errors: {why}"
        )


def _refused(asker: str, provider: Provider, options: Any) -> list[str]:
    """What a provider's own check says against its options; it may be a stranger's function."""
    try:
        provider.check(options)
    except SrumError as error:
        return [f"{asker} cannot run here: {error}"]
    except Exception as error:
        return [f"{asker} cannot say whether it can run here: {type(error).__name__}: {error}"]
    return []


def is_size(value: object) -> bool:
    """Whether this is a (width, height) in pixels."""
    return isinstance(value, tuple) and [type(side) for side in value] == [int, int] and min(value) > 0


def evaluated_size(settings: EvaluateSection, benchmark: Benchmark, source: str) -> tuple[int | None, int | None]:
    """(width, height) in pixels that images of a benchmark are drawn in; None: the adapter's own.

    Raises:
        ConfigError: ``evaluate`` asks for another size than the benchmark reads.
        ContractError: the benchmark's size is none.
    """
    asked, reads = (settings.width, settings.height), benchmark.size
    if reads is None:
        return asked
    if not is_size(reads):
        raise ContractError(f"{source}: its size is {reads!r}, expected (width, height) in pixels, or None")
    if asked not in ((None, None), reads):
        raise ConfigError(
            f"evaluate.width={asked[0]} evaluate.height={asked[1]}: {source} reads images of {reads[0]} x {reads[1]} "
            "pixels alone: leave both out, or choose another benchmark"
        )
    return reads


def _fitting(kind: Kind, adapter: Registered, host: PluginHost) -> str:
    """What is said of the providers that are ready and work with this adapter, by their default options."""
    names = [name for name in host.names(kind) if _fits(host.get(kind, name).provider, adapter)]
    one = kind.value.removesuffix("s")
    if not names:
        return f"; no {one} that is installed works with it by its default options"
    return f"; these {one}s work with it: {', '.join(names)}"


def _fits(provider: Provider, adapter: Registered) -> bool:
    try:
        return frozenset(provider.needs(build_options(provider.options, {}, ""))) <= adapter.provider.capabilities
    except Exception:  # options that have to be given, or a stranger's function: it cannot be recommended
        return False


def _lacking(asker: str, needs: Iterable[Capability], adapter: Registered, instead: str = "") -> list[str]:
    provider = adapter.provider
    said = f"{provider.name!r} of {adapter.origin} declares {', '.join(sorted(provider.capabilities)) or 'nothing'}"
    return [
        f"{asker} needs a model that can {need.value!r}; the adapter {said}{instead}"
        for need in sorted(needs)
        if need not in provider.capabilities
    ]
