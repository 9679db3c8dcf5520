"""Imports segment-anything for the tests: with the installed torchvision, or where that is missing or broken with the
stand-in, which is on the path for that moment only, so that no other library finds it."""

import sys
from pathlib import Path

import pytest
from srum_sam.environment import check_packages

from srum_plugins.errors import ConfigError

STANDINS = Path(__file__).parent / "standins"

try:
    check_packages()
except ConfigError:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STANDINS)
        import segment_anything  # noqa: F401
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    STANDS_IN = True
else:
    STANDS_IN = False
