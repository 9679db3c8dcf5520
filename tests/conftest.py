"""Settings of every test."""

from hypothesis import settings

# Machines are shared: no example fails for being slow, and the same examples run everywhere.
settings.register_profile("srum", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("srum")
