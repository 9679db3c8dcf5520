"""Runs and checks the code blocks of the documentation: Python is executed, the rest is read by what it is meant for.

A shell line is not run. ``srum`` lines are parsed by the real parser, and their config with its overrides is loaded and
passes the gate, as it would before a run. Lines of scripts and launchers are parsed by their own parsers.
"""

import builtins
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from sybil import Example, Sybil
from sybil.document import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from srum_plugins.ablations.arms import choose, read_arms
from srum_plugins.ablations.stress import stress_arms
from srum_plugins.cli import parse
from srum_plugins.config import load
from srum_plugins.corruption import KINDS
from srum_plugins.host import PluginHost
from srum_plugins.stages.pipeline import STAGES, check
from srum_plugins.world import World

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEMO = ROOT / "configs/demo.yaml"
BAGEL = Path(__file__).parent / "docs/bagel.yaml"
STAND_INS = {"my.yaml": DEMO, "CONFIG": DEMO, "bagel.yaml": BAGEL}
"""What readers have a config of their own for."""
FOREIGN = ("pytest", "vllm", "transformers", "accelerate", "flock", "echo", "sbatch", "mlflow")
"""Programs of others, which need not be installed: bash reads their lines, and nobody checks their options."""
RUN_BY_READERS = ("my_detector.py",)
CLI = "srum_plugins.cli"
UNREAD = ("text", "")
"""Fences of listings, answers and messages."""


@cache
def installed() -> PluginHost:
    """All plugins that are installed."""
    return PluginHost.load()


def gate(path: Path, overrides: tuple[str, ...], host: PluginHost, command: str = "run") -> None:
    """Refuse what would be refused before a run of this config, or before one stage of it."""
    chosen = [stage for stage in STAGES if command in ("run", "ablate", "stress", stage.name)]
    check(load(path, overrides, host), host, chosen, World())


passes = cache(gate)  # the demo's config is on every page


class Page:
    """A page of the documentation with the plugins that it defines, checked in an empty folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.scripts: list[list[str]] = []
        self.module = types.ModuleType(f"snippets_of_{path.stem.replace('-', '_')}")
        sys.modules[self.module.__name__] = self.module  # where dataclasses look their types up
        parsers = [
            CodeBlockParser("python", self.execute),
            CodeBlockParser("yaml", _each(self.yaml)),
            CodeBlockParser("sh", _each(self.shell)),
            CodeBlockParser("bash", _each(self.script)),
            CodeBlockParser("console", _each(lambda text: self.shell(re.sub(r"^\$ ", "", text, flags=re.MULTILINE)))),
            CodeBlockParser("json", _each(read_json)),
            CodeBlockParser("toml", _each(read_toml)),
            SkipParser(),
        ]
        self.document: Document = Sybil(parsers).parse(path)
        self.document.namespace = vars(self.module)

    def execute(self, example: Example) -> None:
        """Run Python as a part of the module."""
        PythonEvaluator()(example)
        vars(self.module)["__builtins__"] = builtins  # which Sybil takes away, and what is defined here is called later

    def examples(self) -> Iterator[Example]:
        """Every block that is checked, in order, and the marks of those that are not."""
        return iter(self.document.examples())

    def host(self) -> PluginHost:
        """All that is installed, and what the page has defined so far."""
        if not any(name.startswith("srum_") for name in vars(self.module)):
            return installed()
        host = PluginHost.load()
        host.register(self.module, self.module.__name__)
        return host

    def yaml(self, text: str) -> None:
        """A block is an arm of an ablation, or takes its keys' place in the demo's config."""
        data = yaml.safe_load(text)
        if "overrides" in data:
            (self.folder / "arm.yaml").write_text(text)
            for arm in read_arms(self.folder):
                passes(DEMO, arm.overrides, self.host())
            return
        path = self.folder / "snippet.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(DEMO.read_text()), **data}))
        gate(path, (), self.host())

    def shell(self, text: str) -> None:
        """Check every line of a block."""
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            for command in _commands(words):
                self.command(command)

    def script(self, text: str) -> None:
        """A script is read by bash; its calls of ``srum`` are checked."""
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        for line in text.replace("\\\n", " ").splitlines():
            if CLI in line:
                self.command([word for word in shlex.split(line, comments=True) if word != "&"])

    def command(self, words: list[str]) -> None:
        """Check one command by its program."""
        program, arguments = words[0].rpartition("/")[2], words[1:]
        if program == "srum":
            self.srum(arguments)
        elif program == "make":
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments), words
        elif program == "pip":
            self.pip(arguments)
        elif program == "python":
            self.python(arguments)
        elif program in ("torchrun", "srun"):
            self.launcher(program, arguments)
        else:
            if CLI in arguments:
                self.srum(arguments[arguments.index(CLI) + 1 :])
            assert program in FOREIGN, f'nobody checks {program!r}: mark the block with <!-- skip: next "why" -->'

    def srum(self, arguments: list[str]) -> None:
        """Parse the arguments, load the config with its overrides, and let the gate look at it."""
        try:
            args = parse([str(STAND_INS.get(word, word)) for word in arguments])
        except SystemExit:
            raise AssertionError(f"srum {shlex.join(arguments)} is no command") from None
        if getattr(args, "config", None) is None:
            return
        path = ROOT / args.config
        for overrides in self.overrides(arguments[0], args, path):
            passes(path, overrides, self.host(), arguments[0])

    def overrides(self, command: str, args: Namespace, path: Path) -> Iterator[tuple[str, ...]]:
        """Those of the command line; of several runs, those of each arm before them."""
        if command not in ("ablate", "stress"):
            yield tuple(args.overrides)
            return
        last = list(args.overrides)  # an option of several words takes the overrides that follow it
        words = {name: [w for w in vars(args).get(name, ()) if "=" not in w] for name in ("arms", "kinds", "levels")}
        for name in words:
            last += [word for word in vars(args).get(name, ()) if "=" in word]
        if command == "ablate":
            arms = choose(read_arms(args.arms_from or path.parent / "ablations"), words["arms"])
        else:
            arms = stress_arms(words["kinds"] or list(KINDS), [float(level) for level in words["levels"]])
        yield from ((*arm.overrides, *last) for arm in arms)

    def pip(self, arguments: list[str]) -> None:
        """What is installed is a folder, another package, or ours with extras that there are."""
        assert arguments[0] == "install", arguments
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for name in arguments[1:]:
            if found := re.fullmatch(r"srum-plugins\[([\w,]+)\]", name):
                assert set(found[1].split(",")) <= extras.keys(), name

    def python(self, arguments: list[str]) -> None:
        """A script of the repository parses its own arguments; ``-m pytest`` names files that there are."""
        if arguments[:2] == ["-m", "pytest"]:
            assert all((ROOT / word).is_file() for word in arguments[2:] if word.endswith(".py")), arguments
        elif arguments[:1] == ["-m"]:
            assert (ROOT / arguments[1].replace(".", "/")).exists(), arguments
        elif arguments[0] == "benchmarks/judge.py":  # which takes a config and overrides, as `srum run` does
            self.srum(["run", *arguments[1:]])
        elif arguments[0] not in RUN_BY_READERS:
            assert (ROOT / arguments[0]).is_file(), arguments
            self.scripts.append(arguments)

    def launcher(self, program: str, arguments: list[str]) -> None:
        """``srum`` takes what stands after its module; the options before are the launcher's."""
        if CLI in arguments:
            place = arguments.index(CLI) + 1
            self.srum([word for word in arguments[place:] if not word.startswith("$")])
            arguments = arguments[:place]
        if program in arguments:  # srun starts torchrun
            program, arguments = "torchrun", arguments[arguments.index("torchrun") + 1 :]
        if program == "torchrun":
            from torch.distributed.run import get_args_parser

            parsed(get_args_parser(), arguments)


class _ParsedError(Exception):
    """A script has parsed its arguments: it need not go on."""


_parse_args = ArgumentParser.parse_args


def _parse_and_stop(self: ArgumentParser, *given: Any, **named: Any) -> Namespace:
    _parse_args(self, *given, **named)
    raise _ParsedError


def parse_script(arguments: list[str], patch: pytest.MonkeyPatch) -> None:
    """Start a script of the repository, up to where it has parsed its arguments."""
    script = ROOT / arguments[0]
    patch.syspath_prepend(str(script.parent))
    patch.setattr(sys, "argv", [str(script), *arguments[1:]])
    patch.setattr(ArgumentParser, "parse_args", _parse_and_stop)
    with pytest.raises(_ParsedError):
        runpy.run_path(str(script), run_name="__main__")


def parsed(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse, or fail with what the parser says."""

    def fail(message: str) -> None:
        raise AssertionError(f"{shlex.join(arguments)}: {message}")

    parser.error = fail  # type: ignore[method-assign]
    return parser.parse_args(arguments)


def _commands(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, which `&&` and `||` join."""
    for joined, own in groupby(words, key=lambda word: word in ("&&", "||")):
        if not joined:
            yield list(own)


def _each(check: Callable[[str], None]) -> Callable[[Example], None]:
    """An evaluator that checks the text of a block."""
    return lambda example: check(str(example.parsed))


def read_toml(text: str) -> None:
    """A TOML document."""
    tomllib.loads(text)


def read_json(text: str) -> None:
    """One value, or a value a line."""
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)
