"""The generated pages of the documentation are what the code gives, and the picture of a run's events is true."""

import re
from pathlib import Path
from typing import Any

import pytest
import toy_backend
from engine_fixtures import attentive_host, toy_host, toy_run

from docgen import lifecycle
from docgen.__main__ import DOCS, pages
from srum_plugins import contracts, hookimpl, providers, records
from srum_plugins.hookspecs import Events
from srum_plugins.host import PluginHost
from srum_plugins.monitors import plugin as monitors_plugin
from srum_plugins.rewards import maps

CONTRACTS = ("ModelAdapter",)  # told with its hook
HOOKS = [name for name in vars(Events) if name.startswith("srum_")]


def test_the_reference_is_made_of_the_code_as_it_is() -> None:
    stale = [name for name, text in pages().items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not stale, f"run `python -m docgen`: {stale}"


def test_every_record_that_a_hook_or_contract_names_is_told() -> None:
    """A reader of a signature finds the fields of what it gets."""
    told = set(re.findall(r"^#### (\w+)$", (DOCS / "reference/records.md").read_text(), re.MULTILINE))
    headers = re.findall(r"```python\n(.*?)```", (DOCS / "reference/hooks.md").read_text(), re.DOTALL)
    named = {name for header in headers for name in re.findall(r"\b[A-Z]\w+", header)}
    ours = {name for name in named if any(hasattr(home, name) for home in (records, contracts, maps, providers))}
    others = {"Any", "Iterable", "Sequence", "Mapping", "Callable", "Path", "Image", "Tensor", "TYPE_CHECKING"}
    assert not ours - told - others - set(CONTRACTS)


class Listener:
    """Notes the names of all events."""

    def __init__(self) -> None:
        self.heard: list[str] = []


def _noting(name: str) -> Any:
    def note(self: Listener) -> None:
        self.heard.append(name)

    note.__name__ = name
    return hookimpl(note)


for _name in HOOKS:
    setattr(Listener, _name, _noting(_name))


def _heard(folder: Path, host: PluginHost, *overrides: str) -> list[str]:
    listener = Listener()
    host.register(listener, "listener")
    toy_run(folder, *overrides, host=host)
    return listener.heard


def _in_order(heard: list[str]) -> bool:
    return re.fullmatch(lifecycle.pattern(), "".join(f"{name} " for name in heard)) is not None


def test_a_run_calls_the_hooks_in_the_order_of_the_picture(tmp_path: Path) -> None:
    host = attentive_host()
    host.register(monitors_plugin, "monitors")
    watching = "monitors=[{name: reward-hacking, every: 1, window: 1}, {name: latents, every: 2, examples: 2}]"
    heard = _heard(tmp_path, host, "adapter=attentive", watching, "train.checkpoint_every=2", "run.report=true")
    assert _in_order(heard)
    failed = {name for name in HOOKS if name.endswith("_failed")}
    assert set(heard) == set(HOOKS) - failed
    assert not _in_order(heard[1:]) and not _in_order([*heard[:2], heard[1], *heard[2:]])


def test_the_picture_names_every_event() -> None:
    assert set(re.findall(r"srum_\w+", lifecycle.picture())) == set(HOOKS)


def test_an_exception_is_told_from_the_inside_out_as_the_boxes_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(toy_backend.ToyAdapter, "predict", broken)
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    with pytest.raises(RuntimeError, match="broken"):
        toy_run(tmp_path, host=host)
    boxes = [lifecycle.STEP, lifecycle.STAGE, lifecycle.RUN]
    assert listener.heard[-3:] == [box.failed for box in boxes]
