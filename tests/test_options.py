import enum
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.options import build_options


class Shade(enum.Enum):
    LIGHT = 1
    DARK = 2


@dataclass(frozen=True)
class Inner:
    size: int = 3
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must be >= 0, got {self.size}")
        if self.size == 13:
            raise ValueError("this is an unlucky number")


@dataclass(frozen=True)
class Options:
    threshold: float
    max_regions: int = 8
    mode: Literal["max", "mean"] = "max"
    label: str = "x"
    quick: bool = False
    limit: int | None = None
    words: tuple[str, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    sizes: list[int] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    shade: Shade = Shade.LIGHT
    folder: Path | None = None
    inner: Inner = Inner()
    spare: Inner | None = None

    def __post_init__(self) -> None:
        if self.max_regions < 1:
            raise ValueError("max_regions must be at least 1")


finite = st.floats(allow_nan=False, width=64)
# "$" and "?" could spell an interpolation or a missing value
plain = st.text(st.characters(exclude_characters="$?", exclude_categories=["Cs"]))
inner = st.builds(Inner, size=st.integers(0, 12), rate=finite)
options = st.builds(
    Options,
    threshold=finite,
    max_regions=st.integers(1),
    mode=st.sampled_from(["max", "mean"]),
    label=plain,
    quick=st.booleans(),
    limit=st.none() | st.integers(),
    words=st.lists(plain).map(tuple),
    pair=st.tuples(finite, finite),
    sizes=st.lists(st.integers()),
    shares=st.dictionaries(st.text("abc", min_size=1), finite),
    shade=st.sampled_from(Shade),
    inner=inner,
    spare=st.none() | inner,
)


@given(options)
def test_every_instance_comes_back_from_its_settings(instance: Options) -> None:
    assert build_options(Options, asdict(instance), "grounder") == instance


@given(options, st.sets(st.sampled_from([name for name in Options.__annotations__ if name != "threshold"])))
def test_what_is_not_given_keeps_its_default(instance: Options, left_out: set[str]) -> None:
    given_values = {name: value for name, value in asdict(instance).items() if name not in left_out}
    built, default = build_options(Options, given_values, "grounder"), Options(0.0)
    for name in Options.__annotations__:
        assert getattr(built, name) == getattr(default if name in left_out else instance, name)


def test_types_of_the_result_are_those_of_the_dataclass() -> None:
    values = {"threshold": 1, "words": ["a"], "pair": [1, 2], "shade": "DARK", "folder": "runs", "inner": {"size": 4}}
    built = build_options(Options, values, "grounder")
    assert type(built.threshold) is float
    assert (built.words, built.pair, built.shade) == (("a",), (1.0, 2.0), Shade.DARK)
    assert built.folder == Path("runs")
    assert built.inner == Inner(size=4)
    assert build_options(Options, OmegaConf.create(values), "grounder") == built


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_region": 3}, "grounder.max_region: there is no such setting. Did you mean 'max_regions'?"),
    ({"inner": {"sise": 3}}, "grounder.inner.sise: there is no such setting. Did you mean 'size'?"),
    ({"max_regions": "many"}, "grounder.max_regions: Value 'many' of type 'str' could not be converted to Integer"),
    ({"max_regions": True}, "grounder.max_regions: Value 'True' of type 'bool'"),
    ({"max_regions": 1.5}, "grounder.max_regions: Value '1.5' of type 'float'"),
    ({"max_regions": None}, "grounder.max_regions: "),
    ({"limit": False}, "grounder.limit: "),
    ({"threshold": True}, "grounder.threshold: "),
    ({"mode": "min"}, "grounder.mode: Invalid value 'min', expected one of ['max', 'mean']"),
    ({"words": "a"}, "grounder.words: "),
    ({"pair": [1.0]}, "grounder.pair: [1.0] does not fit tuple[float, float]"),
    ({"pair": [1.0, True]}, "grounder.pair: [1.0, True] does not fit"),
    ({"sizes": [1, "b"]}, "grounder.sizes[1]: "),
    ({"shares": {"a": "b"}}, "grounder.shares.a: "),
    ({"inner": 3}, "grounder.inner: "),
    ({"inner": None}, "grounder.inner: "),
    ({"inner": {"size": "???"}}, "grounder.inner.size: a value is missing"),
    ({"label": "???"}, "grounder.label: a value is missing"),
    ({"label": "${nowhere}"}, "grounder"),
    ({"label": object()}, "grounder.label: "),
    ({"max_regions": 0}, "grounder.max_regions must be at least 1"),
    ({"inner": {"size": -1}}, "grounder.inner.size must be >= 0, got -1"),
    ({"spare": {"size": 13}}, "grounder.spare: this is an unlucky number"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build_options(Options, {"threshold": 0.5, **values}, "grounder")
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert "$VALUE" not in str(refused.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        build_options(Options, {"max_regions": "many", "label_": "x", "pair": [1]}, "grounder")
    lines = str(refused.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "grounder.label_",
        "grounder.max_regions",
        "grounder.pair",
        "grounder.threshold",
    ]
    assert lines[-1] == "grounder.threshold: a value is missing"


@pytest.mark.parametrize("values", [3, "abc", None, ["threshold"]])
def test_settings_must_have_names(values: Any) -> None:
    with pytest.raises(ConfigError, match="grounder: expected settings by name"):
        build_options(Options, values, "grounder")


@dataclass
class Unfit:
    lock: memoryview


@pytest.mark.parametrize("cls", [Unfit, dict, Inner()])
def test_an_unfit_dataclass_is_the_plugins_fault(cls: Any) -> None:
    with pytest.raises(ContractError):
        build_options(cls, {}, "grounder")
