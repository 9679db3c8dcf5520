"""Writes every generated page of the documentation."""

from __future__ import annotations

from pathlib import Path

from docgen import command_line, configuration, hooks, lifecycle, records
from srum_plugins.host import PluginHost

DOCS = Path(__file__).parents[1] / "docs"


def pages() -> dict[str, str]:
    """The text of every generated file by its path below ``docs``."""
    return {
        "reference/configuration.md": configuration.page(PluginHost.load()),
        "reference/cli.md": command_line.page(),
        "reference/hooks.md": hooks.page(),
        "reference/records.md": records.page(),
        "reference/lifecycle.svg": lifecycle.picture(),
    }


def main() -> None:
    """Write those that are not there as they should be, and name them."""
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: docs/{name}")


if __name__ == "__main__":
    main()
