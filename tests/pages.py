"""What tests of HTML pages share: a strict reading of a page, texts that would break it, and this machine's browser."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

VOID = {"meta", "img", "br", "hr", "input", "link"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell", "microsoft-edge")
Measure = Callable[[str, int], dict[str, Any]]
FETCHING = ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "background")
HOSTILE = st.one_of(
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "\"><img src=x onerror='alert(1)'>",
            "</style><b>",
            "</svg></section>",
            "{{ 7 * 7 }}{% raw %}",
            "&lt;&amp;\u2028",
            "--><!--",
            "]]>",
            "$\\frac{1}{2}$ a_b^c",
            "javascript:alert(1)",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=40),
)


class Page(HTMLParser):
    """A page's elements and texts. Fails on an end tag without its start tag, and on what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
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


def check_alone(found: Page) -> None:
    """Nothing is fetched, nothing runs, and every picture has words."""
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses())
    assert not re.search(r"url\(|@import|expression\(", found.style)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        remote = [value for value in attributes.values() if "url(" in value and "url(#" not in value]
        assert not remote, remote
    for shown in found.of("img"):
        assert shown["alt"].strip() and int(shown["width"]) > 0 and int(shown["height"]) > 0
    for drawn in found.of("svg"):
        assert drawn.get("aria-hidden") == "true" or drawn["aria-label"].strip()
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))


MEASURE = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe><pre id="measured"></pre>
<script>
onload = () => {{
  const seen = document.querySelector("iframe").contentDocument;
  seen.querySelectorAll("details").forEach(part => part.open = true);
  const out = [...seen.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > {width} + 0.5);
  document.getElementById("measured").textContent = JSON.stringify({{
    width: seen.documentElement.scrollWidth,
    out: out.map(one => one.tagName + "." + one.getAttribute("class")),
    broken: [...seen.images].filter(one => !one.naturalWidth).length,
    images: seen.images.length,
    sections: seen.querySelectorAll("section").length,
  }});
  seen.querySelectorAll("details").forEach(part => part.open = false);
}};
</script>"""


def measure(command: list[str], folder: Path, whole: str, width: int) -> dict[str, Any]:
    """What a window of this width shows of a page; ``shot`` is its picture."""
    wrapper = folder / f"{width}.html"
    frame = {"width": width, "height": 900, "page": html.escape(whole)}
    wrapper.write_text(MEASURE.format(**frame))
    switches = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={max(width, 500)},900"]
    shot = folder / f"{width}.png"

    def browse(switch: str) -> str:
        done = subprocess.run(
            [*command, *switches, switch, wrapper.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    text = re.findall(r'<pre id="measured">(.*?)</pre>', browse("--dump-dom"))[0]
    browse(f"--screenshot={shot}")
    return {**json.loads(html.unescape(text)), "shot": Image.open(shot).convert("RGB").crop((0, 0, width, 900))}
