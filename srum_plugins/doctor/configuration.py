"""A configuration: whether it can run to its end, as far as that shows before weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from srum_plugins.attention.probe import choose
from srum_plugins.config import RunConfig
from srum_plugins.doctor.finding import Finding
from srum_plugins.errors import CheckpointError, SrumError
from srum_plugins.host import PluginHost
from srum_plugins.hub import not_downloaded
from srum_plugins.providers import Kind
from srum_plugins.stages.pipeline import STAGES, checks
from srum_plugins.stages.session import Session
from srum_plugins.world import World


def contract(config: RunConfig, host: PluginHost) -> Iterator[Finding]:
    """All that the contract gate refuses, a finding each."""
    refused = []
    for check in checks(config, host, STAGES, World()):
        try:
            check()
        except SrumError as error:
            refused += str(error).splitlines()
    for problem in refused:
        yield Finding("contract", "problem", problem)
    if not refused:
        choices = " ".join(f"{kind.value}={choice.name}" for kind, choice in config.providers.items())
        yield Finding("contract", "ok", f"providers fit together: {choices}")


def prompts(config: RunConfig, host: PluginHost) -> Iterator[Finding]:
    """The prompts of training and benchmark, which are read as a run reads them at its start."""
    session = Session(config, host)
    count = config.generate.candidates
    yield Finding("prompts", "ok", f"{len(session.prompts)} prompts, {len(session.prompts) * count} candidates")
    width, height = session.benchmark_size
    size = "" if width is None else f", in {width} x {height} pixels"
    drawn = f"{len(session.benchmark_prompts)} prompts, each drawn before and after training{size}"
    yield Finding("benchmark", "ok", drawn)


def device(config: RunConfig, host: PluginHost) -> Iterator[Finding]:
    """Whether ``run.device`` is a device of this machine."""
    wanted, mend = torch.device(config.run.device), "set run.device=cpu, or another that is listed"
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        says = f"torch finds {torch.cuda.device_count()} CUDA devices here, and {config.run.device} is not among them"
        yield Finding("run.device", "problem", says, mend)
        return
    try:
        torch.empty(1, device=wanted)
    except Exception as error:  # each backend has its own
        yield Finding("run.device", "problem", f"{config.run.device} cannot be used: {error}", mend)
    else:
        yield Finding("run.device", "ok", config.run.device)


def attention(config: RunConfig, host: PluginHost) -> Iterator[Finding]:
    """The kernel that the model would get, tried with its own heads on the device of the run."""
    adapter = config.providers[Kind.ADAPTER]
    check, heads = f"attention of {adapter.name}", adapter.registered.provider.heads
    if heads is None:
        yield Finding(check, "ok", "the adapter brings its own")
        return
    try:
        chosen = choose(config.providers[Kind.ATTENTION], host, heads(adapter.options), config.run.device)
    except CheckpointError as error:
        if not not_downloaded(error):
            raise
        says = "its checkpoint is not on this machine, so that nothing can be tried with its heads"
        yield Finding(check, "warning", says, "a run downloads it; then ask again")
        return
    why = "".join(f"; not {name}: {cause}" for name, cause in chosen.refused.items())
    yield Finding(check, "ok", f"{chosen.name} on {config.run.device}{why}")
