"""Arms: their files, the arms that are shipped, and how they are chosen."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins.ablations.arms import Arm, choose, read_arms
from srum_plugins.config import load
from srum_plugins.errors import ConfigError
from srum_plugins.host import PluginHost
from srum_plugins.stages.pipeline import STAGES, check
from srum_plugins.world import World

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "configs/ablations"


def write(folder: Path, name: str, **content: object) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_an_arm_is_a_file_and_several_if_it_has_values(tmp_path: Path) -> None:
    write(tmp_path, "lambda", about="sweep", overrides=["a=b", "objective.lambda_c={value}"], values=[0.25, 1])
    write(tmp_path, "base", about="before", trained=False)
    assert read_arms(tmp_path) == [
        Arm("base", "before", (), "base", trained=False),
        Arm("lambda-0.25", "sweep", ("a=b", "objective.lambda_c=0.25"), "lambda"),
        Arm("lambda-1", "sweep", ("a=b", "objective.lambda_c=1"), "lambda"),
    ]


names = st.lists(st.sampled_from("abcdef"), unique=True)


@given(names, names)
def test_what_is_chosen_is_what_was_named_once_and_in_that_order(there: list[str], wanted: list[str]) -> None:
    arms = [Arm(f"{name}-{value}", "", (), name) for name in there for value in (1, 2)]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        with pytest.raises(ConfigError, match=f"no arm '{unknown[0]}'"):
            choose(arms, wanted)
        return
    found = choose(arms, [*wanted, *(f"{name}-1" for name in wanted)])
    expected = [arm for name in wanted for arm in arms if arm.family == name] if wanted else arms
    assert found == expected


def test_an_unknown_arm_is_told_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"no arm 'unifrom'\. Did you mean 'uniform'"):
        choose([Arm("uniform", "", (), "uniform"), Arm("srum", "", (), "srum")], ["unifrom"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("about: x\noverides: [a=b]\n", ["odd.yaml", "overides", "Did you mean 'overrides'"]),
        ("overrides: [a=b]\n", ["odd.yaml", "about", "missing"]),
        ("- a\n", ["odd.yaml", "expected `about"]),
        ("a: [\n", ["odd.yaml", "not valid YAML"]),
        ("about: x\noverrides: ['a={value}']\n", ["values and {value}"]),
        ("about: x\noverrides: [a=b]\nvalues: [1]\n", ["values and {value}"]),
        ("about: x\noverrides: ['a={value}']\nvalues: ['../x']\n", ["odd.yaml", "../x"]),
        ("about: x\noverrides: [a=b]\ntrained: false\n", ["trained: false"]),
    ],
)
def test_mistakes_in_a_file_are_told_with_its_name(tmp_path: Path, content: str, words: list[str]) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_arms(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_folder_without_arms_and_a_name_that_is_no_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no arm in"):
        read_arms(tmp_path / "nowhere")
    write(tmp_path, "No Good", about="x")
    with pytest.raises(ConfigError, match="the name of an arm"):
        read_arms(tmp_path)


def test_every_shipped_arm_passes_the_gate_and_no_two_are_alike() -> None:
    host = PluginHost.load()
    arms = read_arms(SHIPPED)
    wanted = {"base", "uniform", "shuffled", "global-only", "local-only", "no-reference", "srum-release", "srum"}
    assert wanted | {"best-of-n", "lambda", "paired"} <= {arm.family for arm in arms}
    seen = {}
    for arm in arms:
        config = load(ROOT / "configs/demo.yaml", arm.overrides, host)
        check(config, host, STAGES, World())
        if arm.trained and arm.name != "paired":  # which is the demo as it is
            assert yaml.safe_dump(config.resolved()) not in seen.values(), arm.name
            seen[arm.name] = yaml.safe_dump(config.resolved())
    # A pair is two images: the arms without pairs get batches of twice as many examples.
    batches = {arm.name: load(ROOT / "configs/demo.yaml", arm.overrides, host).train.batch for arm in arms}
    pairs = {name: 2 if name.startswith("paired") or name == "base" else 1 for name in batches}
    assert {batches[name] * pairs[name] for name in batches} == {64}
