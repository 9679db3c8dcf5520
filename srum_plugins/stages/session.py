"""What the stages of one run share: configuration, providers, the lazily loaded model, directories, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

import srum_plugins
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.attention.probe import choose
from srum_plugins.config import Choice, RunConfig
from srum_plugins.contracts import Aggregator, Benchmark, Grounder, Judge, ModelAdapter, Objective, PromptSet
from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.gate import evaluated_size
from srum_plugins.hookspecs import RunInfo
from srum_plugins.host import PluginHost, silent_hooks
from srum_plugins.providers import Kind
from srum_plugins.randomness import seed_torch
from srum_plugins.records import Prompt, to_json
from srum_plugins.runs.files import write_image
from srum_plugins.runs.fingerprint import fingerprint, stable_seed
from srum_plugins.runs.provenance import made_with
from srum_plugins.runs.shards import Attachment, Shards
from srum_plugins.runs.store import StageDirectory
from srum_plugins.runs.sums import check_folder
from srum_plugins.stages.edited import CORE, plugin_code
from srum_plugins.stages.quarantine import Failing, attempt, check_share
from srum_plugins.world import World

T = TypeVar("T")

TICK = 10.0  # seconds of a stage's time that a kill may forget


class Session:
    """One run in this process, one of those of ``world``. Nothing heavy is loaded before a stage has work that needs
    it. ``hook`` calls listeners, who hear the main process alone. ``parent`` is the run that this one is a part of."""

    def __init__(
        self, config: RunConfig, host: PluginHost, world: World | None = None, parent: RunInfo | None = None
    ) -> None:
        self.config = config
        self.host = host
        self.world = world or World()
        self.hook = host.hook if self.world.main else silent_hooks()
        # Asked once, because an identity may be the hash of large files.
        self._ingredients = {kind: _ingredient(choice) for kind, choice in config.providers.items()}
        self.monitor_ingredients = {label: _ingredient(choice) for label, choice in config.monitors.items()}
        resolved = config.resolved()
        self.info = RunInfo(
            name=config.run.name,
            directory=config.directory,
            config=resolved,
            config_hash=fingerprint([resolved, self._ingredients, self.monitor_ingredients]),
            versions=config.versions,
            parent=parent,
        )
        self._stages: dict[str, StageDirectory] = {}
        self._kernels: dict[tuple[Heads, ...], Attention] = {}
        self._model: ModelAdapter | None = None
        self._weights: Path | None = None  # the trained weights in self._model; None: as the factory gave it

    # --- providers ------------------------------------------------------------------------------------------------
    def choice(self, kind: Kind) -> Choice:
        """The provider that fills a slot."""
        return self.config.providers[kind]

    def _build(self, kind: Kind, contract: type, *extra: Any) -> Any:
        return self.built(self.choice(kind), contract, *extra)

    def built(self, choice: Choice, contract: type, *extra: Any) -> Any:
        """What a choice's factory makes, which must be of the class of its contract."""
        instance = choice.registered.provider.factory(choice.options, *extra)
        if not isinstance(instance, contract):
            raise ContractError(
                f"{choice.source}: its factory returned a {type(instance).__name__}, which is no {contract.__name__}"
            )
        return instance

    @cached_property
    def grounder(self) -> Grounder:
        """The configured grounder."""
        built: Grounder = self._build(Kind.GROUNDER, Grounder)
        return built

    @cached_property
    def judge(self) -> Judge:
        """The configured judge."""
        built: Judge = self._build(Kind.JUDGE, Judge)
        return built

    @cached_property
    def aggregator(self) -> Aggregator:
        """The configured aggregator."""
        built: Aggregator = self._build(Kind.AGGREGATOR, Aggregator)
        return built

    @cached_property
    def objective(self) -> Objective:
        """The configured objective."""
        built: Objective = self._build(Kind.OBJECTIVE, Objective)
        return built

    @cached_property
    def benchmark(self) -> Benchmark:
        """The configured benchmark."""
        built: Benchmark = self._build(Kind.BENCHMARK, Benchmark)
        return built

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The training prompts."""
        source: PromptSet = self._build(Kind.PROMPTS, PromptSet)
        return _checked_prompts(source.prompts(), self.choice(Kind.PROMPTS))

    @cached_property
    def benchmark_prompts(self) -> list[Prompt]:
        """The benchmark's prompts."""
        return _checked_prompts(self.benchmark.prompts(), self.choice(Kind.BENCHMARK))

    @property
    def benchmark_size(self) -> tuple[int | None, int | None]:
        """(width, height) in pixels that the benchmark's images are drawn in; None: the adapter's own.

        Raises:
            ConfigError: the benchmark reads images of another size than ``evaluate`` asks for.
            ContractError: the benchmark's size is none.
        """
        return evaluated_size(self.config.evaluate, self.benchmark, self.choice(Kind.BENCHMARK).source)

    # --- the model ------------------------------------------------------------------------------------------------
    def model(self, weights: Path | None = None) -> ModelAdapter:
        """The adapter with its own weights, or with the trained ones of a folder. Loaded once, when first asked for."""
        if self._model is None or (self._weights is not None and self._weights != weights):
            self.release()
            device = self.device
            if self.device_type == "cuda" and not torch.cuda.is_available():
                raise ConfigError(f"run.device is {device}, but torch finds no CUDA device here; run.device=cpu works")
            choice = self.choice(Kind.ADAPTER)
            heads = choice.registered.provider.heads
            attention = [] if heads is None else [self._attention(heads(choice.options))]
            self._model = self._build(Kind.ADAPTER, ModelAdapter, device, *attention)
        model: ModelAdapter = self._model
        if weights is not None and self._weights != weights:
            check_folder(weights)
            model.load_trained(weights)
            self._weights = weights
        return model

    def _attention(self, heads: tuple[Heads, ...]) -> Attention:
        """The kernel for these heads; tried once."""
        if heads not in self._kernels:
            found = choose(self.choice(Kind.ATTENTION), self.host, heads, self.device)
            self._kernels[heads] = found.kernel
            self.hook.srum_attention_chosen(run=self.info, attention=found.name, refused=found.refused)
        return self._kernels[heads]

    def model_for(self, kind: Kind) -> ModelAdapter | None:
        """The model, if this provider says that it needs it."""
        choice = self.choice(kind)
        return self.model() if choice.registered.provider.needs(choice.options) else None

    def release(self) -> None:
        """Forget the loaded model: training has moved its weights, or others are wanted."""
        self._model = None
        self._weights = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --- fingerprints ---------------------------------------------------------------------------------------------
    def ingredient(self, kind: Kind) -> dict[str, Any]:
        """What a provider adds to a fingerprint: name, options, distribution and version, and its own identity."""
        return self._ingredients[kind]

    def prompts_ingredient(self, kind: Kind, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """As :meth:`ingredient`, with the content of the prompts."""
        return {**self.ingredient(kind), "content": fingerprint([to_json(prompt) for prompt in prompts])}

    @property
    def device(self) -> str:
        """``run.device``; where several processes share a machine, ``cuda`` is a device for each."""
        device = self.config.run.device
        return f"cuda:{self.world.local_rank}" if device == "cuda" and self.world.size > 1 else device

    @property
    def device_type(self) -> str:
        """``cpu``, ``cuda``...: results differ in their last bits between these."""
        return torch.device(self.config.run.device).type

    def directory(self, stage: Part) -> StageDirectory:
        """The directory of a stage, or of a part of one, under the current configuration."""
        if stage.name not in self._stages:
            inputs = {upstream.name: self.directory(upstream).fingerprint for upstream in stage.inputs}
            ingredients = {**stage.ingredients(self), "seed": self.config.run.seed, "core": srum_plugins.__version__}
            if inputs:
                ingredients["inputs"] = inputs
            self._stages[stage.name] = StageDirectory(self.config.directory, stage.name, ingredients)
        return self._stages[stage.name]

    @cached_property
    def made_with(self) -> dict[str, str]:
        """Versions and code of the core and of the plugins that are used (:mod:`srum_plugins.runs.provenance`)."""
        return {**made_with([CORE]), **plugin_code(self.config)}

    # --- events ---------------------------------------------------------------------------------------------------
    def listens(self, hook: str) -> bool:
        """Whether anyone implements this event hook. Ask once, before an inner loop."""
        return bool(getattr(self.hook, hook).get_hookimpls())

    def picture(self, directory: StageDirectory, name: str, image: Image.Image) -> None:
        """Save a picture for people with the stage; the pipeline shows and emits it when the stage is complete."""
        write_image(directory.path / "pictures" / f"{name}.png", image)


@dataclass(frozen=True)
class Part:
    """Something with a directory of its own: which stages it reads, and what else its results depend on."""

    name: str
    inputs: tuple[Stage, ...]
    ingredients: Callable[[Session], dict[str, Any]]


@dataclass(frozen=True)
class Stage(Part):
    """One stage of a run. ``progress`` gives (done, total) work items on disk. ``make`` makes what is missing, in all
    processes together. ``conclude`` then draws pictures and returns facts for ``done.json``, in the main one alone.
    Facts that are numbers become the stage's metrics. ``parts`` have directories of their own, which it completes."""

    progress: Callable[[Session, StageDirectory], tuple[int, int]]
    make: Callable[[Session, StageDirectory], None]
    conclude: Callable[[Session, StageDirectory], dict[str, Any]]
    parts: tuple[Part, ...] = ()


def _ingredient(choice: Choice) -> dict[str, Any]:
    registered = choice.registered
    found = {
        **choice.plain(),
        "distribution": registered.distribution,
        "version": registered.version,
        "identity": registered.provider.identity(choice.options),
    }
    if choice.members:
        found["members"] = {label: _ingredient(member) for label, member in choice.members.items()}
    if choice.parts:
        found["parts"] = {option: _ingredient(part) for option, part in choice.parts.items()}
    return found


def run_chunks(
    session: Session,
    shards: Shards[T],
    work: Callable[[range], tuple[list[T], Mapping[str, Attachment]]],
    stage: StageDirectory,
    before: int = 0,
    total: int | None = None,
    failing: Failing[T] | None = None,
) -> None:
    """Make the missing chunks of a stage, which the processes take one by one. ``work`` gets the positions of a chunk
    and returns its records and the images and tensors that they name. With ``failing``, records may fail.

    ``before`` and ``total`` place these chunks within a stage that has several parts, for progress.
    """
    world, total = session.world, shards.total if total is None else total
    missing = world.tell(f"{stage.name}: missing chunks", shards.missing)
    wanted = sum(len(shards.items(index)) for index in missing)
    found = before + shards.total - wanted

    def advanced(done: int) -> None:
        session.hook.srum_stage_advanced(run=session.info, stage=stage.name, done=found + done, total=total)

    share = world.share(f"{stage.name}: chunks", len(missing))

    def written(index: int, writing: Future[None]) -> None:
        writing.result()
        if world.main:
            stage.tick(TICK)
        advanced(share.add(len(shards.items(index))))

    unwritten: tuple[int, Future[None]] | None = None
    # A chunk is written while the model works on the next one: disks are slow. What fails waits for what is written.
    with ThreadPoolExecutor(max_workers=1) as writer:
        for place in share:
            index = missing[place]
            # Providers draw from the seeds that they are given; one that uses torch's global state is repeatable too,
            # and sees the same before and after training: both are parts of one stage.
            seed = stable_seed(session.config.run.seed, stage.name, index)
            seed_torch(seed)
            if failing is None:
                records, files = work(shards.items(index))
            else:
                records, files = attempt(work, shards.items(index), failing, seed)
            if unwritten is not None:
                written(*unwritten)
            unwritten = index, writer.submit(shards.write, index, records, files)
            if failing is not None:
                failures = [failure for record in records if (failure := failing.read(record)) is not None]
                if failed := share.add(len(failures), "failed"):
                    check_share(stage.name, failed, shards.total, session.config.run.max_failed, failures)
        if unwritten is not None:
            written(*unwritten)
    share.wait(wanted, advanced)


def _checked_prompts(prompts: list[Prompt], who: Choice) -> list[Prompt]:
    if not prompts:
        raise ContractError(f"{who.source} has no prompts")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise ContractError(f"{who.source}: the prompt id {prompt.id!r} occurs twice")
        seen.add(prompt.id)
    return prompts


def file_name(identifier: str) -> str:
    """An identifier as a safe file name: odd characters are replaced, and a hash keeps such names apart."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in identifier)
    if safe == identifier and not safe.startswith(".") and len(safe) <= 100:
        return safe
    return f"{safe[:80].lstrip('.')}-{fingerprint(identifier)[:8]}"
