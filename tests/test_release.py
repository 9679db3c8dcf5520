"""What a release says of itself agrees in every place."""

import re
import tomllib
from pathlib import Path

import yaml

from srum_plugins import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_and_the_licence_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == __version__
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text().split("\n", 2)[1].strip() == "Apache License"
    (paper,) = citation["references"]
    assert paper["url"].endswith(paper["doi"].partition("arXiv.")[2])


def test_the_changelog_has_the_version_below_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[:2] == ["Unreleased", __version__]
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
