"""The site builds without a warning, and the README leads to files that there are."""

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]


def test_the_site_builds_with_every_link_and_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert [page for page in pages if not (tmp_path / page).is_file()] == []
    fetched = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="?(?:https?:)?//[^>]+')
    assert [found for page in pages for found in fetched.findall((tmp_path / page).read_text())] == []
    assert "curves.png" in (tmp_path / "cards/shapes/index.html").read_text()
    assert (tmp_path / "cards/shapes/curves.png").is_file()


def test_the_readme_leads_to_files_that_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []
    linked = {Path(link).name for link in links}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked, "a page that the README's table leaves out"
