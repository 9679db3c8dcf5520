import dataclasses
import json
import re
from pathlib import Path

import pytest
import srum_rubric.plugin
from oracle_model import OracleModel
from PIL import Image
from srum_rubric import parsing
from srum_rubric.judge import RubricJudge
from srum_rubric.options import RubricOptions
from srum_rubric.plugin import srum_judges
from srum_rubric.wording import GLOBAL, REGIONS, THINK

from srum_plugins.contracts import Answer, Capability, Decoding, Located, ModelAdapter, Question
from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.host import PluginHost
from srum_plugins.marking import boxes_marked, crops_marked
from srum_plugins.options import build_options
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Failure, Grounding, Prompt, Region, Score, to_json

DOG, CAT, REST = (
    Region(Box(4, 4, 20.4, 30), "a dog"),
    Region(Box(30, 8, 60.6, 40)),
    Region(Box(0, 0, 64, 64), background=True),
)
GOOD = "reason: a dog\nscore: 0.8"
BOTH = "R1 | a dog | 0.5\nR2 | a cat | -0.5"


class Scripted(ModelAdapter):
    """Answers each call from a list of its own; an answer with ``...`` at its end was cut off there."""

    def __init__(self, *calls: list[str], tokens: int | None = 7) -> None:
        self.calls = list(calls)
        self.tokens = tokens
        self.asked: list[list[Question]] = []
        self.decodings: list[Decoding] = []

    def answer(self, questions, decoding=None):
        self.asked.append(list(questions))
        self.decodings.append(decoding)
        texts = self.calls[len(self.asked) - 1]
        return [Answer(text.removesuffix("..."), text.endswith("..."), self.tokens) for text in texts]


def item(name: str = "c", text: str = "a dog and a cat", side: int = 64) -> Located:
    image = Image.effect_noise((side, side), 60).convert("RGB")
    return Located(Prompt("p", text), Candidate(name, "p", 0, 0, f"{name}.png", side, side), image)


def judge(model: ModelAdapter, *regions: Region, options: RubricOptions | None = None, **settings):
    (found,) = RubricJudge(options or RubricOptions(**settings)).judge([item()], [Grounding("c", regions)], model)
    return found


def test_the_whole_and_all_regions_are_asked_about_in_one_call():
    model = Scripted([GOOD, BOTH, GOOD, "R1 | a cow | 0.1"])
    items = [item("c0"), item("c1")]
    groundings = [Grounding("c0", (DOG, CAT)), Grounding("c1", (DOG,))]
    first, second = RubricJudge(RubricOptions()).judge(items, groundings, model)
    (questions,) = model.asked
    assert questions[0].image is items[0].image and questions[2].image is items[1].image
    assert questions[0].text.startswith("Compare the image with this description: a dog and a cat\n")
    assert "\nR1: a dog at 4 4 20 30\nR2: a part of the image at 30 8 61 40\nLook at" in questions[1].text
    assert questions[1].image.tobytes() == boxes_marked(items[0].image, [DOG.box, CAT.box]).tobytes()
    assert model.decodings == [Decoding(max_tokens=256)]
    assert first.candidate_id == "c0" and first.alpha == Score(0.8, "a dog")
    assert first.local == (Score(0.5, "a dog"), Score(-0.5, "a cat"))
    assert first.raw == (GOOD, BOTH) and first.tokens == 14 and len(first.wording) == 64
    assert second.local == (Score(0.1, "a cow"),) and second.wording == first.wording


def test_retries_ask_only_for_what_is_missing_by_its_own_name_and_at_a_temperature():
    regions = [Region(Box(8 * n, 4, 8 * n + 6, 20), f"thing {n}") for n in range(5)]
    model = Scripted(
        [GOOD, "R1 | x | 0.1\nR2 | x | 0.2\nR3 | x | 30\nR4 | x | 0.4\nR5 | x | 0..."],
        ["R1 | y | 0.9\nR5 | y | 0.5"],
        ["R3 | z | 0.3"],
    )
    found = judge(model, *regions, retries=3, temperature=0.6, top_p=0.8)
    assert found.alpha == Score(0.8, "a dog")
    assert [(score.value, score.reason) for score in found.local] == [
        *((0.1, "x"), (0.2, "x"), (0.3, "z"), (0.4, "x"), (0.5, "y"))
    ]
    (whole, first), (second,), (third,) = model.asked
    assert model.decodings[1:] == [Decoding(0.6, 0.8, 256)] * 2
    marked = [line.split(":")[0] for line in second.text.splitlines() if line.startswith("R") and ":" in line]
    assert marked == ["Regions of it are marked", "R3", "R5"]
    assert "R3: thing 2" in third.text and "R5" not in third.text
    missing = boxes_marked(whole.image, [regions[2].box, regions[4].box], [2, 4])
    assert second.image.tobytes() == missing.tobytes()
    assert len({first.seed, second.seed, third.seed}) == 3
    assert found.raw == (GOOD, *(call[-1].removesuffix("...") for call in model.calls)) and found.tokens == 28


def test_what_stays_missing_is_the_failure_of_its_last_answer():
    model = Scripted(["", "R2 | a cat | 9"], ["score: 4", "I am sorry, I cannot."], ["score: 0.5...", "R1 | a dog"])
    found = judge(model, DOG, CAT)
    assert found.alpha.cause == parsing.TRUNCATED
    assert [score.cause for score in found.local] == [parsing.NO_SCORE, parsing.MISSING_REGION]
    assert len(model.asked) == 3 and len(found.raw) == 6
    assert judge(Scripted(["?", "?"]), DOG, retries=0).alpha == Failure(parsing.NO_SCORE, "'?'")


def test_items_that_are_done_are_not_asked_about_again():
    model = Scripted([GOOD, "R1 | a dog | 1", "?", "R1 | a dog | 1"], [GOOD])
    first, second = RubricJudge(RubricOptions()).judge(
        [item("c0"), item("c1")], [Grounding("c0", (DOG,)), Grounding("c1", (DOG,))], model
    )
    assert len(model.asked[1]) == 1
    assert len(first.raw) == 2 and len(second.raw) == 3 and second.alpha == Score(0.8, "a dog")


def test_without_regions_only_the_whole_is_asked_about_and_the_background_never():
    assert judge(Scripted([GOOD])).local == ()
    assert judge(Scripted([GOOD]), REST).local == (Score(0.0, "background"),)
    model = Scripted([GOOD, "R2 | a dog | 0.5"])
    assert judge(model, REST, DOG).local == (Score(0.0, "background"), Score(0.5, "a dog"))
    assert "R2: a dog at" in model.asked[0][1].text and "R1:" not in model.asked[0][1].text
    assert model.asked[0][1].image.getpixel((3, 10)) == (0x30, 0xA0, 0xFF)  # the colour of R2


def test_crops_are_shown_without_pixel_numbers():
    model = Scripted([GOOD, BOTH])
    judge(model, DOG, CAT, show="crops")
    (whole, regions) = model.asked[0]
    assert regions.image.tobytes() == crops_marked(whole.image, [DOG.box, CAT.box]).tobytes()
    assert "\nR1: a dog\nR2: a part of the image\n" in regions.text and "cut out" in regions.text


def test_thinking_is_asked_for_and_has_tokens_of_its_own():
    thought = "<think>R1 | a dog | -1.0</think>\n"
    model = Scripted(["<think>maybe score: 0.1</think>" + GOOD, thought + "R1 | a dog | 1.0"])
    found = judge(model, DOG, think=True, max_tokens=50, think_tokens=100)
    assert found.alpha.value == 0.8 and found.local[0].value == 1.0
    assert all(question.text.endswith(f"\n{THINK}") for question in model.asked[0])
    assert model.decodings[0].max_tokens == 150
    assert judge(Scripted([GOOD]), max_tokens=None).alpha.value == 0.8


def test_a_second_run_gives_the_same_bytes():
    class Drawn(OracleModel):
        """Answers by the seed alone."""

        def answer(self, questions, decoding=None):
            return [
                Answer(
                    f"reason: {question.seed}\nscore: {question.seed % 3}\nR1 | x | {question.seed % 3}", tokens=None
                )
                for question in questions
            ]

    def run(names: list[str], seed: int = 0) -> list[str]:
        judge = RubricJudge(RubricOptions(retries=6, seed=seed))
        found = judge.judge([item(name) for name in names], [Grounding(name, (DOG,)) for name in names], Drawn())
        return [json.dumps(to_json(judgement), sort_keys=True) for judgement in found]

    names = [f"c{index}" for index in range(6)]
    assert run(names) == run(names) == [run([name])[0] for name in names]
    assert len(set(run(names))) == 6
    assert run(names, seed=1) != run(names)
    assert '"tokens": null' in run(names)[0]


def test_every_question_has_a_seed_of_its_own():
    seeds = set()
    for seed in (0, 1):
        model = Scripted(*[["?"] * 4] * 3)
        items, groundings = [item("c0"), item("c1")], [Grounding("c0", (DOG,)), Grounding("c1", (DOG,))]
        RubricJudge(RubricOptions(seed=seed)).judge(items, groundings, model)
        seeds |= {question.seed for call in model.asked for question in call}
    assert len(seeds) == 2 * 3 * 4


def test_an_answer_may_begin_with_the_lines_that_show_its_form():
    model = Scripted([f"{GLOBAL.splitlines()[-1]}\n{GOOD}", f"{REGIONS.splitlines()[-1]}\n{BOTH}"])
    found = judge(model, DOG, CAT)
    assert found.alpha == Score(0.8, "a dog") and [score.value for score in found.local] == [0.5, -0.5]


def test_the_wording_is_a_hash_of_all_that_is_asked_in():
    settings = [
        {},
        {"think": True},
        {"show": "crops"},
        {"global_template": "How good is {text}?"},
        {"regions_template": "How good are {regions}?"},
        {"region_template": "{name}: {phrase}"},
    ]
    assert len({judge(Scripted([GOOD]), **each).wording for each in settings}) == len(settings)
    assert judge(Scripted([GOOD]), retries=5).wording == judge(Scripted([GOOD])).wording


def test_a_prompt_or_a_phrase_is_never_a_placeholder():
    model = Scripted([GOOD, "R1 | a dog | 1.0"])
    region = dataclasses.replace(DOG, phrase="a {text}\nand {x0}")
    RubricJudge(RubricOptions()).judge([item(text="{regions} {name}")], [Grounding("c", (region,))], model)
    assert "description: {regions} {name}\n" in model.asked[0][1].text
    assert "R1: a {text} and {x0} at 4 4 20 30\n" in model.asked[0][1].text


def test_a_model_must_be_there_and_answer_everything():
    with pytest.raises(ContractError, match="the judge 'rubric' needs a model"):
        RubricJudge(RubricOptions()).judge([item()], [Grounding("c", ())], None)
    with pytest.raises(ContractError, match="the model answered 1 of 2 questions"):
        judge(Scripted([GOOD]), DOG)
    assert RubricJudge(RubricOptions()).judge([], [], Scripted()) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"think_tokens": 0}, "think_tokens must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"think": True, "max_tokens": None}, "max_tokens must be a number with think"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"show": "numbers"}, "show"),
        ({"global_template": "How good?"}, "global_template must contain {text}"),
        ({"regions_template": "How good?"}, "regions_template must contain {regions}"),
        ({"region_template": "{phrase}"}, "region_template must contain {name}"),
        ({"region_template": "{name} {phrase} {x0}", "show": "crops"}, "region_template must name no sides"),
    ],
)
def test_settings_that_make_no_sense(settings, complaint):
    with pytest.raises(ConfigError, match=rf"judge\.{complaint}"):
        build_options(RubricOptions, settings, "judge")


def test_the_provider():
    host = PluginHost()
    host.register(srum_rubric.plugin, "rubric")
    provider = host.get(Kind.JUDGE, "rubric").provider
    assert [provider.name] == [each.name for each in srum_judges()]
    assert provider.needs(RubricOptions()) == {Capability.ANSWER}
    assert isinstance(provider.factory(build_options(provider.options, {"show": "crops"}, "judge")), RubricJudge)


# --- docs/judges.md ---------------------------------------------------------------------------------------------------
DOCS = (Path(__file__).parents[1] / "docs/judges.md").read_text().split("\n## `rubric`")[1].split("\n## ")[0]


def test_every_option_is_documented_with_its_default():
    assert re.findall(
        r"^\| `(\w+)` \| `?(.*?)`? \|", DOCS.split("### Options")[1].split("\n### ")[0], re.MULTILINE
    ) == [
        (field.name, "the given wording" if "template" in field.name else str(field.default).lower())
        for field in dataclasses.fields(RubricOptions)
    ]


def test_every_cause_is_documented():
    table = DOCS.split("### What is a failure")[1]
    causes = {value for name, value in vars(parsing).items() if name.isupper() and not name.startswith("_")}
    assert set(re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE)) == causes


def test_the_documented_wording_and_its_answer():
    shown = re.findall(r"^```text\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    asked_whole, whole, asked_regions, regions = (block.removesuffix("\n") for block in shown)
    assert asked_whole == GLOBAL.replace("{text}", "a dog beside a red bench")
    assert asked_regions.splitlines()[-1] == REGIONS.splitlines()[-1]
    model = Scripted([whole, regions], ["R2 | a bench, but a brown one | -0.6"], tokens=None)
    (found,) = RubricJudge(RubricOptions()).judge(
        [item(text="a dog beside a red bench", side=1024)],
        [Grounding("c", (Region(Box(96, 310, 402, 700), "dog"), Region(Box(380, 288, 960, 720), "red bench")))],
        model,
    )
    assert model.asked[0][1].text == asked_regions
    record = {**to_json(found), "judge": "rubric", "version": "0.1.0"}
    (printed,) = re.findall(r"^```json\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert json.loads(printed) == {**record, "wording": record["wording"][:12] + "..."}
