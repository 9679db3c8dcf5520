from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srum_plugins import gate
from srum_plugins.commands.run import STAGES
from srum_plugins.config import SLOTS, GroundSection, TrainSection
from srum_plugins.contracts import Capability
from srum_plugins.errors import CapabilityError, CheckpointError, ConfigError
from srum_plugins.gate import (
    STAGE_NEEDS,
    STAGE_OF_SLOT,
    check,
    check_adapter,
    check_latents,
    check_objective,
    check_optimizer,
)
from srum_plugins.hookspecs import hookimpl
from srum_plugins.host import PluginHost, Registered
from srum_plugins.providers import Kind, Provider
from srum_plugins.rewards import plugin as rewards
from srum_plugins.stages.pipeline import NAMES


@dataclass(frozen=True)
class Asks:
    needs: frozenset[Capability] = frozenset()


def adapter(*capabilities: Capability, **more: Any) -> Registered:
    provider = Provider("toy", "A toy.", dict, capabilities=frozenset(capabilities), **more)
    return Registered(provider, Kind.ADAPTER, "toys", "1.0", "toys.py:1", "toys")


def asking(slot: str, *needs: Capability, **more: Any) -> tuple[Registered, Asks]:
    kind = Kind(slot) if slot in list(Kind) else Kind.JUDGE
    settings = {"options": Asks, "needs": lambda options: options.needs, **more}
    return Registered(Provider("acme", "Acme.", dict, **settings), kind, "acme-srum", "2.0", "acme.py:1", "acme"), Asks(
        frozenset(needs)
    )


capability_sets = st.frozensets(st.sampled_from(Capability))
slots = st.dictionaries(st.sampled_from([*STAGE_OF_SLOT, "second_judge"]), capability_sets)


@given(capability_sets, slots, st.lists(st.sampled_from(list(STAGE_NEEDS)), unique=True))
def test_a_config_passes_if_and_only_if_the_adapter_can_all_that_is_used(
    can: frozenset[Capability], needs: dict[str, frozenset[Capability]], stages: list[str]
) -> None:
    others = {slot: asking(slot, *needed) for slot, needed in needs.items()}
    used = [STAGE_NEEDS[stage] for stage in stages]
    used += [
        need
        for slot, need in needs.items()
        if STAGE_OF_SLOT.get(slot, stages[0] if stages else None) in (None, *stages)
    ]
    lacking = frozenset[Capability]().union(*used) - can
    if not lacking:
        check(adapter(*can), others, stages)
        return
    with pytest.raises(CapabilityError) as refused:
        check(adapter(*can), others, stages)
    for capability in Capability:
        assert (f"can {capability.value!r};" in str(refused.value)) == (capability in lacking)


def test_all_problems_are_told_at_once_with_names() -> None:
    others = {
        "grounder": asking("grounder", Capability.LOCATE),
        "judge": asking("judge", modules=("nowhere",), extra="pip install nowhere"),
        "benchmark": asking("benchmark", needs=lambda options: options.wishes),
    }
    with pytest.raises(CapabilityError) as refused:
        check(adapter(Capability.GENERATE), others, ["generate", "ground", "judge", "train", "evaluate", "juge"])
    text = str(refused.value)
    assert len(text.splitlines()) == 5
    for part in (
        "the stage 'train' needs a model that can 'train'; the adapter 'toy' of toys 1.0",
        "the grounder 'acme' of acme-srum 2.0 (plugin 'acme') needs a model that can 'locate'",
        "the judge 'acme' needs nowhere, not installed: pip install nowhere",
        "the benchmark 'acme' of acme-srum 2.0 (plugin 'acme') cannot say what it needs: AttributeError",
        "there is no stage 'juge'. Did you mean 'judge'",
    ):
        assert part in text


def test_without_a_missing_capability_it_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="the adapter 'toy' needs nowhere, not installed: pip install nowhere"):
        check(adapter(modules=("nowhere",), extra="pip install nowhere"), {}, [])
    with pytest.raises(ConfigError, match="cannot say what it needs: ValueError: 'fly' is not a valid Capability"):
        check(adapter(), {"judge": asking("judge", needs=lambda options: {"fly"})}, ["judge"])


def test_what_a_provider_itself_refuses_is_told_if_a_stage_needs_it() -> None:
    def refuses(options: Asks) -> None:
        raise ConfigError(f"no hands for {list(map(str, options.needs))}")

    others = {
        "grounder": asking("grounder", Capability.LOCATE, check=refuses),
        "judge": asking("judge", check=lambda options: options.hands),
    }
    able = adapter(Capability.LOCATE, Capability.GENERATE)
    check(able, others, ["generate"])
    with pytest.raises(ConfigError) as refused:
        check(able, others, ["ground", "judge"])
    assert str(refused.value).splitlines() == [
        "the grounder 'acme' of acme-srum 2.0 (plugin 'acme') cannot run here: no hands for ['locate']",
        "the judge 'acme' of acme-srum 2.0 (plugin 'acme') cannot say whether it can run here: AttributeError: 'Asks' "
        "object has no attribute 'hands'",
    ]


def test_what_an_adapter_itself_refuses_is_told() -> None:
    def refuses(options: Asks) -> None:
        raise CheckpointError("no weights there")

    check_adapter(adapter(), Asks())
    with pytest.raises(ConfigError, match=r"the adapter 'toy' of toys 1\.0 .* cannot run here: no weights there"):
        check_adapter(adapter(check=refuses), Asks())
    with pytest.raises(ConfigError, match="cannot say whether it can run here: AttributeError: 'Asks' object has no"):
        check_adapter(adapter(check=lambda options: options.checkpoint), Asks())


@dataclass(frozen=True)
class Path:
    path: str


class Grounders:
    @hookimpl
    def srum_grounders(self) -> list[Provider]:
        def needing(*needs: Capability) -> dict[str, Any]:
            return {"needs": lambda options: frozenset(needs)}

        return [
            Provider("acme", "Asked with other options.", dict, **needing()),
            Provider("grid", "Asks nothing.", dict),
            Provider("chooses", "Asks for choices.", dict, **needing(Capability.CHOICE)),
            Provider("locates", "Asks for boxes.", dict, **needing(Capability.LOCATE)),
            Provider("file", "Has an option that must be given.", dict, options=Path),
            Provider("broken", "Cannot say.", dict, needs=lambda options: options.wishes),
            Provider("absent", "Is not installed.", dict, modules=("nowhere",), extra="pip install nowhere"),
        ]


def test_what_would_fit_in_its_place_is_told() -> None:
    host = PluginHost.load(entry_points=())
    host.register(Grounders(), "grounders")
    others = {"grounder": asking("grounder", Capability.LOCATE), "judge": asking("judge", Capability.ANSWER)}
    with pytest.raises(CapabilityError) as refused:
        check(adapter(Capability.CHOICE), others, ["ground", "judge"], host=host)
    grounder, judge = str(refused.value).splitlines()
    assert grounder.endswith("declares choice; these grounders work with it: acme, chooses, grid")
    assert judge.endswith("declares choice; no judge that is installed works with it by its default options")


@pytest.mark.parametrize("filtering", ["drop", "background"])
def test_a_filter_needs_choices_where_its_stage_is_to_run(filtering: str) -> None:
    ground = GroundSection(filter=filtering)
    check(adapter(), {}, ["judge"], ground=ground)
    check(adapter(), {}, ["ground"], ground=GroundSection())
    check(adapter(Capability.CHOICE), {}, ["ground"], ground=ground)
    expected = rf"ground\.filter={filtering} needs a model that can 'choice'; the adapter 'toy' .*ground\.filter=none"
    with pytest.raises(CapabilityError, match=expected):
        check(adapter(Capability.ANSWER), {}, ["ground"], ground=ground)


def test_gate_commands_and_pipeline_know_the_same_stages() -> None:
    """They are written three times, because neither help nor the gate may wait for the stages' imports."""
    assert list(STAGE_NEEDS) == list(STAGES) == list(NAMES)
    assert set(STAGE_OF_SLOT) == (set(SLOTS) | {"monitors"}) - {"adapter", "attention"}
    assert set(STAGE_OF_SLOT.values()) == set(NAMES)


def test_an_adapter_that_cannot_encode_is_refused_where_images_are_to_be() -> None:
    blind = adapter(cannot_encode=lambda options: options["why"])
    encoded = TrainSection(latents="encoded")
    check_latents(adapter(), None, encoded)
    check_latents(blind, {"why": ""}, encoded)
    check_latents(blind, {"why": "it has no eyes"}, TrainSection())
    with pytest.raises(ConfigError, match=r"train\.latents=encoded does not work with .*: it has no eyes"):
        check_latents(blind, {"why": "it has no eyes"}, encoded)


@pytest.mark.parametrize(
    ("name", "settings", "refused"),
    [
        ("srum", {}, ""),
        ("srum", {"reference": "best"}, "negative_weights"),
        ("srum", {"anchor": 0.1}, "negative_weights"),
        ("srum", {"anchor": 0.1, "reference": "best", "negative_weights": "saturate"}, ""),
        ("srum", {"anchor": 0.1, "reference": "best", "negative_weights": "zero"}, ""),
        ("paired", {}, ""),
        ("paired", {"preference": "linear", "anchor": 3.0}, "logistic"),
    ],
)
def test_objectives_that_only_squared_errors_bound_are_refused_for_other_losses(
    name: str, settings: dict[str, Any], refused: str
) -> None:
    provider = next(one for one in rewards.srum_objectives() if one.name == name)
    objective = Registered(provider, Kind.OBJECTIVE, "ours", "1.0", "ours.py:1", "ours")
    options = provider.options(**settings)
    check_objective(adapter(), objective, options)
    if not refused:
        check_objective(adapter(squared=False), objective, options)
        return
    with pytest.raises(ConfigError, match=rf"'{name}' does not work with .* 'toy'.* no squared errors: .*{refused}"):
        check_objective(adapter(squared=False), objective, options)


def test_weights_that_an_optimizer_cannot_move_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    half, eight = adapter(trained_dtype=lambda options, training: options["dtype"]), TrainSection(optimizer="adamw8bit")
    check_optimizer(half, {"dtype": "float32"}, None, TrainSection())
    check_optimizer(adapter(), None, None, TrainSection())
    with pytest.raises(ConfigError, match=r"cannot train weights in bfloat16.*adamw8bit"):
        check_optimizer(half, {"dtype": "bfloat16"}, None, TrainSection())
    monkeypatch.setattr(gate, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"adamw8bit needs torchao, not installed: pip install 'srum-plugins\[gpu\]'"):
        check_optimizer(half, {"dtype": "bfloat16"}, None, eight)
    monkeypatch.setattr(gate, "find_spec", lambda name: name)
    monkeypatch.setattr(gate, "which", lambda name: None)
    with pytest.raises(ConfigError, match="finds no C\\+\\+ compiler"):
        check_optimizer(half, {"dtype": "bfloat16"}, None, eight)
    monkeypatch.setattr(gate, "which", lambda name: name)
    check_optimizer(half, {"dtype": "bfloat16"}, None, eight)
    slow = TrainSection(optimizer="adamw8bit", beta2=0.999)
    check_optimizer(half, {"dtype": "float32"}, None, slow)
    with pytest.raises(ConfigError, match=r"beta2=0\.999 does not work with weights in bfloat16"):
        check_optimizer(half, {"dtype": "bfloat16"}, None, slow)
