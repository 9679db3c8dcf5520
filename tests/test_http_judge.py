"""The judge ``http`` in a run: what is recorded, what a rerun sends, and where its key does not go."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import srum_http.plugin
import srum_rubric.plugin
import yaml
from engine_fixtures import contents, toy_config, toy_host, toy_run, write_config
from loopback import Loopback, Request, Response, completion, error
from PIL import Image
from srum_http import endpoint
from srum_http.judge import HttpJudge
from srum_http.messages import MALFORMED, REFUSED
from srum_http.options import EndpointOptions, HttpOptions
from srum_rubric.judge import RubricJudge
from srum_rubric.options import RubricOptions

from srum_plugins.config import load
from srum_plugins.contracts import Answer, Decoding, Located, Question
from srum_plugins.errors import CapabilityError, StageError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Failure, Grounding, Judgement, Prompt, Region, Score, from_json
from srum_plugins.tracking import plugin as tracking_plugin

KEY = "sk-0123456789abcdef-SECRET"
TWO = (Region(Box(0, 0, 4, 8), "a red tile"), Region(Box(4, 0, 8, 8), "a blue tile"))
WHOLE = "reason: a tile\nscore: 0.75"
BOTH = "R1 | red | 0.5\nR2 | blue | -1.0"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Script:
    """What the server answers to each kind of question; both may be changed while it runs."""

    def __init__(self) -> None:
        self.whole: Response = completion(WHOLE)
        self.regions: Response = completion(BOTH)

    def __call__(self, request: Request) -> Response:
        return self.whole if request.text.startswith("Compare the image") else self.regions


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[Loopback]:
    made = Loopback(script)
    yield made
    made.close()


def options(server: Loopback, **settings: Any) -> HttpOptions:
    quick = {"timeout": 5.0, "backoff": 0.01, "attempts": 2, "cache": None}
    return HttpOptions(url=server.url, model="tiny", **{**quick, **settings})


def judged(server: Loopback, *regions: Region, name: str = "c", **settings: Any) -> Judgement:
    image = Image.new("RGB", (8, 8), "red")
    item = Located(Prompt("p", "a red tile"), Candidate(name, "p", 0, 0, "c.png", 8, 8), image)
    (found,) = HttpJudge(options(server, **settings), "").judge([item], [Grounding(name, regions)], None)
    return found


# --- one candidate ----------------------------------------------------------------------------------------------------
def test_it_asks_and_reads_as_the_rubric_does(server: Loopback) -> None:
    found = judged(server, *TWO)
    assert found.alpha == Score(0.75, "a tile")
    assert found.local == (Score(0.5, "red"), Score(-1.0, "blue"))
    assert (found.raw, found.tokens) == ((WHOLE, BOTH), 8)

    asked: list[Question] = []

    def ask(questions: Any, decoding: Decoding) -> list[Answer | Failure]:
        asked.extend(questions)
        return [Answer(WHOLE, tokens=4), Answer(BOTH, tokens=4)]

    image = Image.new("RGB", (8, 8), "red")
    item = Located(Prompt("p", "a red tile"), Candidate("c", "p", 0, 0, "c.png", 8, 8), image)
    assert RubricJudge(RubricOptions()).judge_with(ask, [item], [Grounding("c", TWO)]) == [found]
    assert {request.text for request in server.requests} == {question.text for question in asked}
    assert {request.body["max_tokens"] for request in server.requests} == {256}


def test_the_rubrics_options_are_its_own(server: Loopback) -> None:
    judged(server, think=True, max_tokens=100, think_tokens=50, global_template="Compare the image: {text} ?")
    (request,) = server.requests
    assert request.text == "Compare the image: a red tile ?\nThink first, between <think> and </think>."
    assert request.body["max_tokens"] == 150


def test_what_cannot_be_read_is_asked_again_at_a_temperature(server: Loopback, script: Script) -> None:
    script.regions = completion("R1 | red | 0.5\nR2 | blue | nine")
    found = judged(server, *TWO, retries=1)
    assert found.local[0] == Score(0.5, "red")
    assert isinstance(found.local[1], Failure) and found.local[1].cause == "no score"
    first, second = (request.body for request in server.requests if "Regions of it" in request.text)
    assert (first["temperature"], second["temperature"], second["top_p"]) == (0.0, 0.7, 0.9)
    assert "seed" not in first and second["seed"] >= 0
    assert len(found.raw) == 3


@pytest.mark.parametrize(
    ("response", "failure", "requests"),
    [
        (error(400, "bad image"), Failure("http status", "400: bad image"), 1),
        (error(500, "oops"), Failure("http status", "500: oops"), 2),
        (completion("", "content_filter"), Failure("refused", "content_filter"), 1),
        (Response(b"{}"), Failure("malformed response", "no choices[0].message in it: {}"), 2),
    ],
)
def test_a_question_without_answer_fails_its_own_scores_and_is_not_asked_again(
    server: Loopback, script: Script, response: Response, failure: Failure, requests: int
) -> None:
    script.regions = response
    found = judged(server, *TWO)
    assert found.alpha == Score(0.75, "a tile")
    assert found.local == (failure, failure)
    assert (found.raw, found.tokens) == ((WHOLE,), 4)
    assert len(server.requests) == 1 + requests

    script.regions, script.whole = completion(BOTH), response
    found = judged(server, *TWO)
    assert found.alpha == failure
    assert found.local == (Score(0.5, "red"), Score(-1.0, "blue"))
    assert found.raw == (BOTH,)


def test_an_answer_that_was_cut_off_is_truncated(server: Loopback, script: Script) -> None:
    script.whole = completion("reason: a tile\nscore: 0.", "length")
    found = judged(server, retries=0)
    assert isinstance(found.alpha, Failure) and found.alpha.cause == "truncated"


def test_thoughts_that_the_server_took_out_are_recorded_and_not_read(server: Loopback, script: Script) -> None:
    script.whole = completion("score: 0.25", reasoning_content="score: 1.0 ?")
    found = judged(server)
    assert found.alpha == Score(0.25, "")
    assert found.raw == ("<think>score: 1.0 ?</think>score: 0.25",)


# --- docs/judges.md ---------------------------------------------------------------------------------------------------
DOCS = (Path(__file__).parents[1] / "docs/judges.md").read_text().split("\n## `http`")[1].split("\n## ")[0]


def test_every_option_is_documented_with_its_default() -> None:
    own = dataclasses.fields(EndpointOptions)
    shown = {"url": "", "model": "", "extra": "{}", "budget_requests": "null", "budget_tokens": "null"}
    assert re.findall(r"^\| `(\w+)` \| `?(.*?)`? ?\|", DOCS.split("### The key")[0], re.MULTILINE) == [
        (field.name, shown.get(field.name, str(field.default))) for field in own
    ]


def test_every_cause_is_documented() -> None:
    table = DOCS.split("### Failures")[1].split("### The cache")[0]
    causes = {MALFORMED, REFUSED, endpoint.TIMEOUT, endpoint.UNREACHABLE, endpoint.DISCONNECTED, endpoint.STATUS}
    assert set(re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE)) == causes | {endpoint.BUDGET}


def test_the_documented_settings_are_read(tmp_path: Path) -> None:
    host = toy_host()
    host.register(srum_http.plugin, "http")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    (extra,) = re.findall(r"`extra: (\{.*?\})`", DOCS)
    config = load(write_config(tmp_path, **yaml.safe_load(block)), [f"judge.extra={extra}"], host)
    assert config.providers[Kind.JUDGE].options.extra["max_completion_tokens"] == 2048
    assert config.providers[Kind.JUDGE].options.extra["temperature"] is None
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.resolved()))
    assert load(again, (), host).resolved() == config.resolved()


# --- a run ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def host() -> PluginHost:
    host = toy_host()
    host.register(srum_http.plugin, "http")
    host.register(srum_rubric.plugin, "rubric")
    return host


def run_config(folder: Path, server: Loopback, cache: Path | None, **settings: Any) -> None:
    judge = {"name": "http", "url": server.url, "model": "tiny", "key_variable": "TOY_KEY", "backoff": 0.01}
    judge |= {"cache": None if cache is None else str(cache), "attempts": 1, **settings}
    write_config(folder, judge=judge)


def judge_stage(folder: Path, host: PluginHost, *overrides: str) -> None:
    for stage in ("generate", "ground", "judge"):
        toy_run(folder, *overrides, only=stage, host=host)


def records(folder: Path) -> list[Judgement]:
    paths = sorted((folder / "run/stages/judge").glob("*/part-*.jsonl"))
    return [from_json(Judgement, json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def test_a_run_and_its_rerun_out_of_the_cache(tmp_path: Path, server: Loopback, host: PluginHost) -> None:
    cache = tmp_path / "cache"
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        run_config(folder, server, cache)
        judge_stage(folder, host)
        if name == "first":
            sent = len(server.requests)
    assert len(server.requests) == sent > 0
    assert contents(tmp_path / "first/run") == contents(tmp_path / "second/run")
    judged = records(tmp_path / "first")
    assert {(one.judge, len(one.raw), one.tokens) for one in judged} <= {("http", 2, 8), ("http", 1, 4)}
    assert len({one.wording for one in judged}) == 1


def test_without_a_cache_everything_is_asked_again(tmp_path: Path, server: Loopback, host: PluginHost) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run_config(tmp_path / name, server, None)
        judge_stage(tmp_path / name, host)
    texts = sorted(request.text for request in server.requests)
    assert texts[::2] == texts[1::2]


def test_a_higher_budget_goes_on_where_the_lower_one_ended(tmp_path: Path, server: Loopback, host: PluginHost) -> None:
    run_config(tmp_path, server, tmp_path / "cache", budget_requests=5, concurrency=1)
    judge_stage(tmp_path, host)
    left = [one for one in records(tmp_path) for score in (one.alpha, *one.local) if isinstance(score, Failure)]
    assert len(server.requests) == 5 and left
    toy_run(tmp_path, "judge.budget_requests=100", only="judge", host=host)
    questions = {(request.text, json.dumps(request.body["messages"])) for request in server.requests}
    assert len(questions) == len(server.requests)  # nothing was asked twice


def test_a_refused_key_stops_the_run_which_goes_on_when_it_is_set(
    tmp_path: Path, server: Loopback, script: Script, host: PluginHost
) -> None:
    run_config(tmp_path, server, None)
    well, script.whole, script.regions = (script.whole, script.regions), error(401, "no key"), error(401, "no key")
    with pytest.raises(StageError, match="TOY_KEY"):
        judge_stage(tmp_path, host)
    assert not records(tmp_path)
    script.whole, script.regions = well
    toy_run(tmp_path, only="judge", host=host)
    assert all(isinstance(one.alpha, Score) for one in records(tmp_path))


def test_it_asks_nothing_of_the_adapter_and_shares_an_ensemble(
    tmp_path: Path, server: Loopback, host: PluginHost
) -> None:
    run_config(tmp_path, server, tmp_path / "cache")
    with pytest.raises(CapabilityError, match="judge 'rubric'"):  # the toy model writes no answers
        toy_run(tmp_path, "judge=rubric", only="judge", host=host)
    http = f"{{name: http, url: '{server.url}', model: tiny, cache: '{tmp_path / 'cache'}'}}"
    judge_stage(tmp_path, host, f"judge=[toy-choice, {http}]")
    (one, *_) = records(tmp_path)
    assert one.judge == "toy-choice+http"
    assert one.raw[0] == f"http: {WHOLE}"
    assert isinstance(one.alpha, Score) and one.alpha.spread is not None


# --- the key ----------------------------------------------------------------------------------------------------------
def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path,
    server: Loopback,
    script: Script,
    host: PluginHost,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TOY_KEY", KEY)
    host.register(tracking_plugin, "tracking")
    script.regions = completion(f"{BOTH}\nThe key is {KEY}.")  # as no server should
    run_config(tmp_path, server, tmp_path / "cache")
    judge_stage(tmp_path, host, "tracking.enabled=true")
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}

    script.whole = error(401, f"Incorrect API key provided: {KEY}")
    with pytest.raises(StageError) as caught:
        toy_run(tmp_path, "tracking.enabled=true", "judge.model=other", only="judge", host=host)
    config = toy_config(tmp_path, host=host)
    client = HttpJudge(config.providers[Kind.JUDGE].options, KEY)
    told = [
        "".join(traceback.format_exception(caught.value)),
        repr(config),
        json.dumps(config.resolved()),
        repr(client),
        *capfd.readouterr(),
        *(record.getMessage() for record in caplog.records),
        *(str(record.exc_info) for record in caplog.records),
    ]
    assert not [text for text in told if KEY in text]
    assert any("httpcore2" in record.name for record in caplog.records)

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    names = {path.name for path in files}
    assert {"mlflow.db", "config.yaml", "manifest.json", "part-00000.jsonl"} <= names
    database = (tmp_path / "mlflow.db").read_bytes()
    assert b"TOY_KEY" in database and b"401" in database  # what is tracked is there
    assert any("(key)" in answer for one in records(tmp_path) for answer in one.raw)
