"""A hook of MkDocs: model cards live beside their weights, and are pages of the site all the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[1]
CARDS = {
    "adapters/srum_shapes/checkpoint": "cards/shapes",
    "grounders/srum_sam/checkpoint": "cards/sam",
}
"""The folders of the cards, and where they are in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the cards, with the pictures that they show."""
    for folder, place in CARDS.items():
        source = ROOT / folder
        files.append(File.generated(config, f"{place}/index.md", content=(source / "README.md").read_text("utf-8")))
        for picture in source.glob("*.png"):
            files.append(File.generated(config, f"{place}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Links of the documentation to the cards lead to their pages."""
    for folder, place in CARDS.items():
        markdown = markdown.replace(f"](../{folder}/README.md)", f"]({place}/index.md)")
    return markdown
