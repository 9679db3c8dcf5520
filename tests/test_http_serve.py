"""The judge ``http`` against a real server: `transformers serve` on loopback with a tiny vision-language model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from srum_http.endpoint import Endpoint
from srum_http.judge import HttpJudge
from srum_http.options import HttpOptions
from tiny_llava import IMAGE_TOKENS, LINES, write_llava

from srum_plugins.contracts import GREEDY, Answer, Decoding, Located, Question
from srum_plugins.errors import StageError
from srum_plugins.records import Box, Candidate, Grounding, Prompt, Region, Score

pytestmark = pytest.mark.slow
RED = Image.new("RGB", (40, 24), "red")
UP = 180.0  # seconds that the server may take to come up on a busy machine


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpOptions]:
    """Options for a server that is up."""
    folder = tmp_path_factory.mktemp("served")
    write_llava(folder / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder / "tiny"), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/health", server, folder / "log")
        yield HttpOptions(
            url=f"http://127.0.0.1:{port}/v1", model=str(folder / "tiny"), cache=None, attempts=2, backoff=0.1
        )
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(timeout=20)


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + UP
    with httpx2.Client(trust_env=False) as client:
        while time.monotonic() < end:
            if server.poll() is not None:
                break
            try:
                if client.get(url, timeout=5.0).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)
    pytest.fail(f"the server is not up: {log.read_text()[-3000:]}")


def test_questions_with_and_without_image_are_answered(served: HttpOptions) -> None:
    texts = ("Rate the image.", "Rate it again.", "Hello?")
    questions = [Question(RED, texts[0]), Question(RED, texts[1]), Question(None, texts[2])]
    answers = Endpoint(served, "").ask(questions, GREEDY)
    assert answers == [Answer("".join(LINES), tokens=len(LINES) + 1)] * 3


def test_the_image_is_seen_and_the_budget_counts_what_the_server_counts(served: HttpOptions) -> None:
    question, written = "How many?", len(LINES) + 1
    spent = len(question) + IMAGE_TOKENS + written  # a byte is a token here
    exact = Endpoint(replace(served, budget_tokens=spent + 1), "")
    assert all(isinstance(one, Answer) for one in exact.ask([Question(RED, question)], GREEDY))
    assert all(isinstance(one, Answer) for one in exact.ask([Question(RED, "one more")], GREEDY))
    less = Endpoint(replace(served, budget_tokens=spent), "")
    assert all(isinstance(one, Answer) for one in less.ask([Question(RED, question)], GREEDY))
    assert not any(isinstance(one, Answer) for one in less.ask([Question(RED, "one more")], GREEDY))


def test_an_answer_that_the_limit_cuts_off_is_truncated(served: HttpOptions) -> None:
    answers = Endpoint(served, "").ask([Question(RED, "Rate it.")], Decoding(max_tokens=2))
    assert answers == [Answer("".join(LINES[:2]), truncated=True, tokens=2)]


def test_sampling_is_understood(served: HttpOptions) -> None:
    warm = Decoding(temperature=0.7, top_p=0.9, max_tokens=8)
    (answer,) = Endpoint(served, "").ask([Question(RED, "Rate it.", seed=2**62)], warm)
    assert isinstance(answer, Answer)


def test_images_are_judged(served: HttpOptions, tmp_path: Path) -> None:
    """Several candidates at a time; the same again out of the cache, with no server to ask."""
    halves = tuple(Region(Box(left, 0, left + 20, 24), phrase) for left, phrase in ((0, "red tile"), (20, "blue tile")))
    items = [
        Located(Prompt("p", f"tile {index}"), Candidate(f"c{index}", "p", index, 0, "c.png", 40, 24), RED)
        for index in range(6)
    ]
    groundings = [Grounding(f"c{index}", halves[: index % 3]) for index in range(6)]
    options = replace(served, cache=str(tmp_path))
    found = HttpJudge(options, "").judge(items, groundings, None)
    assert [one.candidate_id for one in found] == [f"c{index}" for index in range(6)]
    said = (Score(0.25, "a red tile"), Score(-1.0, "a blue tile"))
    for index, one in enumerate(found):
        assert isinstance(one.alpha, Score) and one.alpha.value == 0.5
        assert one.local == said[: index % 3]
        questions = 2 if index % 3 else 1
        assert one.raw == ("".join(LINES),) * questions
        assert one.tokens == questions * (len(LINES) + 1)
    again = HttpJudge(replace(options, budget_requests=1), "").judge(items, groundings, None)
    assert again == found


def test_a_wrong_model_stops_with_what_the_server_says(served: HttpOptions) -> None:
    with pytest.raises(StageError, match=r"answered none of 1 requests: http status, 400: Server is pinned to"):
        Endpoint(replace(served, model="another"), "").ask([Question(RED, "?")], GREEDY)
