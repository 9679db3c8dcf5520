"""A hook of MkDocs: what is written beside the code that it is about has a page in the site too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "adapters/srum_shapes/checkpoint/README.md": "cards/shapes/index.md",
    "grounders/srum_sam/checkpoint/README.md": "cards/sam/index.md",
    "examples/srum-janus/README.md": "examples/janus.md",
}
"""Files of the repository, and where they are in the site."""
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?!\.\./|docs/)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with the pictures that lie beside them."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
        for picture in (ROOT / source).parent.glob("*.png"):
            files.append(File.generated(config, f"{Path(page).parent}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **given: Any) -> str:
    """Links to these files lead to their pages; those to other files of the repository become text."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    if page.file.src_uri in PAGES.values():
        up = "../" * page.file.src_uri.count("/")
        return re.sub(r"\]\((?:\.\./)*docs/", f"]({up}", _OUTSIDE.sub(r"\1", markdown))
    for source, place in PAGES.items():
        markdown = markdown.replace(f"](../{source})", f"]({place})")
    return _OUTSIDE.sub(r"\1", markdown)
