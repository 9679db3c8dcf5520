"""Imports what is not installed while it is loaded."""

import a_package_of_nobody  # noqa: F401
