"""The client of the judge ``http`` against servers on loopback that behave and that do not."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, Request, Response, completion, error, loopback
from PIL import Image
from srum_http import endpoint as endpoint_module
from srum_http.endpoint import Endpoint, _retry_after
from srum_http.messages import MALFORMED, Reply, data_url, parse_reply, request_body, shortened
from srum_http.options import HttpOptions

from srum_plugins.contracts import GREEDY, Answer, Decoding, Question
from srum_plugins.errors import ConfigError, ContractError, StageError
from srum_plugins.options import build_options
from srum_plugins.records import Box, Failure

KEY = "sk-0123456789abcdef-SECRET"
RED = Image.new("RGB", (6, 4), "red")
Serve = Callable[[Callable[[Request], Response]], Loopback]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Loopback] = []

    def start(script: Callable[[Request], Response]) -> Loopback:
        servers.append(Loopback(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def options(url: str, **settings: Any) -> HttpOptions:
    quick = {"timeout": 5.0, "backoff": 0.01, "longest_wait": 0.2, "cache": None, "attempts": 3}
    return HttpOptions(url=url, model="tiny", **{**quick, **settings})


def asked(url: str, *texts: str, key: str = "", **settings: Any) -> list[Answer | Failure]:
    return Endpoint(options(url, **settings), key).ask([Question(RED, text) for text in texts], GREEDY)


# --- what is sent and what is read -----------------------------------------------------------------------------------
def test_a_question_is_sent_as_image_and_text_and_its_answer_read(serve: Serve) -> None:
    server = serve(lambda request: completion("a red tile\nscore: 1.0"))
    assert asked(server.url, "What is it?", key=KEY) == [Answer("a red tile\nscore: 1.0", tokens=4)]
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    image, text = request.body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (sent.format, sent.size, sent.getpixel((0, 0))) == ("PNG", (6, 4), (255, 0, 0))
    assert {name: value for name, value in request.body.items() if name != "messages"} == {
        "model": "tiny",
        "temperature": 0.0,
    }


def test_without_a_key_no_key_is_sent(serve: Serve) -> None:
    server = serve(lambda request: completion())
    asked(server.url, "?")
    assert "authorization" not in server.requests[0].headers


def test_a_trailing_slash_of_the_url_does_not_matter(serve: Serve) -> None:
    server = serve(lambda request: completion())
    asked(f"{server.url}/", "?")
    assert server.requests[0].path == "/v1/chat/completions"


@given(
    st.floats(0, 2),
    st.floats(0.01, 1),
    st.none() | st.integers(1, 4096),
    st.lists(st.sampled_from(["\n", "END"]), unique=True).map(tuple),
    st.integers(0, 2**63 - 1),
)
def test_decoding_becomes_sampling_fields(
    temperature: float, top_p: float, limit: int | None, stop: tuple[str, ...], seed: int
) -> None:
    decoding = Decoding(temperature, top_p, limit, stop)
    body = request_body(Question(None, "hello", seed=seed), decoding, "m", "png", {})
    assert body.pop("messages") == [{"role": "user", "content": "hello"}]
    wanted: dict[str, Any] = {"model": "m", "temperature": temperature}
    if temperature > 0:
        wanted |= {"top_p": top_p, "seed": seed % 2**31}
    if limit is not None:
        wanted["max_tokens"] = limit
    if stop:
        wanted["stop"] = list(stop)
    assert body == wanted


def test_extra_fields_are_added_and_null_takes_one_out() -> None:
    extra = {"temperature": None, "max_tokens": None, "max_completion_tokens": 9, "reasoning_effort": "low"}
    body = request_body(Question(None, "?"), Decoding(max_tokens=5), "m", "png", extra)
    assert set(body) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}


def test_a_jpeg_is_sent_as_one() -> None:
    head, _, data = data_url(RED.convert("RGBA"), "jpeg").partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"


@pytest.mark.parametrize("question", [Question(RED, "?", ("yes", "no")), Question(RED, "?", box=Box(0, 0, 1, 1))])
def test_what_a_message_cannot_hold_is_refused(question: Question) -> None:
    with pytest.raises(ContractError, match="not with choices or a box"):
        request_body(question, GREEDY, "m", "png", {})


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (completion("half an", "length"), Answer("half an", truncated=True, tokens=4)),
        (completion(None, "length"), Answer("", truncated=True, tokens=4)),
        (completion("fine", None, None), Answer("fine")),
        (completion("fine", "stop", {"completion_tokens": "4"}), Answer("fine")),
        (completion("fine", "stop", {"completion_tokens": True}), Answer("fine")),
        (completion("fine", "stop", {"completion_tokens": -1}), Answer("fine")),
        (completion("", "content_filter"), Failure("refused", "content_filter")),
        (completion(None, refusal="I must not"), Failure("refused", "content_filter: I must not")),
        (completion("7", reasoning_content="3 + 4"), Answer("<think>3 + 4</think>7", tokens=4)),
        (completion("7", reasoning="3 + 4"), Answer("<think>3 + 4</think>7", tokens=4)),
        (completion(None, "length", reasoning="3 +"), Answer("<think>3 +", truncated=True, tokens=4)),
        (completion("half \ud800 pair"), Answer("half ? pair", tokens=4)),
    ],
)
def test_what_a_response_means(serve: Serve, response: Response, found: Answer | Failure) -> None:
    server = serve(lambda request: response)
    assert asked(server.url, "?") == [found]
    assert len(server.requests) == 1  # every one is an answer, and final


def test_stop_texts_are_cut_where_a_server_leaves_them(serve: Serve) -> None:
    server = serve(lambda request: completion("one END two"))
    decoding = Decoding(stop=("END",))
    assert Endpoint(options(server.url), "").ask([Question(None, "?")], decoding) == [Answer("one ", tokens=4)]


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "usage", "total_tokens", "refusal"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_breaks_the_reader(data: bytes) -> None:
    found = parse_reply(data)
    if isinstance(found, Failure):
        assert found.cause == MALFORMED
    else:
        assert found.text.encode()


# --- order, concurrency, one request for what is the same ------------------------------------------------------------
def test_answers_come_in_the_order_of_questions_and_no_more_at_a_time_than_allowed(serve: Serve) -> None:
    def script(request: Request) -> Response:
        number = int(request.text)
        return Response(completion(f"answer {number}").body, wait=0.06 if number % 3 == 0 else 0.02)

    server = serve(script)
    found = asked(server.url, *map(str, range(20)), concurrency=4)
    assert found == [Answer(f"answer {number}", tokens=4) for number in range(20)]
    assert 2 <= server.most_busy <= 4


def test_the_same_request_is_sent_once(serve: Serve) -> None:
    server = serve(lambda request: completion(f"number {request.number}"))
    found = asked(server.url, "a", "b", "a", "a", concurrency=1)
    assert found == [Answer(f"number {number}", tokens=4) for number in (0, 1, 0, 0)]
    assert len(server.requests) == 2


# --- servers that misbehave ------------------------------------------------------------------------------------------
def once_then_well(first: Response) -> Callable[[Request], Response]:
    """Answers the first request so, and those after it well."""
    return lambda request: completion("well") if request.number else first


@pytest.mark.parametrize(
    "first",
    [
        error(500, "out of memory"),
        error(503, "loading"),
        error(429, "slow down"),
        error(408, "late"),
        Response(b'{"choices": [{"mess'),
        Response(b"[]"),
        Response(b"<html>proxy</html>"),
        completion(["no", "text"]),
        Response(b'{"choices": []}'),
        Response(b"", length=100, hang_up=True),
        Response(b'{"choi', length=100, hang_up=True),
        Response(b"not gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_what_may_pass_is_tried_again(serve: Serve, first: Response) -> None:
    server = serve(once_then_well(first))
    assert asked(server.url, "?") == [Answer("well", tokens=4)]
    assert len(server.requests) == 2


def misbehaving(response: Response) -> Callable[[Request], Response]:
    """Answers well what is not asked about, so that the endpoint counts as one that works."""
    return lambda request: completion("well") if request.text == "first" else response


@pytest.mark.parametrize(
    ("response", "cause", "detail", "requests"),
    [
        (error(500, "out of memory"), "http status", "500: out of memory", 3),
        (error(400, "image too large"), "http status", "400: image too large", 1),
        (Response(b'{"detail": "no"}', 422), "http status", "422: no", 1),
        (Response(b"<h1>\n Bad</h1>", 502), "http status", "502: <h1> Bad</h1>", 3),
        (Response(b"", 500), "http status", "500", 3),
        (Response(b'{"choices": 1}'), "malformed response", 'no choices[0].message in it: {"choices": 1}', 3),
        (Response(b"x", length=100, hang_up=True), "disconnected", "", 3),
        (Response(wait=9.0), "timeout", "no whole answer in 0.15 s", 3),
    ],
)
def test_what_stays_wrong_is_a_failure_of_that_question(
    serve: Serve, response: Response, cause: str, detail: str, requests: int
) -> None:
    server = serve(misbehaving(response))
    patience = {"timeout": 0.15} if response.wait else {}
    found = asked(server.url, "first", "second", **patience)
    assert found[0] == Answer("well", tokens=4)
    assert isinstance(found[1], Failure)
    assert found[1].cause == cause
    assert found[1].detail == detail or cause == "disconnected"
    assert sum(request.text == "second" for request in server.requests) == requests


def test_bytes_that_keep_coming_do_not_keep_a_request_open(serve: Serve) -> None:
    slow = Response(completion("x" * 300).body, wait=0.04, pieces=200)  # eight seconds
    server = serve(misbehaving(slow))
    began = time.monotonic()
    found = asked(server.url, "first", "second", timeout=0.3, attempts=1)
    assert found[1] == Failure("timeout", "no whole answer in 0.3 s")
    assert time.monotonic() - began < 4


def test_a_huge_body_is_not_read_to_its_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "LARGEST", 1000)
    server = serve(misbehaving(completion("x" * 2000)))
    assert asked(server.url, "first", "second", attempts=1)[1] == Failure("malformed response", "more than 1000 bytes")


def test_a_zipped_bomb_counts_with_what_it_becomes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(endpoint_module, "LARGEST", 100_000)
    bomb = Response(gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})
    server = serve(misbehaving(bomb))
    found = asked(server.url, "first", "second", attempts=1)[1]
    assert found == Failure("malformed response", "more than 100000 bytes")


def test_retry_after_is_honoured_and_capped(serve: Serve) -> None:
    server = serve(once_then_well(error(429, "slow down", **{"Retry-After": "1"})))
    began = time.monotonic()
    assert asked(server.url, "?", longest_wait=5.0) == [Answer("well", tokens=4)]
    assert time.monotonic() - began >= 1.0
    server = serve(once_then_well(error(429, "slow down", **{"Retry-After": "3600"})))
    began = time.monotonic()
    assert asked(server.url, "?", longest_wait=0.1) == [Answer("well", tokens=4)]
    assert time.monotonic() - began < 5.0


@given(st.text() | st.integers().map(str) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ GMT"))
def test_any_retry_after_is_seconds(header: str) -> None:
    assert _retry_after(header) >= 0


def test_a_date_is_a_retry_after_too() -> None:
    from email.utils import formatdate

    assert 50 < _retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert _retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


PATIENT = Endpoint(options("http://127.0.0.1:1", backoff=0.5, longest_wait=60.0), "")


@given(st.integers(0, 40), st.floats(0, 1e9))
def test_pauses_grow_are_spread_and_have_an_end(attempt: int, asked_for: float) -> None:
    client = PATIENT
    pause = client._pause("key", attempt, asked_for)
    assert pause == client._pause("key", attempt, asked_for)
    assert min(60.0, max(asked_for, 0.25 * 2**attempt)) <= pause <= min(60.0, max(asked_for, 0.75 * 2**attempt))
    others = {client._pause(str(number), 0, 0.0) for number in range(20)}
    assert len(others) == 20


# --- what ends a run -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("response", "words"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), ["401", "MY_KEY", "is set, but not to a key"]),
        (error(403, "no"), ["403: no", "MY_KEY"]),
        (error(402, "pay"), ["402: pay"]),
        (error(404, "The model `tiny` does not exist."), ["judge.model=tiny", "does not exist", "/v1/models"]),
        (
            Response(b"", 307, {"Location": "http://127.0.0.1:9/v1"}),
            ["redirects to http://127.0.0.1:9/v1", "judge.url"],
        ),
    ],
)
def test_what_every_question_would_meet_stops_at_once(serve: Serve, response: Response, words: list[str]) -> None:
    server = serve(lambda request: response)
    with pytest.raises(StageError) as caught:
        asked(server.url, *map(str, range(200)), key=KEY, key_variable="MY_KEY", concurrency=2)
    assert all(word in str(caught.value) for word in words), caught.value
    assert KEY not in str(caught.value)
    assert len(server.requests) < 20


def test_a_missing_key_is_told_as_such(serve: Serve) -> None:
    server = serve(lambda request: error(401, "no key"))
    with pytest.raises(StageError, match=r"OPENAI_API_KEY \(judge\.key_variable\), which is not set"):
        asked(server.url, "?")


def test_a_redirect_is_not_followed_with_the_key(serve: Serve) -> None:
    other = serve(lambda request: completion())
    server = serve(lambda request: Response(b"", 308, {"Location": f"{other.url}/chat/completions"}))
    with pytest.raises(StageError, match="redirects to"):
        asked(server.url, "?", key=KEY)
    assert other.requests == []


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_endpoint_that_is_not_there_stops_the_run() -> None:
    with pytest.raises(StageError, match=r"answered none of 3 requests: unreachable.*Start or correct it"):
        asked(f"http://127.0.0.1:{closed_port()}/v1", "a", "b", "c")


def test_one_that_never_answered_stops_the_run_and_one_that_did_does_not(serve: Serve) -> None:
    server = serve(lambda request: error(400, "this model takes no images"))
    with pytest.raises(StageError, match="http status, 400: this model takes no images"):
        asked(server.url, "a", "b")
    server = serve(misbehaving(error(400, "bad image")))
    client = Endpoint(options(server.url), "")
    assert client.ask([Question(RED, "first")], GREEDY) == [Answer("well", tokens=4)]
    assert client.ask([Question(RED, "second")], GREEDY) == [Failure("http status", "400: bad image")]


def test_one_that_answered_an_earlier_process_may_fail_at_a_question(serve: Serve, tmp_path: Path) -> None:
    server = serve(misbehaving(error(400, "bad image")))
    for _ in range(2):  # the second finds the first answer in the cache, and would stop at the other again and again
        found = asked(server.url, "first", "second", cache=str(tmp_path))
        assert found[1] == Failure("http status", "400: bad image")


def test_one_that_went_away_stops_the_run() -> None:
    with loopback(lambda request: completion("well")) as server:
        client = Endpoint(options(server.url, attempts=2, timeout=0.5), "")
        client.ask([Question(None, "first")], GREEDY)
    with pytest.raises(StageError, match="unreachable"):
        client.ask([Question(None, "second"), Question(None, "third")], GREEDY)


def test_an_interrupt_ends_what_waits(serve: Serve) -> None:
    """A stop in one thread wakes those that wait for their next attempt."""
    barrier = threading.Event()

    def script(request: Request) -> Response:
        if request.text == "busy":
            barrier.set()
            return error(503, "busy")
        barrier.wait(5)
        return Response(error(401, "no").body, 401, wait=0.1)

    server = serve(script)
    began = time.monotonic()
    with pytest.raises(StageError, match="401"):
        asked(server.url, "busy", "key", concurrency=2, backoff=60.0, longest_wait=60.0)
    assert time.monotonic() - began < 5


# --- budget ----------------------------------------------------------------------------------------------------------
def test_what_is_left_when_the_requests_are_spent_is_a_failure(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(lambda request: completion("well"))
    client = Endpoint(options(server.url, budget_requests=3, concurrency=1), "")
    found = client.ask([Question(None, str(number)) for number in range(5)], GREEDY)
    spent = Failure("budget", "the 3 requests of judge.budget_requests are sent")
    assert found == [Answer("well", tokens=4)] * 3 + [spent] * 2
    assert client.ask([Question(None, "more")], GREEDY) == [spent]
    assert len(server.requests) == 3
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the 3 requests of judge.budget_requests are sent: what is left is recorded as a failure, 'budget'"
    ]


def test_further_attempts_are_requests_too(serve: Serve) -> None:
    server = serve(misbehaving(error(500, "no")))
    client = Endpoint(options(server.url, budget_requests=3, concurrency=1, attempts=5), "")
    found = client.ask([Question(None, "first"), Question(None, "second")], GREEDY)
    assert found[1] == Failure("budget", "the 3 requests of judge.budget_requests are sent")
    assert len(server.requests) == 3


def test_tokens_of_questions_and_answers_count(serve: Serve) -> None:
    server = serve(lambda request: completion("well"))  # 14 tokens each
    found = asked(server.url, *map(str, range(5)), budget_tokens=30, concurrency=1)
    assert found[3:] == [Failure("budget", "42 of the 30 tokens of judge.budget_tokens are spent")] * 2
    assert len(server.requests) == 3


def test_a_budget_that_cannot_be_counted_is_refused(serve: Serve) -> None:
    server = serve(lambda request: completion("well", usage=None))
    with pytest.raises(StageError, match="does not say how many tokens"):
        asked(server.url, "?", budget_tokens=30)


# --- cache -----------------------------------------------------------------------------------------------------------
def test_what_was_answered_is_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request: completion(f"number {request.number}", "length"))
    first = asked(server.url, "a", "b", concurrency=1, cache=str(tmp_path / "cache"))
    assert asked(server.url, "b", "a", cache=str(tmp_path / "cache"), budget_requests=1) == first[::-1]
    assert len(server.requests) == 2
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


def test_the_budget_leaves_out_what_is_kept(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request: completion("well"))
    settings: dict[str, Any] = {"cache": str(tmp_path), "budget_requests": 2, "concurrency": 1}
    for run, answered in enumerate((2, 4, 5)):  # every process gets further
        found = asked(server.url, "a", "b", "c", "d", "e", **settings)
        assert sum(isinstance(one, Answer) for one in found) == answered, run
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"text": "?!"},
        {"image": Image.new("RGB", (6, 4), "blue")},
        {"decoding": Decoding(temperature=0.5)},
        {"decoding": Decoding(max_tokens=7)},
        {"extra": {"min_p": 0.1}},
        {"image_format": "jpeg"},
    ],
)
def test_what_differs_is_asked(serve: Serve, tmp_path: Path, change: dict[str, Any]) -> None:
    server = serve(lambda request: completion("well"))

    def ask(image: Image.Image = RED, text: str = "?", decoding: Decoding = GREEDY, **settings: Any) -> None:
        settings = {"cache": str(tmp_path), "model": "tiny", "url": server.url, "backoff": 0.01, **settings}
        Endpoint(HttpOptions(**settings), "").ask([Question(image, text)], decoding)

    ask()
    ask()
    assert len(server.requests) == 1
    ask(**change)
    ask(**change)
    assert len(server.requests) == 2


def test_sampled_answers_are_kept_by_seed(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request: completion(f"number {request.number}"))
    client = Endpoint(options(server.url, cache=str(tmp_path)), "")
    warm = Decoding(temperature=1.0)
    found = [client.ask([Question(None, "?", seed=seed)], warm)[0] for seed in (1, 2, 1)]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"request": "x"}', b'{"reply": {"text": "y"}}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_damaged_entry_is_asked_anew_and_mended(serve: Serve, tmp_path: Path, damage: bytes) -> None:
    server = serve(lambda request: completion("well"))
    asked(server.url, "?", cache=str(tmp_path))
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert asked(server.url, "?", cache=str(tmp_path)) == [Answer("well", tokens=4)]
    assert len(server.requests) == 2
    assert path.read_bytes() == whole


def test_an_entry_of_another_request_is_not_taken(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request: completion(request.text))
    asked(server.url, "a", "b", cache=str(tmp_path))
    one, other = sorted(tmp_path.rglob("*.json"))
    one.write_bytes(other.read_bytes())
    assert asked(server.url, "a", "b", cache=str(tmp_path)) == [Answer("a", tokens=4), Answer("b", tokens=4)]


def test_failures_are_not_kept(serve: Serve, tmp_path: Path) -> None:
    server = serve(misbehaving(error(400, "no")))
    asked(server.url, "first", "second", cache=str(tmp_path))
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_a_cache_that_cannot_be_written_is_told(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request: completion("well"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StageError, match=r"cannot be kept in .*judge\.cache"):
        asked(server.url, "?", cache=str(tmp_path / "file"))


# --- the key ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["sk-two words", "sk-line\n", "sk-tab\t", "sk-schlüssel"])
def test_what_is_no_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked("http://127.0.0.1:1/v1", "?", key=key, key_variable="MY_KEY")
    assert "MY_KEY" in str(caught.value)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        completion(f"Your key is {KEY}!"),
        completion(f"Your key is {KEY}!", "content_filter"),
        error(500, f"no such key: {KEY}"),
        error(400, "x" * 280 + KEY),
        Response(f"<p>{KEY}".encode(), 500),
        Response(f'{{"choices": "{KEY}"}}'.encode()),
        Response(b"", 302, {"Location": f"http://127.0.0.1:9/?key={KEY}"}),
        error(403, KEY),
        error(404, KEY),
    ],
)
def test_a_server_that_repeats_the_key_does_not_get_it_written_down(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, response: Response
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "srum_http"):
        caplog.set_level(logging.DEBUG, logger=name)
    server = serve(misbehaving(response))
    try:
        told = repr(asked(server.url, "first", "second", key=KEY, cache=str(tmp_path), attempts=1))
    except StageError as error:
        told = repr(error) + repr(error.__context__)
    written = [told, *(path.read_text() for path in tmp_path.rglob("*.json"))]
    logged = [record.getMessage() for record in caplog.records if "Location" not in record.getMessage()]
    assert len(logged) > 4  # the library's own are among them
    for start in range(len(KEY) - 8):
        assert not any(KEY[start : start + 8] in text for text in written + logged)


def test_a_short_key_is_a_word_like_others(serve: Serve) -> None:
    server = serve(lambda request: completion("an EMPTY plate"))
    assert asked(server.url, "?", key="EMPTY") == [Answer("an EMPTY plate", tokens=4)]


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "url must be one such as"),
        ({"url": "ftp://host/v1"}, "url must be one such as"),
        ({"url": "http:///v1"}, "url must be one such as"),
        ({"url": "http://host:port/v1"}, "url cannot be read"),
        ({"url": "http://[::1/v1"}, "url cannot be read"),
        ({"url": f"http://user:{KEY}@host/v1"}, "url must have no user"),
        ({"url": f"http://host/v1?api-key={KEY}"}, "url must have no user, password, query"),
        ({"key_variable": KEY}, "key_variable must be the name"),
        ({"key_variable": "0123456789abcdef"}, "key_variable must be the name"),
        ({"key_variable": ""}, "key_variable must be the name"),
        ({"model": ""}, "model must be the name"),
        ({"concurrency": 0}, r"concurrency must lie in \[1, 1000\]"),
        ({"attempts": 0}, "attempts must lie"),
        ({"timeout": 0}, "timeout must lie"),
        ({"backoff": -1.0}, "backoff must lie"),
        ({"longest_wait": float("nan")}, "longest_wait must lie"),
        ({"budget_requests": 0}, "budget_requests must be at least 1"),
        ({"budget_tokens": -1}, "budget_tokens must be at least 1"),
        ({"cache": ""}, "cache must be a folder"),
        ({"image_format": "gif"}, "image_format"),
        ({"extra": {"messages": []}}, "extra cannot set messages"),
        ({"extra": {"n": 2, "stream": True}}, "extra cannot set n, stream"),
        ({"extra": {"min_p": float("nan")}}, "extra must be what JSON can hold"),
    ],
)
def test_settings_that_make_no_sense_are_refused_and_no_key_is_shown(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_options(HttpOptions, {"url": "http://127.0.0.1:8000/v1", "model": "m", **settings}, "judge")
    assert KEY not in str(caught.value)


def test_url_and_model_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"judge\.model: a value is missing\njudge\.url: a value is missing"):
        build_options(HttpOptions, {}, "judge")


@given(st.text(max_size=700))
def test_messages_are_short_and_on_one_line(text: str) -> None:
    assert len(shortened(text)) <= 303
    assert "\n" not in shortened(text)


def test_a_reply_is_kept_as_it_is() -> None:
    assert Reply("x", "length", 3, 9).answer(GREEDY) == Answer("x", True, 3)
