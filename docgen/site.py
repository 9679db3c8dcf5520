"""A hook of MkDocs: model cards live beside their weights, the changelog at the top; they are pages of the site too."""

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


CHANGELOG = "CHANGELOG.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the changelog, and the cards with the pictures that they show."""
    files.append(File.generated(config, CHANGELOG.lower(), content=(ROOT / CHANGELOG).read_text("utf-8")))
    for folder, place in CARDS.items():
        source = ROOT / folder
        files.append(File.generated(config, f"{place}/index.md", content=(source / "README.md").read_text("utf-8")))
        for picture in source.glob("*.png"):
            files.append(File.generated(config, f"{place}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Links of the documentation to these files lead to their pages, and those of the changelog back."""
    markdown = markdown.replace(f"](../{CHANGELOG})", f"]({CHANGELOG.lower()})").replace("](docs/", "](")
    for folder, place in CARDS.items():
        markdown = markdown.replace(f"](../{folder}/README.md)", f"]({place}/index.md)")
    return markdown
