"""srum_plugins: self-rewarding post-training of unified multimodal models, made of plugins."""

from srum_plugins.hookspecs import hookimpl

__all__ = ["__version__", "hookimpl"]
__version__ = "0.1.0"
