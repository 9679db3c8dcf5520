"""Settings of every test."""

import os
from functools import partial

import pytest
from hypothesis import settings
from pages import Measure, browser, measure

from srum_plugins.testing.suite import Conformance

os.environ["SRUM_CACHE"] = ""  # also for processes that tests start: none writes to the user's own cache

# Machines are shared: no example fails for being slow, and the same examples run everywhere.
settings.register_profile("srum", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("srum")
Conformance.examples = 4  # our providers have tests of their own beside the suites


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Shows a page in this machine's browser, at a width."""
    command = browser()
    if command is None:
        pytest.skip("no browser: set SRUM_BROWSER, or pip install PyQt6-WebEngine")
    return partial(measure, command, tmp_path_factory.mktemp("browser"))
