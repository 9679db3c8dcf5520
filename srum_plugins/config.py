"""Configuration: YAML and command-line overrides become one validated, typed :class:`RunConfig`.

A provider slot (``grounder: native``) is a word or a mapping with ``name`` and options. Options are checked against
the provider's own dataclass, so that nothing is spelt wrong in silence. The slot ``judge`` takes a list of them too.
See ``docs/configuration.md``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from srum_plugins.choices import REGION_TEMPLATE
from srum_plugins.contracts import Capability
from srum_plugins.corruption import KINDS
from srum_plugins.ensemble import Combine, EnsembleOptions, Member, ensemble, labels
from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.host import PluginHost, Registered
from srum_plugins.options import build_options
from srum_plugins.providers import PRESET, Kind, NoOptions, Provider

DECAYS = ("constant", "linear", "cosine")
SHARDINGS = ("none", "fsdp2")
OPTIMIZERS = ("adamw", "adamw8bit")
LATENTS = ("kept", "encoded")
FILTERS = ("none", "drop", "background")
CORRUPTIONS = ("none", *KINDS)


@dataclass(frozen=True)
class RunSection:
    """``run``: the run's name, where it lives (default ``runs/<name>``), its seed and device. ``max_failed`` is the
    share of a stage's records, in [0, 1], that may fail and be set apart before the run stops. ``report`` writes a page
    of what was done once it is evaluated."""

    name: str = "run"
    directory: str = ""
    seed: int = 0
    device: str = "cpu"
    max_failed: float = 0.1
    report: bool = True


@dataclass(frozen=True)
class GenerateSection:
    """``generate``: candidates per prompt, images per chunk, size in pixels (null: the adapter's own)."""

    candidates: int = 4
    chunk: int = 32
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class GroundSection:
    """``ground``: candidates per chunk, and the filter of what the grounder proposes.

    With ``filter`` other than ``none`` the model is asked which of the prompt's phrases each region shows, or whether
    it shows its own. A region that shows none with a probability of at least ``threshold``, in [0, 1], is left out
    (``drop``), or kept without a phrase and without a local reward (``background``). ``template`` asks; ``{phrase}``
    becomes the phrase with its article, and the answer is yes or no.

    ``corrupt`` makes what the grounder proposes worse on purpose, before the filter, as strongly as ``corrupt_level``
    in [0, 1] says (:mod:`srum_plugins.corruption`).
    """

    chunk: int = 64
    filter: str = "none"
    threshold: float = 0.5
    template: str = REGION_TEMPLATE
    corrupt: str = "none"
    corrupt_level: float = 0.0

    @property
    def needs(self) -> frozenset[Capability]:
        """What the filter asks of the adapter."""
        return frozenset() if self.filter == "none" else frozenset({Capability.CHOICE})

    @property
    def corrupts(self) -> bool:
        """Whether any box is made worse."""
        return self.corrupt != "none" and self.corrupt_level > 0.0


@dataclass(frozen=True)
class JudgingSection:
    """``judging``: candidates per chunk; ``combine`` makes one score of those of several judges."""

    chunk: int = 64
    combine: Combine = "mean"


@dataclass(frozen=True)
class TrainSection:
    """``train``: AdamW with linear warm-up and then ``decay``.

    ``optimizer`` is ``adamw``, or ``adamw8bit`` for weights in bfloat16, which plain AdamW hardly moves.
    ``grad_clip`` is the largest gradient norm (null: none). With ``ema`` above 0 an exponential moving average of the
    weights is kept, in float32 beside them, and is what training ends with; its decay rises with the step s (from 0) as
    (s + 1) / (s + 10) up to ``ema``.

    ``batch`` counts the examples of a step, those of all processes together, and ``microbatch`` those of one forward
    (null: all of a process). ``sharding`` is ``none``, where each process holds all weights, or ``fsdp2``, where each
    holds a part of everything. ``master_weights`` keeps weights of lower precision a second time in float32, where the
    optimizer moves them. ``latents`` says whether those that
    the adapter kept with its candidates are trained on (``kept``), or the images are encoded all the same
    (``encoded``); ``latents_gib`` is how much memory a process may keep them in.

    ``checkpoint_every`` counts steps. The last ``keep`` checkpoints are kept, and the one where ``keep_best`` was
    lowest (the name of a metric, its mean since the checkpoint before; ``-NAME`` for the highest).
    """

    optimizer: str = "adamw"
    steps: int = 100
    batch: int = 32
    microbatch: int | None = None
    sharding: str = "none"
    master_weights: bool = False
    lr: float = 1e-4
    warmup: int = 10
    decay: str = "constant"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float | None = 1.0
    ema: float = 0.0
    latents: str = "kept"
    latents_gib: float = 4.0
    checkpoint_every: int = 25
    keep: int = 2
    keep_best: str | None = None


@dataclass(frozen=True)
class EvaluateSection:
    """``evaluate``: images per chunk, size in pixels (null: the benchmark's, else the adapter's own)."""

    chunk: int = 64
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class TrackingSection:
    """``tracking``: MLflow; ``uri`` null is a sqlite file beside the runs."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "srum"


@dataclass(frozen=True)
class PluginsSection:
    """``plugins``: ``block`` names plugins, by entry point or distribution, that are not even imported."""

    block: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if odd := [one for one in self.block if not isinstance(one, str)]:
            raise ValueError(f"block lists names of plugins, got {odd[0]!r}")


@dataclass(frozen=True)
class Choice:
    """A filled provider slot: which provider, with which options (an instance of its own dataclass). If it is an
    ensemble, ``members`` are its judges by label. ``parts`` are the providers that its own options name."""

    kind: Kind
    registered: Registered
    options: Any
    members: Mapping[str, Choice] = field(default_factory=dict)
    parts: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.registered.provider.name

    @property
    def each(self) -> tuple[Choice, ...]:
        """The members of an ensemble; else this choice alone."""
        return tuple(self.members.values()) or (self,)

    @property
    def source(self) -> str:
        """The provider as messages name it, such as ``judge 'choice' of srum-plugins``."""
        return f"{self.kind.value} {self.name!r} of {self.registered.distribution}"

    def plain(self) -> dict[str, Any]:
        """Name and options as plain containers."""
        return {"name": self.name, **_plain(self.options)}


@dataclass(frozen=True)
class RunConfig:
    """A whole, validated configuration. ``providers`` has no attention if the adapter takes none. ``sampling`` holds
    the adapter's generation settings by stage, ``training`` its training settings. ``monitors`` are those of training,
    by label: the name, numbered where one stands there twice.
    """

    run: RunSection
    providers: Mapping[Kind, Choice]
    generate: GenerateSection
    ground: GroundSection
    judging: JudgingSection
    train: TrainSection
    evaluate: EvaluateSection
    tracking: TrackingSection
    plugins: PluginsSection
    sampling: Mapping[str, Any] = field(default_factory=dict)
    training: Any = field(default_factory=NoOptions)
    monitors: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the run lives."""
        return Path(self.run.directory)

    def resolved(self) -> dict[str, Any]:
        """The configuration with every default filled in, as plain containers; loading it again gives the same."""
        data: dict[str, Any] = {"run": _plain(self.run)}
        for kind, choice in self.providers.items():
            plain = [one.plain() for one in choice.each]
            data[kind.value] = plain if choice.members else plain[0]
        data[MONITORS] = [choice.plain() for choice in self.monitors.values()]
        for name in SECTIONS:
            if name != "run":
                data[name] = _plain(getattr(self, name))
            if name in self.sampling:
                data[name]["sampling"] = _plain(self.sampling[name])
        if training := _plain(self.training):
            data["train"]["adapter"] = training
        return data

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the distributions whose providers are used."""
        used = [one.registered for one in self.used]
        return dict(sorted((registered.distribution, registered.version) for registered in used))

    @property
    def used(self) -> list[Choice]:
        """All that is chosen: providers, members of ensembles, monitors and what these name."""
        watching = [one for choice in self.monitors.values() for one in (choice, *choice.parts.values())]
        return [one for choice in self.providers.values() for one in choice.each] + watching

    @property
    def arm(self) -> str:
        """What distinguishes experiments: the names of aggregator and objective."""
        return f"{self.providers[Kind.AGGREGATOR].name}+{self.providers[Kind.OBJECTIVE].name}"


SECTIONS: dict[str, type] = {
    "run": RunSection,
    "generate": GenerateSection,
    "ground": GroundSection,
    "judging": JudgingSection,
    "train": TrainSection,
    "evaluate": EvaluateSection,
    "tracking": TrackingSection,
    "plugins": PluginsSection,
}
SAMPLED = ("generate", "evaluate")  # sections with a `sampling` block
SLOTS = {kind.value: kind for kind in Kind if kind is not Kind.MONITOR}
MONITORS = "monitors"
WATCHING = ("reward-hacking", "latents", "grounding")
"""The monitors of a config that names none: those of them that are installed. They cost next to nothing."""


def load(path: Path | None, overrides: Sequence[str], host: PluginHost) -> RunConfig:
    """Read a YAML file (None: start from defaults), apply ``key=value`` overrides, validate everything.

    Nothing heavy is imported and no weight is read. ``host`` must have been loaded without the plugins that the
    configuration blocks (:func:`blocked`).

    Raises:
        ConfigError: one line that says which key is wrong, why, and what is near it.
        PluginError: a provider is unknown or not usable.
    """
    data = _data(path, overrides)
    attention = _slot(data.pop(Kind.ATTENTION, None), Kind.ATTENTION)
    providers: dict[Kind, Choice] = {
        kind: _choice(kind, data.pop(kind, None), host) for kind in SLOTS.values() if kind is not Kind.ATTENTION
    }
    monitors = _monitors(data.pop(MONITORS, None), host)
    adapter = providers[Kind.ADAPTER].registered.provider
    if adapter.heads is not None:
        providers[Kind.ATTENTION] = _choice(
            Kind.ATTENTION, {**attention, "name": attention.get("name") or "auto"}, host
        )
    elif any(attention.values()):
        raise ConfigError(f"attention: the adapter {adapter.name!r} brings its own and takes none; leave it out")
    sampling: dict[str, Any] = {}
    for name in SAMPLED:
        where, chosen = _taken(data, name, "sampling")
        preset = _preset(adapter, chosen.pop(PRESET, None), where)
        sampling[name] = build_options(adapter.sampling, {**preset, **chosen}, where)
    where, chosen = _taken(data, "train", "adapter")
    training: Any = build_options(adapter.training, chosen, where)
    sections: dict[str, Any] = {
        name: build_options(section, _mapping(data.get(name, {}), name), name) for name, section in SECTIONS.items()
    }
    run: RunSection = sections["run"]
    sections["run"] = dataclasses.replace(run, directory=run.directory or str(Path("runs") / run.name))
    judge = providers[Kind.JUDGE]
    if judge.members:
        options = EnsembleOptions(sections["judging"].combine)
        providers[Kind.JUDGE] = dataclasses.replace(judge, options=options)
    config = RunConfig(providers=providers, sampling=sampling, training=training, monitors=monitors, **sections)
    _check_values(config)
    if late := [name for name in config.plugins.block if name not in host.blocked]:
        raise ConfigError(
            f"plugins.block: {', '.join(late)} must be blocked before plugins are loaded, which is done by now: it "
            "stands in the config of a whole experiment, not in one of its arms; in a script "
            "PluginHost.load(blocked(path, overrides)) does it"
        )
    return config


def blocked(path: Path | None, overrides: Sequence[str]) -> tuple[str, ...]:
    """The plugins that a configuration blocks, for :meth:`PluginHost.load`: read before any plugin is imported.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    section = "plugins"
    return build_options(PluginsSection, _mapping(_data(path, overrides).get(section), section), section).block


def _data(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The file with its overrides, interpolations resolved, as plain containers whose top keys are known."""
    data = _read(path) if path is not None else {}
    _check_keys(data)
    _override(data, overrides)
    return _resolve(data)


def _read(path: Path) -> dict[str, Any]:
    """The YAML file as plain containers, interpolations unresolved."""
    if not path.is_file():
        near = [entry.name for entry in path.parent.glob("*.y*ml") if entry.is_file()]
        raise ConfigError(f"there is no config file {path}.{did_you_mean(path.name, near)}")
    try:
        loaded = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: expected `section: settings` pairs at the top, found a list or a single value")
    return _plain_dict(loaded, resolve=False)


def _check_keys(data: Mapping[str, Any]) -> None:
    known = [*SECTIONS, *SLOTS, MONITORS]
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown key {str(key)!r} at the top of the config.{did_you_mean(str(key), known)}")


def _override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply overrides in place. Words that choose a provider come first, so that the order does not matter."""
    parsed = [parse_override(override) for override in overrides]
    _check_keys({key.split(".")[0]: None for key, _ in parsed})
    for key, value in parsed:
        slot, _, setting = key.partition(".")
        if slot in SLOTS and setting in ("", "name"):
            whole = isinstance(value, Mapping) and not setting
            chosen = dict(value) if whole else {"name": value}
            current = _slot(data.get(slot), slot)
            same = "name" not in chosen or chosen["name"] == current.get("name")
            data[slot] = {**current, **chosen} if same else chosen
    for key, value in parsed:
        path = key.split(".")
        first, rest = path[0], path[1:]
        if first == MONITORS:
            if rest:
                raise ConfigError(
                    f"override {key}: {MONITORS} is a list, so that an option stands with its monitor: "
                    f"{MONITORS}=[NAME, {{name: NAME, OPTION: VALUE}}]"
                )
            data[first] = value
            continue
        if first in SLOTS and rest in ([], ["name"]):
            continue
        node = data[first] = _slot(data.get(first), first) if first in SLOTS else _mapping(data.get(first), first)
        if not rest:
            if not isinstance(value, Mapping):
                raise ConfigError(f"override {key}={value}: {_is_a_section(key, value)}")
            node.update(value)
            continue
        for depth, name in enumerate(rest[:-1], start=1):
            node[name] = _mapping(node.get(name), ".".join([first, *rest[:depth]]))
            node = node[name]
        node[rest[-1]] = value


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, the value read as YAML."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"override {override!r}: expected key=value, such as train.steps=50 or grounder=native")
    if not text.strip():
        raise ConfigError(f"override {override!r} has no value; write {key}=null for none")
    try:
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {_first_line(error)}") from error
    return key, cast(dict[str, Any], parsed)["value"]


def _resolve(data: dict[str, Any]) -> dict[str, Any]:
    """Interpolations such as ``${run.seed}`` and ``${oc.env:HOME}`` replaced; ``???`` refused."""
    try:
        config = OmegaConf.create(data)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"missing value: {', '.join(missing)} (written as ??? in the config)")
        return _plain_dict(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {_first_line(error)}") from error


def _choice(kind: Kind, value: Any, host: PluginHost, where: str = "") -> Choice:
    slot = where or kind.value
    options = _slot(value, slot)
    name = options.pop("name", None)
    if kind is Kind.JUDGE and isinstance(name, list) and not where:
        return _judges(name, options, host)
    if name is None:
        raise ConfigError(f"{slot} is missing: choose one, such as `{slot}: NAME`.{did_you_mean('', host.names(kind))}")
    if not isinstance(name, str):
        raise ConfigError(f"{slot}: expected the name of a provider, got {name!r}")
    registered = host.get(kind, name)
    return Choice(kind, registered, build_options(registered.provider.options, options, slot))


def _judges(values: list[Any], options: Mapping[str, Any], host: PluginHost) -> Choice:
    """A list of judges as one; a list of one is that judge."""
    if not values:
        raise ConfigError(f"judge: the list is empty.{did_you_mean('', host.names(Kind.JUDGE))}")
    if options:
        raise ConfigError(
            f"judge.{next(iter(options))}: judge is a list here, so that an option stands with its judge: "
            "judge=[choice, {name: NAME, OPTION: VALUE}]"
        )
    choices = [_choice(Kind.JUDGE, value, host, f"judge[{index}]") for index, value in enumerate(values)]
    if len(choices) == 1:
        return choices[0]
    named = dict(zip(labels([choice.name for choice in choices]), choices, strict=True))
    members = [Member(label, choice.registered, choice.options) for label, choice in named.items()]
    return Choice(Kind.JUDGE, ensemble(members), EnsembleOptions(), named)


def _monitors(value: Any, host: PluginHost) -> dict[str, Choice]:
    """The list of monitors, by label; of None those of :data:`WATCHING` that are installed, which only warn."""
    if value is None:
        watching = [_monitor(name, MONITORS, host) for name in WATCHING if name in host.names(Kind.MONITOR)]
        return {choice.name: dataclasses.replace(choice, options=_warning(choice.options)) for choice in watching}
    values = value if isinstance(value, list) else [value]
    choices = [_monitor(one, f"{MONITORS}[{index}]", host) for index, one in enumerate(values)]
    return dict(zip(labels([choice.name for choice in choices]), choices, strict=True))


def _warning(options: Any) -> Any:
    """A monitor's options without the levels that end a training: nobody has asked for that."""
    levels = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    silent = {name: dataclasses.replace(level, stop=None) for name, level in levels.items() if hasattr(level, "stop")}
    return dataclasses.replace(options, **silent)


def _monitor(value: Any, where: str, host: PluginHost) -> Choice:
    """One monitor. What its options name in turn is chosen first, and stands in them with every default."""
    chosen = _slot(value, where)
    name = chosen.get("name")
    kinds = host.get(Kind.MONITOR, name).provider.parts if isinstance(name, str) else {}
    parts = {
        option: _choice(kind, chosen[option], host, f"{where}.{option}")
        for option, kind in kinds.items()
        if chosen.get(option) is not None
    }
    filled = {**chosen, **{option: part.plain() for option, part in parts.items()}}
    return dataclasses.replace(_choice(Kind.MONITOR, filled, host, where), parts=parts)


def _taken(data: dict[str, Any], section: str, key: str) -> tuple[str, dict[str, Any]]:
    """The path and the settings of a part of a section that is the adapter's own, taken out of the section."""
    values = data[section] = _mapping(data.get(section), section)
    where = f"{section}.{key}"
    return where, _mapping(values.pop(key, {}), where)


def _preset(adapter: Provider, name: Any, where: str) -> Mapping[str, Any]:
    """The settings of a preset by its name; none without a name."""
    if name is None:
        return {}
    if not isinstance(name, str) or name not in adapter.presets:
        near = did_you_mean(str(name), adapter.presets)
        raise ConfigError(f"{where}.{PRESET}: adapter {adapter.name!r} has no preset {name!r}.{near}")
    return adapter.presets[name]


def _is_a_section(key: str, value: Any) -> str:
    """What to write in place of ``key=value``."""
    known = [field.name for field in dataclasses.fields(SECTIONS[key])]
    if isinstance(value, bool) and "enabled" in known:
        return f"{key} is a section, write {key}.enabled={str(value).lower()}"
    return f"{key} is a section, set one of its keys: {', '.join(f'{key}.{name}' for name in known)}"


def _slot(value: Any, slot: str) -> dict[str, Any]:
    """A slot as a mapping with ``name``, which may be a list; empty if it is not filled."""
    if value is None:
        return {}
    return {"name": value} if isinstance(value, str | list) else _mapping(value, slot)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected `key: value` settings, got {value!r}")
    return dict(value)


def _check_values(config: RunConfig) -> None:
    """Ranges that types cannot say."""
    run, generate, evaluate, train = config.run, config.generate, config.evaluate, config.train
    if not run.name or set(run.name) & set("/\\"):
        raise ConfigError(f"run.name: expected a plain name, got {run.name!r}")
    at_least = {
        "run.seed": (run.seed, 0),
        "generate.candidates": (generate.candidates, 1),
        "generate.chunk": (generate.chunk, 1),
        "generate.width": (generate.width, 1),
        "generate.height": (generate.height, 1),
        "ground.chunk": (config.ground.chunk, 1),
        "judging.chunk": (config.judging.chunk, 1),
        "evaluate.chunk": (evaluate.chunk, 1),
        "evaluate.width": (evaluate.width, 1),
        "evaluate.height": (evaluate.height, 1),
        "train.steps": (train.steps, 1),
        "train.batch": (train.batch, 1),
        "train.microbatch": (train.microbatch, 1),
        "train.warmup": (train.warmup, 0),
        "train.weight_decay": (train.weight_decay, 0.0),
        "train.latents_gib": (train.latents_gib, 0.0),
        "train.checkpoint_every": (train.checkpoint_every, 1),
        "train.keep": (train.keep, 1),
    }
    for key, (value, least) in at_least.items():
        if value is not None and not (value >= least and math.isfinite(value)):
            raise ConfigError(f"{key}: must be at least {least}, got {value}")
    for key, number in (("train.lr", train.lr), ("train.grad_clip", train.grad_clip)):
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise ConfigError(f"{key}: must be positive and finite, got {number}")
    for key, share in (("train.beta1", train.beta1), ("train.beta2", train.beta2), ("train.ema", train.ema)):
        if not 0.0 <= share < 1.0:
            raise ConfigError(f"{key}: must lie in [0, 1), got {share}")
    if not 0.0 <= run.max_failed <= 1.0:
        raise ConfigError(f"run.max_failed: must lie in [0, 1], got {run.max_failed}")
    if not 0.0 <= config.ground.threshold <= 1.0:
        raise ConfigError(f"ground.threshold: must lie in [0, 1], got {config.ground.threshold}")
    if not 0.0 <= config.ground.corrupt_level <= 1.0:
        raise ConfigError(f"ground.corrupt_level: must lie in [0, 1], got {config.ground.corrupt_level}")
    if "{phrase}" not in config.ground.template:
        raise ConfigError(f"ground.template: must contain {{phrase}}, got {config.ground.template!r}")
    for key, word, known in (
        ("train.decay", train.decay, DECAYS),
        ("train.optimizer", train.optimizer, OPTIMIZERS),
        ("train.sharding", train.sharding, SHARDINGS),
        ("train.latents", train.latents, LATENTS),
        ("ground.filter", config.ground.filter, FILTERS),
        ("ground.corrupt", config.ground.corrupt, CORRUPTIONS),
    ):
        if word not in known:
            raise ConfigError(f"{key}: unknown {word!r}.{did_you_mean(word, known)}")
    for name, section in (("generate", generate), ("evaluate", evaluate)):
        if (section.width is None) != (section.height is None):
            raise ConfigError(f"{name}.width and {name}.height: give both or neither")
    if run.device != "cpu":
        import torch  # here, because it takes a second

        try:
            torch.device(run.device)
        except RuntimeError as error:
            raise ConfigError(f"run.device: {run.device!r} is not a device, such as cpu, cuda or cuda:1") from error


def _plain_dict(config: DictConfig, resolve: bool) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def _plain(value: Any) -> Any:
    """Plain JSON types: dataclasses become mappings, paths and enums their text, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return str(value) if isinstance(value, PurePath) else value


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
