"""Turns a mapping of settings into an instance of the dataclass that owns them, or says exactly what is wrong.

The types are checked by OmegaConf's structured configs: ``int`` takes no ``bool`` and no ``1.5``, ``float`` takes
``3``, a list fits a tuple field, nested dataclasses merge over their defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from srum_plugins.errors import ConfigError, ContractError, SrumError, did_you_mean

T = TypeVar("T")


def options_schema(cls: Any) -> DictConfig:
    """The OmegaConf schema of an options dataclass.

    Raises:
        ContractError: ``cls`` is no dataclass, or a field's type or default cannot be read from a config file.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ContractError(f"options must be a dataclass, got {cls!r}")
    try:
        return cast(DictConfig, OmegaConf.structured(cls))
    except (OmegaConfBaseException, NameError, TypeError) as error:  # NameError, TypeError: bad annotations
        raise ContractError(f"{cls.__name__} cannot be filled from a config file: {_message(error)}") from error


def build_options(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``cls`` from settings by name; what is not given keeps its default.

    Args:
        cls: any dataclass of plain types: numbers, strings, paths, enums, ``Literal``, optionals, tuples, lists,
            dicts and nested dataclasses. Fields without a default are mandatory. ``__post_init__`` may raise
            ``ValueError`` for values that do not make sense; a message that begins with a field's name reads best.
        values: settings by field name. ``"???"`` counts as missing, ``"${...}"`` as an OmegaConf interpolation.
        where: the path of these settings in the config (``"grounder"``), put before every message.

    Raises:
        ConfigError: unknown settings (with the nearest name), wrong types and missing values, all in one message;
            or the complaint of a ``__post_init__``.
        ContractError: ``cls`` itself is unfit, see :func:`options_schema`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected settings by name, got {values!r}")
    if isinstance(values, DictConfig):
        values = cast(Mapping[str, Any], OmegaConf.to_container(values, resolve=True))
    node = options_schema(cls)
    problems: dict[str, str] = {}  # by path, so that nothing is told twice
    for key, value in values.items():
        try:
            missing = OmegaConf.missing_keys({key: value})
            node = cast(DictConfig, OmegaConf.merge(node, {key: value}))
        except (OmegaConfBaseException, TypeError) as error:  # TypeError: a mapping for a list, or the other way round
            path, problem = _problem(error, cls, str(key), value)
            problems[path] = problem
        else:
            problems |= dict.fromkeys(missing, ": a value is missing")
    for path in OmegaConf.missing_keys(node):
        problems.setdefault(path, ": a value is missing")
    if problems:
        raise ConfigError("\n".join(f"{where}.{path}{problem}" for path, problem in sorted(problems.items())))
    return cast(T, _instantiate(node, where))


def _problem(error: Exception, cls: type, key: str, value: Any) -> tuple[str, str]:
    """The path below ``cls`` that OmegaConf refused, and why."""
    full_key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    path = key if full_key is None else str(full_key)
    if isinstance(error, ConfigKeyError):
        owner: Any = error.object_type if dataclasses.is_dataclass(error.object_type) else cls
        names = [field.name for field in dataclasses.fields(owner)]
        return path, f": there is no such setting.{did_you_mean(path.rpartition('.')[2], names)}"
    if full_key is None:  # OmegaConf does not say which item of a tuple is wrong
        hint: Any = next(field.type for field in dataclasses.fields(cast(Any, cls)) if field.name == key)
        return path, f": {value!r} does not fit {hint}"
    return path, f": {_message(error)}"


def _instantiate(node: DictConfig, where: str) -> object:
    """The dataclass instance of a complete node. Children first, so that a complaint has the path of its own level."""
    for key in node:
        child = node[key]
        if isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            _instantiate(child, f"{where}.{key!s}")
    try:
        return cast(object, OmegaConf.to_object(node))
    except (ValueError, SrumError, OmegaConfBaseException) as error:
        message = _message(error)
        joint = "." if message.split(" ")[0] in node else ": "
        raise ConfigError(f"{where}{joint}{message}") from error


def _message(error: Exception) -> str:
    """What an exception says. OmegaConf's own messages go on with lines of internals."""
    text = str(error) or type(error).__name__
    return text.splitlines()[0] if isinstance(error, OmegaConfBaseException) else text
