"""Our judges keep the contract, and the suite sees those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from loopback import Loopback, Request, Response, completion

from srum_plugins import hookimpl
from srum_plugins.contracts import Capability, Decoding, Judge, Located, ModelAdapter, Question
from srum_plugins.errors import CapabilityError
from srum_plugins.providers import Provider
from srum_plugins.records import Failure, Grounding, Judgement, Score
from srum_plugins.testing.judges import JudgeConformance
from srum_plugins.testing.scripted import Nonsense, ScriptedModel


class TestChoice(JudgeConformance):
    name = "choice"


class TestRubric(JudgeConformance):
    name = "rubric"


class TestRubricOfCrops(JudgeConformance):
    name = "rubric"
    options = {"show": "crops", "think": True}


class TestQuestions(JudgeConformance):
    name = "questions"

    @staticmethod
    def talk(question: Question, share: float) -> str:
        return "Is it there?\nIs it red?"


class TestHttp(JudgeConformance):
    name = "http"
    asks = True
    examples = 5  # each asks a server
    speaker: ClassVar[ScriptedModel]
    server: ClassVar[Loopback]

    @classmethod
    def model(
        cls, can: frozenset[Capability], *, nonsense: Nonsense | None = None, seed: int = 0
    ) -> ModelAdapter | None:
        cls.speaker = ScriptedModel(cls.talk, nonsense=nonsense, seed=seed)
        return None

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        return {"url": cls.server.url, "model": "tiny", "cache": None, "retries": 0, "backoff": 0.01}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def serve(cls) -> Iterator[None]:
        """A server that says what the scripted model does of the text and the picture that it is sent."""

        def script(request: Request) -> Response:
            content = request.body["messages"][0]["content"]
            (answer,) = cls.speaker.answer([Question(None, str(content))])
            return completion(answer.text, "length" if answer.truncated else "stop")

        with pytest.MonkeyPatch.context() as patch:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
                patch.delenv(name, raising=False)
            cls.server = Loopback(script)
            yield
            cls.server.close()


# --- what the suite sees ------------------------------------------------------------------------------------------
Say = Callable[[Sequence[Located], Sequence[Grounding], ModelAdapter], list[Judgement]]


class Broken(JudgeConformance):
    """A judge that is one function, and asks for open answers."""

    name = "broken"

    @staticmethod
    def talk(question: Question, share: float) -> str:
        return f"{share:.3f}"


def judge(say: Say) -> Any:
    class One(Judge):
        def judge(
            self, items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter | None
        ) -> list[Judgement]:
            assert model is not None
            return say(items, groundings, model)

    class Plugin:
        @hookimpl
        def srum_judges(self) -> list[Provider]:
            needs = frozenset({Capability.ANSWER})
            return [Provider("broken", "breaks", lambda options: One(), needs=lambda options: needs)]

    return Plugin()


def number(text: str, otherwise: float | None) -> Score | Failure:
    """The score that a text is; for what is none, this number, or a failure."""
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if 0.0 <= value <= 1.0:
        return Score(value)
    return Failure("no score") if otherwise is None else Score(otherwise)


def open_judge(otherwise: float | None, *, regions: int = 0, seeded: bool = True) -> Say:
    """Reads a number; with ``regions`` it has so many local scores too many, and without a seed the batch counts."""

    def say(items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter) -> list[Judgement]:
        asked = [Question(item.image, item.prompt.text + ("" if seeded else f" {len(items)}")) for item in items]
        found = [number(answer.text, otherwise) for answer in model.answer(asked)]
        return [
            Judgement(item.candidate.id, alpha, (Score(0.0),) * (len(grounding.regions) + regions))
            for item, grounding, alpha in zip(items, groundings, found, strict=True)
        ]

    return say


def undaunted(items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter) -> list[Judgement]:
    """Has a score where the model refuses to answer."""
    try:
        return open_judge(None)(items, groundings, model)
    except CapabilityError:
        return of_itself(items, groundings, model)


def of_itself(items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter) -> list[Judgement]:
    """Asks nobody."""
    pairs = zip(items, groundings, strict=True)
    return [Judgement(item.candidate.id, Score(0.5), (Score(0.0),) * len(one.regions)) for item, one in pairs]


EACH = Broken.test_every_candidate_has_a_judgement_and_every_region_a_score
SAME = Broken.test_the_same_image_has_the_same_scores_whenever_and_with_whatever_it_comes
CANNOT = Broken.test_a_model_that_cannot_do_what_is_needed_is_refused


def run(say: Say, folder: Path, test: Callable[..., None], **more: Any) -> None:
    class One(Broken):
        plugin = judge(say)

    subject = One.open(folder)
    made = {} if more or test is CANNOT else {"judge": subject.make(Judge)}
    test(One(), subject, **made, **more)


@pytest.mark.parametrize(
    ("say", "test", "words"),
    [
        (open_judge(None, regions=1), EACH, "local scores for 0 regions"),
        (open_judge(None, seeded=False), SAME, "alone another judgement"),
        (lambda items, groundings, model: [Judgement("x", Score(0.5), ())] * len(items), EACH, "for the candidate"),
        (lambda items, groundings, model: [Judgement("x", Score(1.5), ())], EACH, "raised ContractError: alpha must"),
        (undaunted, CANNOT, "took a model that can do nothing"),
        (of_itself, CANNOT, "judge: needs answer, and asked the model nothing"),
    ],
)
def test_a_breach_is_told_with_plugin_method_and_mend(
    tmp_path: Path, say: Say, test: Callable[..., None], words: str
) -> None:
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        run(say, tmp_path, test)
    assert "the judge 'broken' of" in str(told.value) and "mend: " in str(told.value)


@pytest.mark.parametrize("nonsense", ["empty", "huge numbers"])
def test_a_number_made_of_nonsense_is_seen_and_a_failure_is_right(tmp_path: Path, nonsense: str) -> None:
    test = Broken.test_nonsense_is_a_failure_and_never_a_number
    run(open_judge(None), tmp_path, test, nonsense=nonsense)
    with pytest.raises(pytest.fail.Exception, match=rf"made the alpha 0.5 .*nonsense \({nonsense}\)"):
        run(open_judge(0.5), tmp_path, test, nonsense=nonsense)


def test_answers_in_a_form_that_the_judge_does_not_ask_for_show_nothing(tmp_path: Path) -> None:
    class Mute(Broken):
        plugin = judge(open_judge(None))
        talk = staticmethod(lambda question, share: "well")

    with pytest.raises(pytest.fail.Exception, match="give the test class a `talk`"):
        Mute().test_nonsense_is_a_failure_and_never_a_number(Mute.open(tmp_path), "empty")


def drawn_judge(items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter) -> list[Judgement]:
    """Draws its answers with the candidate's seed, and refuses every second candidate."""
    found = []
    for item, grounding in zip(items, groundings, strict=True):
        boxes = [None, *(region.box for region in grounding.regions)]
        asked = [Question(item.image, item.prompt.text, box=box, seed=item.candidate.seed) for box in boxes]
        answers = model.answer(asked, Decoding(temperature=1.0))
        alpha, *local = [Failure("cut off") if one.truncated else number(one.text, None) for one in answers]
        refused = Failure("refused") if item.candidate.seed % 2 else alpha
        found.append(Judgement(item.candidate.id, refused, tuple(local)))
    return found


class TestDrawn(Broken):
    """A judge that is drawn and fails for some keeps the contract."""

    plugin = judge(drawn_judge)
