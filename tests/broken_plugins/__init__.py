"""Plugins that are broken on purpose, each by as little as possible. test_broken_plugins.py says how each is told."""

from toy_backend import srum_model_adapters

(TOY,) = srum_model_adapters()
"""A healthy adapter: most of these are the same, but for one method."""
