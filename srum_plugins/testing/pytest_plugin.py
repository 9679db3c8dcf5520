"""What pytest loads where srum-plugins is installed: failed assertions in our suites are shown with their values."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("srum_plugins.testing")
