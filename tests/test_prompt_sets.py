"""Training prompts from files: one's own, and T2I-CompBench's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import srum_compbench.plugin
import srum_prompt_file.plugin
from engine_fixtures import toy_config, toy_host
from hypothesis import given, settings
from hypothesis import strategies as st
from srum_compbench.options import CATEGORIES

from srum_plugins.errors import ConfigError
from srum_plugins.host import PluginHost
from srum_plugins.records import Prompt
from srum_plugins.stages.session import Session

LINES = st.lists(st.from_regex(r"[a-z][a-z ]{0,20}[a-z]", fullmatch=True), min_size=1, max_size=12)


def host() -> PluginHost:
    found = toy_host()
    for module in (srum_compbench.plugin, srum_prompt_file.plugin):
        found.register(module, module.__name__)
    return found


def prompts(folder: Path, *overrides: str) -> list[Prompt]:
    found = host()
    return Session(toy_config(folder, *overrides, host=found), found).prompts


@given(LINES)
@settings(max_examples=5)  # each reads a configuration
def test_a_file_of_prompts_is_trained_on_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.txt").write_text("\n".join(lines))
    found = prompts(folder, f"prompts={{name: file, path: '{folder / 'own.txt'}'}}")
    assert [prompt.text for prompt in found] == lines
    assert {prompt.split for prompt in found} == {"train"}


def test_the_training_file_of_the_release_is_read_category_by_category(tmp_path: Path) -> None:
    items = [
        {"Question": f"{category} {index}", "Category": category, "Question_id": index}
        for index in range(3)
        for category in CATEGORIES
    ]
    path = tmp_path / "train_comp.json"
    path.write_text(json.dumps(items))
    chosen = f"prompts={{name: t2i-compbench, path: '{path}', per_category: 2}}"
    found = prompts(tmp_path, chosen)
    assert [prompt.id for prompt in found] == [f"{category}-{index}" for category in CATEGORIES for index in range(2)]
    assert all(prompt.text == prompt.id.replace("-", " ") for prompt in found if "-" not in prompt.category)
    with pytest.raises(ConfigError, match=r"prompts: categories: there is no 'colour'"):
        prompts(tmp_path, chosen, "prompts.categories=[colour]")


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name in ("file", "t2i-compbench"):
        with pytest.raises(ConfigError, match=r"missing\.json cannot be read"):
            prompts(tmp_path, f"prompts={{name: {name}, path: '{tmp_path / 'missing.json'}'}}")
