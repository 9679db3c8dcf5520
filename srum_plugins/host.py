"""The plugin host: finds plugins, loads each behind a guard, checks them, and hands out their providers.

Plugins come in by entry points of the group ``srum_plugins``, our own as well as a stranger's. One that is broken is
recorded with its cause and left out; the others work on. Nothing is chosen in silence: two plugins or providers
of one name are both refused, and the error names both distributions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pluggy
from packaging.utils import canonicalize_name

from srum_plugins.contracts import Capability
from srum_plugins.errors import ConfigError, ContractError, PluginError, did_you_mean
from srum_plugins.hookspecs import PROJECT, Events, Providers
from srum_plugins.options import build_options, options_schema
from srum_plugins.providers import PRESET, Kind, NoOptions, Provider

GROUP = "srum_plugins"
BLOCK = "SRUM_PLUGINS_BLOCK"
STRICT = "SRUM_PLUGINS_STRICT"

KIND_OF_HOOK = {
    "srum_model_adapters": Kind.ADAPTER,
    "srum_grounders": Kind.GROUNDER,
    "srum_judges": Kind.JUDGE,
    "srum_reward_aggregators": Kind.AGGREGATOR,
    "srum_objectives": Kind.OBJECTIVE,
    "srum_prompt_sets": Kind.PROMPTS,
    "srum_benchmarks": Kind.BENCHMARK,
    "srum_attentions": Kind.ATTENTION,
    "srum_monitors": Kind.MONITOR,
}
PROVIDER_NAME = re.compile(r"[a-z][a-z0-9._-]*")

Status = Literal["ready", "missing-extra", "failed", "blocked"]


@dataclass(frozen=True)
class Registered:
    """A provider and where it comes from: its distribution, ``file`` ("path:line" of the hook), and entry point.
    ``warning`` says what of its hook is deprecated, and what takes its place."""

    provider: Provider
    kind: Kind
    distribution: str
    version: str
    file: str
    plugin: str
    warning: str = ""

    @property
    def origin(self) -> str:
        """The distribution, its version and the plugin, for messages."""
        return f"{f'{self.distribution} {self.version}'.rstrip()} (plugin {self.plugin!r})"


@dataclass(frozen=True, order=True)
class _Row:
    """One line of ``srum plugins``. ``kind`` is a :class:`Kind`, ``listener``, or ``plugin`` for one not loaded."""

    kind: str
    name: str
    distribution: str
    version: str
    file: str
    status: Status
    cause: str
    warning: str = ""


@dataclass(frozen=True)
class _Source:
    """Where a plugin comes from."""

    plugin: str
    distribution: str
    version: str

    @classmethod
    def of(cls, entry_point: EntryPoint) -> _Source:
        dist = entry_point.dist
        return cls(entry_point.name, (dist and dist.name) or "(unknown)", dist.version if dist else "")


class PluginHost:
    """The plugins of this process. Make one with :meth:`load`; ``hook`` calls the event hooks of all listeners."""

    def __init__(self) -> None:
        self.blocked: frozenset[str] = frozenset()
        """The names that :meth:`load` was told to block, whether there are such plugins or not."""
        self.blocked_in_vain: tuple[str, ...] = ()
        """What to say of each of these names that nothing installed has, as one that is misspelt."""
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Providers)
        self._manager.add_hookspecs(Events)
        self._providers: dict[tuple[str, str], list[Registered]] = {}
        self._others: list[_Row] = []  # listeners, and plugins that did not load

    @classmethod
    def load(
        cls,
        blocked: Iterable[str] = (),
        entry_points: Iterable[EntryPoint] | None = None,
        *,
        blocked_by: str = "the caller",
    ) -> PluginHost:
        """Load every plugin that is installed and not blocked.

        Args:
            blocked: names of entry points or distributions that must not even be imported, on top of the comma
                list in the environment variable ``SRUM_PLUGINS_BLOCK``. Spellings of a distribution's name that pip
                takes for one (``Acme_SRUM``, ``acme-srum``) are one here too.
            entry_points: load these rather than those installed in the group ``srum_plugins``.
            blocked_by: who has ``blocked`` them, for messages.

        Raises:
            PluginError: only if ``SRUM_PLUGINS_STRICT=1``, at the first plugin that fails. Else failures are kept,
                listed by :meth:`rows`, and named by :meth:`get` when something is asked for that is not there.
        """
        host = cls()
        strict = os.environ.get(STRICT, "") not in ("", "0")
        listed = [name for one in os.environ.get(BLOCK, "").split(",") if (name := one.strip())]
        why = {**dict.fromkeys(listed, BLOCK), **dict.fromkeys(blocked, blocked_by)}
        by_distribution = {canonicalize_name(name): by for name, by in why.items()}
        host.blocked = frozenset(why)
        found = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        points = sorted(((point, _Source.of(point)) for point in found), key=lambda pair: astuple(pair[1]))
        names = {name for _, source in points for name in (source.plugin, source.distribution)}
        taken = {*names, *(canonicalize_name(source.distribution) for _, source in points)}
        host.blocked_in_vain = tuple(
            f"{by}: nothing that is installed is called {name!r}, so nothing is blocked by it."
            f"{did_you_mean(name, names)}"
            for name, by in why.items()
            if taken.isdisjoint({name, canonicalize_name(name)})
        )
        allowed = []
        for point, source in points:
            by = why.get(source.plugin) or by_distribution.get(canonicalize_name(source.distribution))
            if by is None:
                allowed.append((point, source))
            else:
                host._set_aside(source, "blocked", f"blocked by {by}")
        copies = Counter(point.name for point, _ in allowed)
        for point, source in allowed:
            try:
                if copies[point.name] > 1:
                    raise PluginError(_same_name([(p, s) for p, s in allowed if p.name == point.name]))
                host._admit(point.load(), source)
            except KeyboardInterrupt:  # from the keyboard, not from the plugin
                raise
            # Plugins are strangers' code: whatever one raises, sys.exit() included, must not take the others down.
            except BaseException as error:
                if strict:
                    raise PluginError(f"the plugin {_label(source)} failed to load: {_explain(error)}") from error
                host._set_aside(source, "failed", _explain(error), _origin(point, error))
        for rivals_of_name in host._providers.values():
            if strict and len(rivals_of_name) > 1:
                raise PluginError(_duplicate(rivals_of_name))
        return host

    @property
    def hook(self) -> pluggy.HookRelay:
        """Calls a hook on all plugins: ``host.hook.srum_run_started(run=run)``. Keyword arguments only."""
        return self._manager.hook

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin of this process: a listener, or providers made on the spot (in tests, in notebooks).

        Raises:
            PluginError: the name or one of the provider names is taken, or the plugin breaks a rule that also holds
                for installed ones. Then nothing of it stays registered.
        """
        try:
            self._admit(plugin, _Source(name, "(in process)", ""), taken=tuple(self._providers))
        except (pluggy.PluginValidationError, ContractError) as error:
            raise PluginError(f"the plugin {name!r} cannot be registered: {_explain(error)}") from error

    def get(self, kind: Kind, name: str) -> Registered:
        """The provider of this kind and name, ready to be made.

        Raises:
            PluginError: there is none (with the nearest names, and the plugins that did not load), there are
                several, or packages that it needs are not installed (with the pip line).
        """
        rivals = self._providers.get((kind, name), [])
        if not rivals:
            known = [known for of_kind, known in self._providers if of_kind == kind]
            absent = "".join(
                f"\n  not loaded: plugin {row.name!r} of {row.distribution} {row.version}, {row.status}: {row.cause}"
                for row in sorted(self._others)
                if row.status in ("failed", "blocked")
            )
            raise PluginError(f"there is no {kind} named {name!r}.{did_you_mean(name, known)}{absent}")
        status, cause = _state(rivals)
        if status != "ready":
            raise PluginError(cause if len(rivals) > 1 else f"the {kind} {name!r} of {rivals[0].origin} {cause}")
        return rivals[0]

    def names(self, kind: Kind) -> list[str]:
        """The names of this kind that :meth:`get` can give, sorted."""
        return sorted(
            name for (of, name), rivals in self._providers.items() if of == kind and _state(rivals)[0] == "ready"
        )

    def found(self, kind: Kind) -> list[Registered]:
        """Every provider of this kind, ready or not, sorted by name."""
        own = [one for (of, _), rivals in self._providers.items() if of == kind for one in rivals]
        return sorted(own, key=lambda one: one.provider.name)

    def rows(self) -> list[dict[str, str]]:
        """Every provider, every listener, and every plugin that is not loaded, sorted by kind and name.

        The keys are kind, name, distribution, version, file, status (ready, missing-extra, failed or blocked),
        cause, which is empty if the status is ready, and warning, which says what the plugin uses that is deprecated.
        """
        providers = [
            _Row(one.kind.value, name, one.distribution, one.version, one.file, *_state(rivals), one.warning)
            for (_, name), rivals in self._providers.items()
            for one in rivals
        ]
        return [asdict(row) for row in sorted(providers + self._others)]

    def _set_aside(self, source: _Source, status: Status, cause: str, file: str = "") -> None:
        self._others.append(_Row("plugin", source.plugin, source.distribution, source.version, file, status, cause))

    def _admit(self, plugin: object, source: _Source, taken: Iterable[tuple[str, str]] = ()) -> None:
        """Register a plugin, check it and collect its providers; if anything is wrong, nothing of it stays."""
        if inspect.isclass(plugin):
            raise PluginError(f"{plugin.__qualname__} is a class; a plugin is a module or an instance")
        if (name := self._manager.get_name(plugin)) is not None:
            raise PluginError(f"it is the plugin {name!r} too, which is loaded: one entry point is enough")
        if self._manager.has_plugin(source.plugin):
            raise PluginError(f"a plugin is already registered as {source.plugin!r}")
        self._check_arguments(plugin)
        self._manager.register(plugin, source.plugin)
        try:
            self._check_hooks(plugin)
            found = list(self._collect(plugin, source))
            for one in found:
                if (one.kind, one.provider.name) in taken:
                    raise PluginError(_duplicate([*self._providers[one.kind, one.provider.name], one]))
        except BaseException:
            self._manager.unregister(plugin, source.plugin)
            raise
        for one in found:
            self._providers.setdefault((one.kind, one.provider.name), []).append(one)
        events = [impl for impl in self._implementations(plugin) if impl[0] not in KIND_OF_HOOK]
        if events:
            file = _place(events[0][1].function)
            warning = "; ".join(old for hook, impl in events for old in self._deprecated(hook, impl))
            self._others.append(
                _Row("listener", source.plugin, source.distribution, source.version, file, "ready", "", warning)
            )

    def _implementations(self, plugin: object) -> list[tuple[str, pluggy.HookImpl]]:
        """The hooks that a registered plugin implements, by name, in the order of their names."""
        callers = self._manager.get_hookcallers(plugin) or []
        pairs = [(caller.name, impl) for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]
        return sorted(pairs, key=lambda pair: pair[0])

    def _deprecated(self, hook: str, impl: pluggy.HookImpl) -> Iterator[str]:
        """What an implementation uses that its specification marks as deprecated."""
        spec = getattr(self._manager.hook, hook).spec
        if spec is None:  # an optional hook that is not of this version
            return
        if spec.warn_on_impl:
            yield f"{_place(impl.function)}: {hook} is deprecated: {spec.warn_on_impl}"
        for argument, warning in (spec.warn_on_impl_args or {}).items():
            if argument in (*impl.argnames, *impl.kwargnames):
                yield f"{_place(impl.function)}: the argument {argument!r} of {hook} is deprecated: {warning}"

    def _check_arguments(self, plugin: object) -> None:
        """Refuse arguments that no caller gives, which pluggy does without saying which there are, and those with a
        default, which pluggy leaves at it in silence."""
        for attribute in dir(plugin):
            marked = self._manager.parse_hookimpl_opts(plugin, attribute)
            if marked is None:
                continue
            hook, function = marked.get("specname") or attribute, getattr(plugin, attribute)
            spec = vars(Providers).get(hook) or vars(Events).get(hook)
            if spec is None:
                continue
            known = list(inspect.signature(spec).parameters)[1:]
            for one in inspect.signature(function).parameters.values():
                if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                    continue
                if one.default is one.empty and one.name not in known:
                    raise PluginError(
                        f"{_place(function)}: {hook} has no argument {one.name!r}: take only arguments that the hook "
                        f"gives (docs/plugins.md).{did_you_mean(one.name, known)}"
                    )
                if one.default is not one.empty and one.name in known:
                    raise PluginError(
                        f"{_place(function)}: the argument {one.name!r} of {hook} has a default, and hooks are not "
                        "given those: leave the default out"
                    )

    def _check_hooks(self, plugin: object) -> None:
        """Refuse what pluggy lets pass: unknown hooks, forgotten markers, plugins that do nothing."""
        known = [name for spec in (Providers, Events) for name in vars(spec) if name.startswith("srum_")]
        implemented = self._implementations(plugin)
        for name, impl in implemented:
            if name not in known and not impl.optionalhook:
                raise PluginError(f"{_place(impl.function)}: there is no hook {name!r}.{did_you_mean(name, known)}")
            if name in KIND_OF_HOOK and (impl.wrapper or impl.hookwrapper):
                raise PluginError(f"{_place(impl.function)}: {name} must return providers, it cannot be a wrapper")
        marked = {impl.function.__name__ for _, impl in implemented}
        forgotten = [name for name in known if name not in marked and inspect.isroutine(getattr(plugin, name, None))]
        if forgotten:
            raise PluginError(f"{', '.join(forgotten)} lacks the decorator @srum_plugins.hookimpl")
        if not implemented:
            raise PluginError("it implements no hook; decorate its hooks with @srum_plugins.hookimpl")

    def _collect(self, plugin: object, source: _Source) -> Iterator[Registered]:
        """The providers of a plugin, each checked."""
        names = set()
        for hook, impl in self._implementations(plugin):
            if hook not in KIND_OF_HOOK:
                continue
            kind, place = KIND_OF_HOOK[hook], _place(impl.function)
            warning = "; ".join(self._deprecated(hook, impl))
            for record in _given(impl.function, f"{place}: {hook}"):
                _check_provider(record, kind, f"{place}: {hook}")
                if (kind, record.name) in names:
                    raise ContractError(f"{place}: {hook} gives two providers named {record.name!r}")
                names.add((kind, record.name))
                yield Registered(record, kind, source.distribution, source.version, place, source.plugin, warning)


def _given(hook: Callable[[], Any], where: str) -> list[Any]:
    """What a provider hook gives. Whatever it raises, sys.exit() included, is told with its place."""
    try:
        records = hook()
        told = f"the provider {records.name!r} itself: put it in a list" if isinstance(records, Provider) else ""
        given = None if told or not isinstance(records, Iterable) else list(records)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ContractError(f"{where} raised {_explain(error)}") from error
    if given is None:
        raise ContractError(f"{where} must return a list of Provider records, it returned {told or repr(records)}")
    if not given:  # else the plugin would be in no list, and its author none the wiser
        raise ContractError(f"{where} gives no provider: leave the hook out, or return one")
    return given


def missing_modules(provider: Provider) -> list[str]:
    """The modules that a provider needs and that are not installed. Imports nothing."""
    return [module for module in provider.modules if _spec(module) is None]


def _state(rivals: list[Registered]) -> tuple[Status, str]:
    """The status of a provider name and, if it is not ready, the cause."""
    if len(rivals) > 1:
        return "failed", _duplicate(rivals)
    missing = missing_modules(rivals[0].provider)
    if missing:
        return "missing-extra", f"needs {', '.join(missing)}, not installed: {rivals[0].provider.extra}"
    return "ready", ""


def _check_provider(record: object, kind: Kind, where: str) -> None:
    """Raise ContractError if a record is not what :class:`Provider` promises."""
    if not isinstance(record, Provider):
        raise ContractError(f"{where} must give Provider records, got {record!r}")
    where = f"{where}, provider {record.name!r}"
    if not (isinstance(record.name, str) and PROVIDER_NAME.fullmatch(record.name)):
        raise ContractError(f"{where}: a name is a small letter, then small letters, digits, '.', '_' or '-'")
    if not (isinstance(record.summary, str) and record.summary.strip() and "\n" not in record.summary):
        raise ContractError(f"{where}: summary must be one line of text")
    for role in ("factory", "needs", "check", "identity", "trained_dtype", "cannot_encode", "needs_squared"):
        if not callable(getattr(record, role)):
            raise ContractError(f"{where}: {role} must be callable, got {getattr(record, role)!r}")
    if record.weightless is not None and not callable(record.weightless):
        raise ContractError(f"{where}: weightless must be callable or None, got {record.weightless!r}")
    for role in ("presets", "parts"):
        if not isinstance(getattr(record, role), Mapping):
            raise ContractError(f"{where}: {role} must be a mapping, got {getattr(record, role)!r}")
    for role in ("options", "sampling", "training"):
        try:
            options_schema(getattr(record, role))
        except ContractError as error:
            raise ContractError(f"{where}: {role}: {error}") from error
    _check_presets(record, where)
    if not isinstance(record.capabilities, frozenset) or not all(
        isinstance(one, Capability) for one in record.capabilities
    ):
        raise ContractError(f"{where}: capabilities must be a frozenset of Capability, got {record.capabilities!r}")
    if record.heads is not None and not callable(record.heads):
        raise ContractError(f"{where}: heads must be callable, got {record.heads!r}")
    if not isinstance(record.squared, bool):
        raise ContractError(f"{where}: squared must be true or false, got {record.squared!r}")
    own = (
        record.capabilities
        or record.presets
        or record.heads
        or record.weightless
        or {record.sampling, record.training} != {NoOptions}
    )
    if kind is not Kind.ADAPTER and own:
        raise ContractError(
            f"{where}: only adapters have capabilities, sampling, presets, training, heads and weightless; others say "
            "what they need by needs"
        )
    _check_factory(record, kind, where)
    _check_parts(record, kind, where)
    if not isinstance(record.modules, tuple) or not all(isinstance(one, str) and one for one in record.modules):
        raise ContractError(f"{where}: modules must be a tuple of import names, got {record.modules!r}")
    if record.modules and not record.extra:
        raise ContractError(f"{where}: modules need extra, the pip line that installs them")


def _check_factory(record: Provider, kind: Kind, where: str) -> None:
    adapter = kind is Kind.ADAPTER
    given = ["options", *["device"] * adapter, *["attention"] * (adapter and record.heads is not None)]
    try:
        signature = inspect.signature(record.factory, follow_wrapped=False)
    except ValueError:  # of something built in, which does not tell
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        called = f"factory({', '.join(given)})"
        raise ContractError(f"{where}: its factory is called as {called}, and takes {signature}: {error}") from None


def _check_parts(record: Provider, kind: Kind, where: str) -> None:
    if record.parts and kind is not Kind.MONITOR:
        raise ContractError(f"{where}: only monitors have parts")
    own = {field.name for field in dataclasses.fields(record.options)}
    for option, of in record.parts.items():
        if option not in own or of is not Kind.JUDGE:
            raise ContractError(f"{where}: parts must name options, each with Kind.JUDGE, got {option!r}: {of!r}")


def _check_presets(record: Provider, where: str) -> None:
    if any(field.name == PRESET for field in dataclasses.fields(record.sampling)):
        raise ContractError(f"{where}: sampling: {PRESET!r} names a preset and can be no setting")
    for name, preset in record.presets.items():
        try:
            build_options(record.sampling, preset, f"preset {name!r}")
        except ConfigError as error:
            raise ContractError(f"{where}: {error}") from error


def _same_name(rivals: list[tuple[EntryPoint, _Source]]) -> str:
    """What is said of plugins of one name."""
    name, owners = rivals[0][0].name, [f"{source.distribution} {source.version}" for _, source in rivals]
    if len({source.distribution for _, source in rivals}) == 1:
        places = " and ".join(point.value for point, _ in rivals)
        return f"{owners[0]} has several plugins named {name!r}, {places}; none is loaded: its authors must rename one"
    mend = f"uninstall one, or {_block('distribution')}"
    return f"plugins named {name!r} come from {' and '.join(owners)}; {mend}; none is loaded"


def _duplicate(rivals: list[Registered]) -> str:
    """What is said of providers of one kind and name."""
    first, owners = rivals[0], " and ".join(one.origin for one in rivals)
    one_source = len({one.distribution for one in rivals}) == 1
    mend = _block("plugin") if one_source else f"uninstall one, or {_block('distribution')}"
    return f"the {first.kind} {first.provider.name!r} is provided by {owners}; {mend}"


def _block(what: str) -> str:
    return f"block one by its {what}'s name in {BLOCK} or plugins.block of the config"


def _label(source: _Source) -> str:
    return f"{source.plugin!r} of {source.distribution} {source.version}"


_MENDS: dict[type[BaseException], str] = {
    ModuleNotFoundError: "install it, or import it in the factory and name it in the provider's modules",
}
"""What to do about errors whose own words do not say it."""


def _explain(error: BaseException) -> str:
    """An exception on one line; the type too, unless its message was written by this host."""
    text = " ".join(str(error).split())
    if isinstance(error, PluginError | ContractError):
        return text
    mend = next((f"; {mend}" for kind, mend in _MENDS.items() if isinstance(error, kind)), "")
    return f"{type(error).__name__}{f': {text}' if text else ''}{mend}"


def _place(function: Callable[..., Any]) -> str:
    """The "path:line" where a function is defined."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _origin(point: EntryPoint, error: BaseException) -> str:
    """The file of a plugin that failed, with the line if it failed there; empty if there is no such file."""
    with contextlib.suppress(AttributeError, ImportError):  # an entry point that is no import name
        spec = _spec(point.module)
        if spec is not None and spec.origin is not None:
            lines = [
                frame.lineno
                for one in (error.__cause__, error)
                if one is not None
                for frame in traceback.extract_tb(one.__traceback__)
                if frame.filename == spec.origin
            ]
            if isinstance(error, SyntaxError) and error.filename == spec.origin:
                lines.append(error.lineno)
            return f"{spec.origin}:{lines[-1]}" if lines else spec.origin
    return ""


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, or None if it is nowhere; unlike importlib's find_spec, without importing its parents."""
    head, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(head)
    except ValueError:  # already imported, from no file
        return ModuleSpec(head, loader=None)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


def silent_hooks() -> pluggy.HookRelay:
    """The event hooks with nobody to hear them."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Events)
    return manager.hook
