"""Settings of every test."""

import os

from hypothesis import settings

from srum_plugins.testing.suite import Conformance

os.environ["SRUM_CACHE"] = ""  # also for processes that tests start: none writes to the user's own cache

# Machines are shared: no example fails for being slow, and the same examples run everywhere.
settings.register_profile("srum", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("srum")

Conformance.examples = 4  # our providers have tests of their own beside the suites
