"""Arms of an ablation: what each changes of the main configuration, read from one small file an arm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.options import build_options

VALUE = "{value}"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Arm:
    """One variant of a run. ``overrides`` are ``key=value`` as on the command line. ``family`` is the name of its file,
    which several arms have that differ in one value. One that is not ``trained`` is the model as it was before."""

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    family: str = ""
    trained: bool = True


@dataclass(frozen=True)
class ArmFile:
    """What an arm's file says. With ``values`` it is an arm for each of them, which takes the place of ``{value}`` in
    ``overrides``."""

    about: str
    overrides: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    trained: bool = True

    def __post_init__(self) -> None:
        swept = any(VALUE in override for override in self.overrides)
        if bool(self.values) != swept:
            raise ValueError(f"values and {VALUE} in overrides belong together: give both or neither")
        if not self.trained and self.overrides:
            raise ValueError("trained: false is the model before any training, of which overrides change nothing")


def read_arms(folder: Path) -> list[Arm]:
    """The arms of all ``*.yaml`` files of a folder, sorted by file.

    Raises:
        ConfigError: there is no arm, or a file is wrong: which, where, and why.
    """
    files = sorted(folder.glob("*.yaml"), key=lambda file: file.stem)
    if not files:
        raise ConfigError(f"there is no arm in {folder}: an arm is a file NAME.yaml there with `about` and `overrides`")
    return [arm for file in files for arm in _read(file)]


def _read(file: Path) -> list[Arm]:
    name = file.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: the name of an arm is made of small letters, digits, '-', '.' and '_'")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected `about: ...` and `overrides: [...]`, got {data!r}")
    found = build_options(ArmFile, data, str(file))
    if not found.values:
        return [Arm(name, found.about, found.overrides, name, found.trained)]
    if bad := [value for value in found.values if not _NAME.fullmatch(value)]:
        raise ConfigError(f"{file}: the value {bad[0]!r} becomes part of an arm's name: digits and small letters only")
    return [
        Arm(
            f"{name}-{value}",
            found.about,
            tuple(override.replace(VALUE, value) for override in found.overrides),
            name,
        )
        for value in found.values
    ]


def choose(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """The arms of these names, or of files of these names, in the order in which they are named; all without names.

    Raises:
        ConfigError: a name is unknown, with the nearest.
    """
    if not names:
        return list(arms)
    known = {arm.name for arm in arms} | {arm.family for arm in arms}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no arm {name!r}.{did_you_mean(name, known)}")
    found = [arm for name in names for arm in arms if name in (arm.name, arm.family)]
    return list(dict.fromkeys(found))
