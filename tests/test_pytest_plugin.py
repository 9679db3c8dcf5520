"""The pytest plugin is loaded by every run of pytest where this package is installed: it must cost nothing."""

import subprocess
import sys
from pathlib import Path

CHECK = """
import sys


def test_nothing_heavy_is_imported():
    assert "srum_plugins.testing.pytest_plugin" in sys.modules
    assert not {"torch", "hypothesis", "scipy", "transformers"} & sys.modules.keys()


def test_the_suites_are_rewritten():
    from _pytest.assertion.rewrite import AssertionRewritingHook

    import srum_plugins.testing.suite as suite

    assert isinstance(suite.__spec__.loader, AssertionRewritingHook)
"""


def test_it_imports_nothing_heavy_and_warns_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_check.py").write_text(CHECK)
    plugins = ["-p", "no:hypothesispytest", "-p", "no:cacheprovider"]  # ours comes in by its entry point
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error::pytest.PytestAssertRewriteWarning", *plugins, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
