"""What pytest loads where srum-plugins is installed: failed assertions in our suites are shown with their values."""

from __future__ import annotations

from pkgutil import iter_modules

import pytest

import srum_plugins.testing

# One by one, without this module: pytest warns of what is imported already, as the package is.
_NAMES = [f"{__package__}.{module.name}" for module in iter_modules(srum_plugins.testing.__path__)]
pytest.register_assert_rewrite(*(name for name in _NAMES if name != __name__))
