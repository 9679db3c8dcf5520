"""What tests of HTML pages share: a strict reading of a page, and the browser of this machine, if it has one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "hr", "input", "link"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell", "microsoft-edge")
FETCHING = ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "background")


class Page(HTMLParser):
    """A page's elements and texts. Fails on an end tag without its start tag, and on what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The elements with the names of their attributes, but for classes: what text must not change."""
        return [(tag, tuple(name for name in attributes if name != "class")) for tag, attributes in self.elements]

    def addresses(self) -> Iterator[str]:
        """All that a browser would fetch or go to."""
        for _, attributes in self.elements:
            yield from (value for name, value in attributes.items() if name in FETCHING)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def browser() -> list[str] | None:
    """The command of a Chromium: ``SRUM_BROWSER``, one on the path, or PyQt6-WebEngine's; None if there is none."""
    if named := os.environ.get("SRUM_BROWSER"):
        return [named]
    for name in BROWSERS:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("PyQt6") and importlib.util.find_spec("PyQt6.QtWebEngineWidgets"):
        return [sys.executable, str(Path(__file__).parent / "qt_browser.py")]
    return None
