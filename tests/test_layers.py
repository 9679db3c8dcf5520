"""Who may import whom, read from the source of every file; and what the light commands load."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {Path(path).name: ROOT / path for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
CORE = "srum_plugins"
TEMPLATES = ROOT / CORE / "scaffold/templates"  # of packages of others, checked as those (test_new_packages.py)
FILES = [
    (name, file)
    for name, folder in PACKAGES.items()
    for file in sorted(folder.rglob("*.py"))
    if not file.is_relative_to(TEMPLATES)
]
EXAMPLE = ROOT / "examples/srum-janus"  # a distribution of its own, which nothing here may import
TESTING = ROOT / CORE / "testing"  # for tests of plugins: works with pytest and hypothesis alone
DOTTED = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)*")
# Every plugin may use the core and itself; here is what else. The drawn world's model is a small BAGEL, and the tiny
# SAM is trained and measured on that world; an endpoint is asked what a model is asked, and by benchmarks too.
ALSO = {
    "srum_shapes": {"srum_bagel", "srum_rubric", "srum_questions"},
    "srum_sam": {"srum_shapes"},
    "srum_http": {"srum_rubric"},
    "srum_compbench": {"srum_http", "srum_rubric"},
    "srum_reasonbench": {"srum_compbench", "srum_rubric"},
    "srum_prompt_file": {"srum_compbench"},
}
HEAVY = {"torch", "transformers", "diffusers", "mlflow", "scipy", "matplotlib", "safetensors"}


def allowed(package: str) -> set[str]:
    return {CORE, package} | ALSO.get(package, set())


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, also inside functions and `if TYPE_CHECKING`, and of every text that is
    the dotted name of one of our packages or of a module in it, as `import_module` would take it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module if node.level == 0 and node.module else "."
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED.fullmatch(node.value):
            yield node.lineno, node.value


def root(module: str) -> str:
    return module.partition(".")[0]


def test_the_packages_are_those_on_disk() -> None:
    plugins = [
        init.parent for kind in ("adapters", "grounders", "judges") for init in ROOT.glob(f"{kind}/*/__init__.py")
    ]
    assert set(PACKAGES.values()) == {ROOT / CORE, *plugins}
    assert len(FILES) > 50


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_of_ours_only_what_it_may(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} uses {module}"
        for owner, file in FILES
        if owner == package
        for line, module in imported(file)
        if module == "." or (root(module) in PACKAGES and root(module) not in allowed(package))
    ]
    assert wrong == []


def test_only_tests_import_what_is_for_them() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for _, file in FILES
        if not file.is_relative_to(TESTING)
        for line, module in imported(file)
        if root(module) in ("pytest", "hypothesis") or f"{module}.".startswith(f"{CORE}.testing.")
    ]
    assert wrong == []


def test_what_is_imported_is_declared() -> None:
    def names(lines: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(line).name) for line in lines}

    always = names(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    # What an extra brings may be imported where it is used, not where a module begins.
    later = always | set().union(*(names(lines) for extra, lines in extras.items() if extra != "dev"))
    testing = later | names(extras["testing"])
    dists = importlib.metadata.packages_distributions()
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}, which no dependency in pyproject.toml provides"
        for _, file in FILES
        for lines in [file.read_text().splitlines()]
        for line, module in imported(file)
        if root(module) not in {*sys.stdlib_module_names, *PACKAGES}
        and not (testing if file.is_relative_to(TESTING) else later if lines[line - 1].startswith(" ") else always)
        # One that is not installed here, as torchao is not, must be declared under its module's name.
        & {canonicalize_name(dist) for dist in dists.get(root(module), [root(module)])}
    ]
    assert wrong == []


def test_the_example_imports_no_plugin_and_only_what_it_declares() -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    dists = importlib.metadata.packages_distributions()
    files = sorted((EXAMPLE / "srum_janus").rglob("*.py"))
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in files
        for line, module in imported(file)
        if root(module) not in {*sys.stdlib_module_names, CORE, "srum_janus"}
        and (root(module) in PACKAGES or not declared & {canonicalize_name(dist) for dist in dists[root(module)]})
    ]
    assert len(files) > 5
    assert wrong == []


def test_the_check_sees_imports_wherever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import a.b\nfrom c import d\nfrom . import e\nif TYPE_CHECKING:\n    import f\n"
        "def g():\n    from srum_shapes.world import h\n    import_module('srum_bagel.model')\n    'srum_bagels'\n"
    )
    found = {module for _, module in imported(file)}
    assert found == {"a.b", "c", ".", "f", "srum_shapes.world", "srum_bagel.model"}


@pytest.mark.parametrize(
    "commands",
    [
        [["srum", "--help"], ["srum", "--version"], ["srum", "plugins"], ["srum", "plugins", "--json"]],
        [["srum", "doctor", "--help"], ["srum", "doctor", "nowhere.yaml", "--memory"]],
        [["srum", "config", str(ROOT / "configs/demo.yaml")], ["srum", "run", "nowhere.yaml"]],
        [["srum", "ablate", str(ROOT / "configs/demo.yaml"), "--list"], ["srum", "stress", "--help"]],
        [["srum-shapes", "pretrain", "--help"]],
    ],
    ids=["what is there", "what is wrong", "what would run", "what would be compared", "srum-shapes"],
)
def test_light_commands_load_nothing_heavy(commands: list[list[str]]) -> None:
    """In one fresh process, because imports of this one do not count."""
    code = f"""
import contextlib, io, json, sys
from importlib.metadata import entry_points
codes = []
for name, *arguments in {commands!r}:
    (main,) = entry_points(group="console_scripts", name=name)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            codes.append(main.load()(arguments))
        except SystemExit as exit:
            codes.append(exit.code)
print(json.dumps([codes, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes, modules = json.loads(done.stdout)
    assert codes == [2 if "nowhere.yaml" in command else 0 for command in commands], done.stderr
    assert "srum_plugins" in modules
    assert HEAVY & set(modules) == set()
