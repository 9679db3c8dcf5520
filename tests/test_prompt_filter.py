"""The paper's filter: what the model does not find in the prompt is dropped, or kept without a local reward."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_backend
from engine_fixtures import directories, toy_config, toy_host, toy_run
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from PIL import Image
from srum_components.grounder import ComponentsGrounder
from srum_components.options import ComponentsOptions
from srum_shapes.prompts import sample_facts, to_prompt
from srum_shapes.world import render, scene_for

from srum_plugins import hookimpl
from srum_plugins.config import GroundSection
from srum_plugins.contracts import Capability, Located, ModelAdapter
from srum_plugins.errors import CapabilityError, ContractError
from srum_plugins.memory.workload import workload
from srum_plugins.providers import Provider
from srum_plugins.records import BACKGROUND, Box, Candidate, Failure, Grounding, Judgement, Prompt, Region, Score
from srum_plugins.runs.shards import Shards
from srum_plugins.stages import reward
from srum_plugins.stages.background import foreground, with_background, without_background
from srum_plugins.stages.pipeline import STAGES
from srum_plugins.stages.prompt_filter import NOT_IN_PROMPT, decided, filtered
from srum_plugins.stages.session import Session

DROP, KEEP = GroundSection(filter="drop"), GroundSection(filter="background")
BOX = Box(1, 2, 30, 31)
shares = st.floats(0, 1)


def located(prompt: Prompt, image: Image.Image | None = None, name: str = "c") -> Located:
    image = image or Image.new("RGB", (32, 32))
    return Located(prompt, Candidate(name, prompt.id, 0, 0, f"{name}.png", *image.size), image)


class Sure(OracleModel):
    """Answers yes with these probabilities, in turn; None is no probability."""

    def __init__(self, *yes: float | None) -> None:
        super().__init__()
        self.yes = iter(yes)
        self.calls = 0

    def choice_logprobs(self, questions):
        self.asked += questions
        self.calls += 1
        given = [next(self.yes) for _ in questions]
        return [(math.nan, 0.0) if p is None else (math.log(p), math.log1p(-p)) for p in given]


PROMPT = Prompt("p", "two dogs and an orange cat")


# --- one region -------------------------------------------------------------------------------------------------------
@given(st.lists(shares, min_size=1, max_size=5), shares, st.booleans(), st.booleans())
def test_a_region_is_kept_if_and_only_if_its_best_phrase_reaches_the_threshold(
    yes: list[float], threshold: float, keep: bool, masked: bool
) -> None:
    phrases = [f"thing {index}" for index in range(len(yes))]
    region = Region(BOX, score=0.25, mended=("clamped",))
    settings = replace(KEEP if keep else DROP, threshold=threshold)
    found = decided(region, phrases, [(p, 1 - p) for p in yes], settings)
    if max(yes) >= threshold:
        assert found == replace(region, phrase=phrases[yes.index(max(yes))])
    elif keep:
        assert found == replace(region, phrase="", background=True)
    else:
        assert isinstance(found, Failure) and found.cause == NOT_IN_PROMPT


@pytest.mark.parametrize("settings", [DROP, KEEP])
def test_an_answer_that_is_no_probability_decides_nothing(settings: GroundSection) -> None:
    failed = Failure("no probabilities", "why")
    assert decided(Region(BOX), ["a", "b"], [(0.9, 0.1), failed], settings) == failed


# --- a chunk ----------------------------------------------------------------------------------------------------------
def test_all_questions_of_a_chunk_go_in_one_call_and_each_region_is_asked_what_it_may_be() -> None:
    items = [
        located(PROMPT, name="a"),
        located(replace(PROMPT, phrases=("bird",)), name="b"),
        located(PROMPT, name="c"),
    ]
    groundings = [
        Grounding("a", (Region(BOX), Region(BOX, "an owl")), {"small": 2}),
        Grounding("b", (Region(BOX), Region(Box(0, 0, 4, 4)))),
        Grounding("c", ()),
    ]
    model = Sure(0.3, 0.8, 0.1, 0.5, None)
    found = filtered(items, groundings, model, DROP)
    assert model.calls == 1
    texts = ["is this a dog ?", "is this an orange cat ?", "is this an owl ?", "is this a bird ?", "is this a bird ?"]
    assert [question.text for question in model.asked] == texts
    assert {question.choices for question in model.asked} == {("yes", "no")}
    assert [question.box for question in model.asked] == [BOX, BOX, BOX, BOX, Box(0, 0, 4, 4)]
    assert [question.image for question in model.asked] == [items[0].image] * 3 + [items[1].image] * 2
    assert found == [
        Grounding("a", (Region(BOX, "orange cat"),), {"small": 2, NOT_IN_PROMPT: 1}),
        Grounding("b", (Region(BOX, "bird"),), {"no probabilities": 1}),
        Grounding("c", ()),
    ]
    # As background the owl keeps its place and loses its phrase.
    (kept, *_) = filtered(items[:1], groundings[:1], Sure(0.3, 0.8, 0.1), KEEP)
    assert kept == Grounding("a", (Region(BOX, "orange cat"), Region(BOX, background=True)), {"small": 2})


def test_a_prompt_that_names_nothing_is_one_phrase_and_given_background_is_left_alone() -> None:
    model = Sure(0.9)
    own = Region(Box(0, 0, 4, 4), background=True)
    (found,) = filtered([located(Prompt("p", "on the left"))], [Grounding("c", (own, Region(BOX)))], model, DROP)
    assert [question.text for question in model.asked] == ["is this an on the left ?"]
    assert found.regions == (own, Region(BOX, "on the left"))


def test_the_wording_is_the_users() -> None:
    model = Sure(0.9)
    settings = GroundSection(filter="drop", template="Does the region show {phrase}?")
    filtered([located(PROMPT)], [Grounding("c", (Region(BOX, "dog"),))], model, settings)
    assert model.asked[0].text == "Does the region show a dog?"


def test_a_model_that_forgets_breaks_its_contract() -> None:
    class Forgets(OracleModel):
        def choice_logprobs(self, questions):
            return []

    with pytest.raises(ContractError, match="Forgets answered 0 of 2 questions"):
        filtered([located(PROMPT)], [Grounding("c", (Region(BOX),))], Forgets(), DROP)


@given(st.integers(0, 2**32 - 1))
def test_what_the_prompt_does_not_name_is_filtered_out(seed: int) -> None:
    """Two scenes in turn: what one shows is asked against the prompt of the other."""
    rng = np.random.default_rng(seed)
    facts, other = sample_facts(rng), sample_facts(rng)
    scene = scene_for(facts, rng)
    image, prompt = Image.fromarray(render(scene, rng)), to_prompt(other, "p", "train")
    items = [located(prompt, image)]
    proposed = ComponentsGrounder(ComponentsOptions()).ground(items, None)
    (dropped,) = filtered(items, proposed, OracleModel(), DROP)
    (kept,) = filtered(items, proposed, OracleModel(), KEEP)
    named = {item.box: item.phrase for item in scene.objects if item.phrase in prompt.phrases}
    assert {region.box: region.phrase for region in dropped.regions} == named
    assert dropped.dropped.get(NOT_IN_PROMPT, 0) == len(scene.objects) - len(named)
    assert kept.dropped == {} and [region.box for region in kept.regions] == [r.box for r in proposed[0].regions]
    assert tuple(region for region in kept.regions if not region.background) == dropped.regions


# --- background -------------------------------------------------------------------------------------------------------
@given(st.lists(st.booleans(), max_size=6))
def test_a_judgement_of_the_foreground_has_its_place_in_the_whole(background: list[bool]) -> None:
    regions = tuple(Region(BOX, background=one) for one in background)
    whole = Grounding("c", regions, {"small": 1})
    front = foreground(whole)
    assert len(front.regions) == background.count(False) and front.dropped == whole.dropped
    local = tuple(Score(index / 10) if index % 2 else Failure("x") for index in range(len(front.regions)))
    judged = Judgement("c", Score(0.5), local, tokens=3)
    full = with_background(judged, whole)
    assert len(full.local) == len(regions)
    assert all((score is BACKGROUND) == region.background for score, region in zip(full.local, regions, strict=True))
    assert without_background(full, whole) == judged


# --- in a run ---------------------------------------------------------------------------------------------------------
def facts_of(session: Session, stage: str) -> dict[str, Any]:
    (found,) = [one for one in STAGES if one.name == stage]
    return session.directory(found).facts()


def records(session: Session, stage: str, kind: type) -> list[Any]:
    (found,) = [one for one in STAGES if one.name == stage]
    return Shards(session.directory(found).path, kind, 12, 4).read()


def test_background_is_on_disk_and_nobody_is_asked_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Grounding] = []

    class Watched(toy_backend.ChoiceJudge):
        def judge(self, items, groundings, model: ModelAdapter | None) -> list[Judgement]:
            seen.extend(groundings)
            return super().judge(items, groundings, model)

    monkeypatch.setattr(toy_backend, "ChoiceJudge", Watched)
    host = toy_host()
    asks = ["ground.filter=background", "ground.threshold=0.6"]
    toy_run(tmp_path, *asks, host=host)
    session = Session(toy_config(tmp_path, *asks, host=host), host)
    groundings, judgements = records(session, "ground", Grounding), records(session, "judge", Judgement)
    regions = [region for grounding in groundings for region in grounding.regions]
    behind = [region for region in regions if region.background]
    assert 0 < len(behind) < len(regions) and all(not region.phrase for region in behind)
    ground = facts_of(session, "ground")
    assert (ground["regions"], ground["background"]) == (len(regions), len(behind))
    assert (ground["in_prompt"], ground["dropped_not_in_prompt"]) == (len(regions) - len(behind), 0)
    assert seen and not any(region.background for grounding in seen for region in grounding.regions)
    pairs = [
        (score, region)
        for judgement, grounding in zip(judgements, groundings, strict=True)
        for score, region in zip(judgement.local, grounding.regions, strict=True)
    ]
    assert {score for score, region in pairs if region.background} == {Score(0.0, "background")}
    own = [score.value for score, region in pairs if not region.background]
    assert facts_of(session, "judge")["local_mean"] == pytest.approx(sum(own) / len(own))
    # Nothing of it is in a map: there it is as where no region is.
    for item, made in zip(reward.read_judged(session), reward.read_rewards(session), strict=True):
        assert not any(region.background for region in item.grounding.regions)
        assert made is not None and len(made.map.regions) == len(item.grounding.regions) == len(item.judgement.local)
    assert sum(len(item.grounding.regions) for item in reward.read_judged(session)) == len(own)


def test_dropped_regions_are_counted_and_the_filter_runs_the_stage_again(tmp_path: Path) -> None:
    host = toy_host()
    toy_run(tmp_path, host=host)
    (unfiltered,) = directories(tmp_path / "run")["ground"]
    # How the filter would ask changes nothing while there is none.
    session = Session(toy_config(tmp_path, "ground.threshold=0.6", "ground.template=what {phrase}", host=host), host)
    assert session.directory(STAGES[1]).path.name == unfiltered
    assert session.directory(STAGES[1]).complete
    both = len(records(session, "ground", Grounding)) and facts_of(session, "ground")["regions"]
    names = {unfiltered}
    for asks in (["ground.filter=drop"], ["ground.filter=drop", "ground.threshold=0.6"]):
        toy_run(tmp_path, *asks, only="ground", host=host)
        session = Session(toy_config(tmp_path, *asks, host=host), host)
        facts = facts_of(session, "ground")
        assert facts["regions"] + facts["dropped_not_in_prompt"] == both
        assert facts["dropped_not_in_prompt"] > 0 and facts["background"] == 0
        names.add(session.directory(STAGES[1]).path.name)
    assert len(names) == 3


def test_the_manifest_without_a_filter_is_what_it_was_before_there_were_filters(tmp_path: Path) -> None:
    toy_run(tmp_path, only="generate")
    toy_run(tmp_path, only="ground")
    (manifest,) = (tmp_path / "run/stages/ground").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["ingredients"]["ground"] == {"chunk": 4}


def test_the_filter_needs_a_model_that_can_choose(tmp_path: Path) -> None:
    class Blind:
        @hookimpl
        def srum_model_adapters(self) -> list[Provider]:
            toy = toy_backend.srum_model_adapters()[0]
            return [replace(toy, name="blind", capabilities=frozenset({Capability.GENERATE}))]

    host = toy_host()
    host.register(Blind(), "blind")
    with pytest.raises(CapabilityError, match=r"ground\.filter=drop needs a model that can 'choice'.*filter=none does"):
        toy_run(tmp_path, "adapter=blind", "ground.filter=drop", only="ground", host=host)
    with pytest.raises(CapabilityError, match=r"these grounders work with it: toy-halves$"):
        toy_run(tmp_path, "adapter=blind", "grounder=toy-locate", only="ground", host=host)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overrides", [(), ("ground.filter=drop",)])
def test_the_memory_of_its_questions_is_counted(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    asking = workload(toy_config(tmp_path, *overrides)).asking
    assert ("ground" in asking) == bool(overrides)
    if overrides:
        assert (asking["ground"].images, asking["ground"].needs) == (4, {"choice"})
