"""A page out of sections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from srum_plugins.reporting.sections import Section


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("srum_plugins.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """The sections in this order as one HTML document that needs no network and no script. ``facts`` stand below the
    title."""
    template = _environment().get_template("page.html.j2")
    return template.render(title=title, facts=facts, sections=sections)
