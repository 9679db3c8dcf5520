"""Plugins that are broken on purpose: each is caught, and what is said names the plugin, the hook or method, and the
mend. docs/conformance.md shows it all in a table, which is compared with what is said here."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib import import_module
from pathlib import Path

import pytest
from fakes import Site, make_site

from srum_plugins.contracts import ModelAdapter, Prediction
from srum_plugins.errors import PluginError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind

DOCS = Path(__file__).parents[1] / "docs/conformance.md"
BEGIN, END = "<!-- broken plugins -->\n", "<!-- end of broken plugins -->\n"
LOADING = {
    # module: the name of the adapter that is asked for
    "import_error": "import-error",
    "unknown_hook": "toy",
    "unknown_argument": "toy",
    "unmarked_hook": "toy",
    "duplicate_name": "toy",
    "missing_extra": "fancy",
    "no_device": "no-device",
}
"""Caught by the host, where the plugin is asked for."""
CHECKED = {
    "wrong_shape": "losses_are_one_float32",
    "unseeded": "come_from_their_seeds",
    "batch_dependent": "not_depend_on_its_batch",
    "turned_image": "in_the_size_asked_for",
    "boxes_outside": "boxes_lie_inside",
    "unnormalised_choices": "normalised",
    "transposed_grid": "tokens_lie_where",
    "wrong_sign": "points_from_the_image",
    "wrong_scale": "perfect_prediction",
    "reversed_time": "at_timestep_one",
    "unfrozen_understanding": "understanding_half_rests",
    "moving_base": "leaves_the_base",
    "loose_loading": "of another model",
    "deaf_drawing": "prompt_is_drawn",
    "first_size": "several_sizes_are_drawn",
    "blind_to_boxes": "of_the_image_and_of_the_box",
    "relative_boxes": "boxes_lie_inside",
    "kept_prompts": "prompts_are_dropped",
    "changed_latents": "what_it_is_given_is_left",
    "summed_distance": "distance_is_that_of_the_velocities",
    "detached_distance": "moves_what_it_returns",
    "drawn_by_base": "drawn_with_the_trained_weights",
    "hidden_network": "moves_what_it_returns",
    "false_dtype": "have_the_dtype",
    "constant_digest": "digest_is_of_what_understanding_reads",
    "rounding_save": "saved_as_safetensors",
    "touched_by_loading": "predicts_the_same_after_loading",
    "short_loading": "without one of their tensors",
    "false_promise": "methods_of_what_it_declares",
    "failing_factory": "methods_of_what_it_declares",
    "bare_images": "refuses_what_it_does_not_declare",
    "bare_velocities": "same_model_again",
    "listed_parameters": "moves_what_it_returns",
    "listed_latents": "same_model_again",
    "half_latents": "same_model_again",
    "tensor_choices": "same_model_again",
    "one_size": "losses_are_one_float32",
    "new_weights": "same_model_again",
    "shared_base": "leaves_the_base",
    "negated": "right_about_its_own_images",
}
"""Caught by a check of the conformance suite, of which a part of the name is given."""

SUITE = """
from importlib import import_module

import pytest
import toy_backend

from srum_plugins.testing.adapters import AdapterConformance


class Suite(AdapterConformance):
    sizes = ((8, 12), (16, 8))
    parts = 4
    trained = True


class TestHealthy(Suite):
    name = "toy"
    plugin = toy_backend


class TestAbsent(Suite):
    name = "nobody"
    plugin = toy_backend
"""
CASE = """

class Test_{module}(Suite):
    name = "{name}"
    plugin = import_module("broken_plugins.{module}")
"""


def test_there_are_enough_of_them_and_each_module_is_tried() -> None:
    modules = {file.stem for file in (Path(__file__).parent / "broken_plugins").glob("*.py")} - {"__init__"}
    assert modules == LOADING.keys() | CHECKED.keys()
    assert len(modules) >= 12


# --- the host ---------------------------------------------------------------------------------------------------
def refusal(site: Site, module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    point = module.replace("_", "-")
    monkeypatch.syspath_prepend(str(site.folder))
    site.install(f"broken-{point}", {point: f"broken_plugins.{module}"}, {})
    if module == "duplicate_name":
        site.install("toy-backend", {"toy": "toy_backend"}, {})
    with pytest.raises(PluginError) as refused:
        PluginHost.load(entry_points=site.entry_points()).get(Kind.ADAPTER, name)
    return str(refused.value)


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the host says of each plugin that it does not take, when its adapter is asked for."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for site in make_site(tmp_path_factory.mktemp("site"), monkeypatch):
            yield {
                module: refusal(Site(site.folder / module), module, name, monkeypatch)
                for module, name in LOADING.items()
            }


@pytest.mark.parametrize(
    ("module", "hook", "mend"),
    [
        ("import_error", "'a_package_of_nobody'", "install it"),
        ("unknown_hook", "'srum_model_adapter'", "Did you mean 'srum_model_adapters'"),
        (
            "unknown_argument",
            "srum_train_step_finished has no argument 'loss'",
            "take only arguments that the hook gives",
        ),
        ("unmarked_hook", "srum_model_adapters", "@srum_plugins.hookimpl"),
        ("duplicate_name", "the adapter 'toy'", "uninstall one, or block one"),
        ("missing_extra", "the adapter 'fancy'", "pip install 'fancy[all]'"),
    ],
)
def test_the_host_names_plugin_hook_and_mend(loading: dict[str, str], module: str, hook: str, mend: str) -> None:
    point = module.replace("_", "-")
    assert f"'{point}'" in loading[module] and f"broken-{point} 1.0" in loading[module]
    assert hook in loading[module] and mend in loading[module]


# --- the conformance suite --------------------------------------------------------------------------------------
class Recorder:
    """The failures of a run of pytest: what was said, by test class and test."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()  # before they ran
        self.failed: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, case, name = report.nodeid.split("::")
        self.ran[case] += report.when == "call"
        self.stopped[case] += report.when == "setup" and not report.passed
        if report.failed:
            self.failed.setdefault(case, {})[name] = str(report.longrepr)


@pytest.fixture(scope="module")
def checking(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """The suite on each plugin that the host takes, and on a healthy one, in one run of pytest."""
    file = tmp_path_factory.mktemp("suite") / "test_suite.py"
    name = {module: module.replace("_", "-") for module in CHECKED}
    file.write_text(SUITE + "".join(CASE.format(module=module, name=name[module]) for module in CHECKED))
    recorder = Recorder()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([str(file), "-q", "-p", "no:cacheprovider"], plugins=[recorder])
    return recorder


def test_a_healthy_plugin_passes(checking: Recorder) -> None:
    assert checking.ran["TestHealthy"] > 20
    assert "TestHealthy" not in checking.failed


def said(checking: Recorder, module: str) -> str:
    """What the check says that is to catch the plugin, without the place at the end."""
    failed = checking.failed.get(f"Test_{module}", {})
    caught = [text for test, text in failed.items() if CHECKED[module] in test]
    assert caught, f"not caught by {CHECKED[module]!r}, but by {sorted(failed)}"
    return caught[0].partition("\n  at: ")[0]


@pytest.mark.parametrize("module", CHECKED)
def test_the_suite_names_plugin_method_and_mend(checking: Recorder, module: str) -> None:
    text, name = said(checking, module), module.replace("_", "-")
    source = import_module(f"broken_plugins.{module}")
    assert text.startswith(f"the adapter {name!r} of (in process) (plugin 'broken_plugins.{module}'), "), text
    method = text.partition("'), ")[2].partition(":")[0]
    assert hasattr(ModelAdapter, method) or hasattr(Prediction, method) or method in ("trained_dtype", "factory")
    assert "\n  mend: " in text
    assert source.__doc__


ONCE = (
    "failing_factory",
    "bare_images",
    "bare_velocities",
    "listed_parameters",
    "listed_latents",
    "half_latents",
    "tensor_choices",
    "one_size",
)


@pytest.mark.parametrize("module", ONCE)
def test_what_every_check_would_meet_is_told_once(checking: Recorder, module: str) -> None:
    told = checking.failed[f"Test_{module}"]
    assert len(told) == 1, list(told)
    assert checking.ran["TestHealthy"] == checking.ran[f"Test_{module}"] + checking.stopped[f"Test_{module}"]


def test_a_provider_that_is_not_there_is_told_once(checking: Recorder) -> None:
    (told,) = checking.failed["TestAbsent"].values()
    assert told.startswith("there is no adapter named 'nobody'. Known: toy")
    assert checking.ran["TestAbsent"] == 0


@pytest.mark.parametrize("module", sorted(CHECKED.keys() - {"false_dtype", "false_promise"}))
def test_the_place_is_the_plugins_own(checking: Recorder, module: str) -> None:
    (text,) = [text for test, text in checking.failed[f"Test_{module}"].items() if CHECKED[module] in test][:1]
    at = re.search(r"\n  at: (.*):(\d+)", text)
    assert at and at[1].endswith((f"broken_plugins/{module}.py", "toy_backend.py")), text


# --- the table in the docs --------------------------------------------------------------------------------------
def row(module: str, text: str) -> str:
    doc = str(import_module(f"broken_plugins.{module}").__doc__ if module in CHECKED else head(module)).strip()
    text = re.sub(r"\S*/(broken_plugins/\S+\.py:\d+)", r"\1", text)  # where this copy lies is nobody's business
    text = re.sub(r" Known: srum_.*", "", text, flags=re.DOTALL)
    cell = "<br>".join(escape(line.strip(), quote=False) for line in text.splitlines()).replace("|", "\\|")
    return f"| {doc} | {cell} |\n"


def head(module: str) -> str:
    """The docstring of a module that cannot be imported."""
    return ast.get_docstring(ast.parse((Path(__file__).parent / f"broken_plugins/{module}.py").read_text())) or ""


def test_the_docs_show_what_is_said(loading: dict[str, str], checking: Recorder) -> None:
    rows = [row(module, text) for module, text in loading.items()]
    rows += [row(module, said(checking, module)) for module in CHECKED]
    table = "| the plugin | what is said |\n|---|---|\n" + "".join(rows)
    shown = DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == table, f"docs/conformance.md is out of date; between its marks belongs:\n{table}"
