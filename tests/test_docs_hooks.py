import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import Site, make_site
from PIL import Image

from srum_plugins.contracts import Capability, Decoding, Located, ModelAdapter
from srum_plugins.errors import ConfigError
from srum_plugins.hookspecs import Events, Providers
from srum_plugins.host import PluginHost
from srum_plugins.options import build_options
from srum_plugins.providers import Kind, Provider
from srum_plugins.records import Box, Candidate, Prompt

FOLDER = Path(__file__).parents[1] / "docs"
DOCS = (FOLDER / "plugins.md").read_text()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


def test_the_documented_hooks_are_the_specified_ones_with_exact_arguments() -> None:
    specified = [
        f"{name}({', '.join(list(inspect.signature(function).parameters)[1:])})"
        for spec in (Providers, Events)
        for name, function in vars(spec).items()
        if name.startswith("srum_")
    ]
    reference = (FOLDER / "reference/hooks.md").read_text()
    assert re.findall(r"^### `(srum_\w+\(.*\))`$", reference, re.MULTILINE) == specified


def test_every_hook_has_a_test() -> None:
    tests = [path.read_text() for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_docs_")]
    hooks = [name for spec in (Providers, Events) for name in vars(spec) if name.startswith("srum_")]
    assert [name for name in hooks if not any(name in text for text in tests)] == []


def test_every_kind_has_a_how_to_with_its_hook() -> None:
    kinds = (FOLDER / "kinds.md").read_text() + (FOLDER / "tutorial-adapter.md").read_text()
    hooks = [name for name in vars(Providers) if name.startswith("srum_")]
    assert [name for name in hooks if f"@hookimpl\ndef {name}(" not in kinds] == []


def test_every_provider_field_and_capability_is_documented() -> None:
    fields = DOCS.split("## Provider records")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", fields, re.MULTILINE) == [field.name for field in dataclasses.fields(Provider)]
    gate = DOCS.split("## The contract gate")[1]
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", gate, re.MULTILINE))
    assert list(table) == [capability.name for capability in Capability]
    methods = set(re.findall(r"`([a-z_]+)`", " ".join(table.values())))
    assert methods == {name for name in vars(ModelAdapter) if not name.startswith("_")}


def test_every_setting_of_answers_is_documented_with_its_default() -> None:
    section = (FOLDER / "kinds.md").read_text().split("## Adapters")[1].split("\n## ")[0]
    table = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", section, re.MULTILINE)
    assert table == [
        (field.name, f"{field.default:g}" if isinstance(field.default, float) else str(field.default))
        for field in dataclasses.fields(Decoding)
    ]


def test_the_complete_plugin_works_as_printed(site: Site) -> None:
    blocks = dict(re.findall(r"^```\w+\n# (\S+/\S+\.py)\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
    assert set(blocks) == {"srum_center/plugin.py", "srum_center/grounder.py"}
    assert '[project.entry-points.srum_plugins]\ncenter = "srum_center.plugin"\n' in DOCS
    site.install("srum-center", {"center": "srum_center.plugin"}, blocks)

    provider = PluginHost.load(entry_points=site.entry_points()).get(Kind.GROUNDER, "center").provider
    grounder = provider.factory(build_options(provider.options, {"share": 0.5}, "grounder"))
    candidate = Candidate("p-0", "p", 0, 0, "p-0.png", 8, 4)
    (grounding,) = grounder.ground([Located(Prompt("p", "a dog"), candidate, Image.new("RGB", (8, 4)))], None)
    assert grounding.candidate_id == "p-0"
    assert [region.box for region in grounding.regions] == [Box(2.0, 1.0, 6.0, 3.0)]
    with pytest.raises(ConfigError, match=r"grounder\.share must lie in \(0, 1\], got 2"):
        build_options(provider.options, {"share": 2}, "grounder")
