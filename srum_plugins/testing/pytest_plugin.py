"""What pytest loads where srum-plugins is installed: failed assertions in our suites are shown with their values, and a
suite that cannot be set up is told once."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pkgutil import iter_modules

import pytest

import srum_plugins.testing

# One by one, without this module: pytest warns of what is imported already, as the package is.
_NAMES = [f"{__package__}.{module.name}" for module in iter_modules(srum_plugins.testing.__path__)]
pytest.register_assert_rewrite(*(name for name in _NAMES if name != __name__))

_TOLD = pytest.StashKey[list[BaseException]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """What a fixture of a whole suite raised is raised again for each of its tests, the same object: the first test
    fails by it, and the others are skipped."""
    try:
        return (yield)
    except pytest.skip.Exception:
        raise
    except BaseException as error:
        suite, case = sys.modules.get(f"{__package__}.suite"), getattr(item, "cls", None)
        if suite is None or case is None or item.parent is None or not issubclass(case, suite.Conformance):
            raise
        told = item.parent.stash.setdefault(_TOLD, [])
        if any(error is one for one in told):
            pytest.skip("the provider cannot be set up: the first test that failed says why")
        told.append(error)
        raise
