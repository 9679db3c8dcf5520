"""Asks an OpenAI-compatible endpoint many questions at a time, with patience and within a budget."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2

from srum_http.budget import Budget
from srum_http.cache import ReplyCache
from srum_http.messages import MALFORMED, Reply, error_message, parse_reply, request_body, shortened
from srum_http.options import EndpointOptions
from srum_plugins.contracts import Answer, Decoding, Question
from srum_plugins.errors import ConfigError, StageError
from srum_plugins.records import Failure
from srum_plugins.runs.fingerprint import stable_seed

_log = logging.getLogger(__name__)

TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
DISCONNECTED = "disconnected"
STATUS = "http status"
BUDGET = "budget"

LARGEST = 8 * 2**20
"""Bytes of a response that are read at most; answers of words are a thousand times smaller."""
SECRET = 8
"""Characters from which on a key is kept out of all that is written. Shorter ones are no secrets, such as the EMPTY
that vLLM is content with, and could be words of an answer."""
_PASSING = (408, 409, 425, 429)  # and all from 500: worth another attempt


@dataclass(frozen=True)
class _Attempt:
    """What came of sending a request once. ``again`` says whether another attempt may end otherwise, ``pause`` how many
    seconds the server asks to be left alone before."""

    result: Reply | Failure
    again: bool = False
    pause: float = 0.0


class Endpoint:
    """One model of one endpoint. Answers are kept in the cache; the budget is that of this object."""

    def __init__(self, options: EndpointOptions, key: str, where: str = "judge") -> None:
        """``key`` is sent as a bearer token, if it is not empty. ``where`` is the path of these options in the config.

        Raises:
            ConfigError: the key holds what no key does, such as the end of a line.
        """
        if not (key.isascii() and key.isprintable() and " " not in key):  # must not reach a library's message
            raise ConfigError(
                f"the environment variable {options.key_variable} holds blanks, line ends or other characters that no "
                "key has: set it to the key alone"
            )
        self._options, self._where = options, where
        self._url = options.url.rstrip("/")
        self._key = key
        self._cache = ReplyCache(None if options.cache is None else Path(options.cache).expanduser(), where)
        self._budget = Budget(options.budget_requests, options.budget_tokens, where)
        self._answered = self._warned = False
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=options.timeout,
            limits=httpx2.Limits(max_connections=options.concurrency),
            follow_redirects=False,  # another host has no business with the key
        )

    def ask(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer | Failure]:
        """An answer per question, in order, or why there is none. What was asked before comes out of the cache, and the
        same request is sent once.

        Raises:
            StageError: no answer can be expected: the endpoint does not take the key or does not know the model, sends
                elsewhere, cannot be reached, or has not answered a single question so far.
        """
        options = self._options
        bodies: dict[str, Mapping[str, Any]] = {}
        order: list[str] = []
        for question in questions:
            body = request_body(question, decoding, options.model, options.image_format, options.extra)
            order.append(self._cache.key(self._url, body))
            bodies[order[-1]] = body
        found: dict[str, Reply | Failure] = {}
        for key in bodies:
            if (reply := self._cache.get(key)) is not None:
                found[key] = reply
        self._answered = self._answered or bool(found)  # to an earlier process
        fetched = self._fetch({key: body for key, body in bodies.items() if key not in found})
        self._check_alive(fetched)
        _log.info("%d requests: %d answers kept from before, %d asked for", len(bodies), len(found), len(fetched))
        found |= fetched
        given = [found[key] for key in order]
        return [one.answer(decoding) if isinstance(one, Reply) else one for one in given]

    def _fetch(self, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Reply | Failure]:
        """Ask for all of them at once, as many at a time as ``concurrency`` allows."""
        halt = threading.Event()
        pool = ThreadPoolExecutor(self._options.concurrency)
        try:
            futures = {key: pool.submit(self._patiently, key, body, halt) for key, body in bodies.items()}
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return {key: future.result() for key, future in futures.items()}
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)

    def _patiently(self, key: str, body: Mapping[str, Any], halt: threading.Event) -> Reply | Failure:
        """Ask until there is an answer, the attempts are used up, or the budget is."""
        attempt = 0
        while True:
            if spent := self._budget.take():
                self._warn_once(spent)
                return Failure(BUDGET, spent)
            tried = self._once(body)
            if isinstance(tried.result, Reply):
                self._cache.put(key, tried.result)
                self._budget.spend(tried.result.spent)
                return tried.result
            pause = self._pause(key, attempt, tried.pause)
            attempt += 1
            if not tried.again or attempt == self._options.attempts or halt.wait(pause):
                return tried.result

    def _pause(self, key: str, attempt: int, asked: float) -> float:
        """Seconds before the next attempt: twice as many each time, spread so that not all requests come back at once,
        and at least what the server asks for; never more than ``longest_wait``."""
        spread = random.Random(stable_seed(key, attempt)).uniform(0.5, 1.5)
        own: float = self._options.backoff * 2.0 ** min(attempt, 30) * spread
        return min(self._options.longest_wait, max(asked, own))

    def _once(self, body: Mapping[str, Any]) -> _Attempt:
        url = f"{self._url}/chat/completions"
        deadline = time.monotonic() + self._options.timeout
        try:
            with self._client.stream("POST", url, json=body) as response:
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > LARGEST:
                        return _Attempt(Failure(MALFORMED, f"more than {LARGEST} bytes"), again=True)
                    if time.monotonic() > deadline:  # the library's own time-out is one for each piece
                        return _Attempt(self._too_late(), again=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            return _Attempt(Failure(UNREACHABLE, self._told(error)), again=True)
        except httpx2.TimeoutException:
            return _Attempt(self._too_late(), again=True)
        except httpx2.DecodingError as error:
            return _Attempt(Failure(MALFORMED, self._told(error)), again=True)
        except httpx2.TransportError as error:
            return _Attempt(Failure(DISCONNECTED, self._told(error)), again=True)
        if response.status_code == 200:
            reply = parse_reply(bytes(data))
            if isinstance(reply, Failure):
                return _Attempt(Failure(reply.cause, self._told(reply.detail)), again=True)
            return _Attempt(Reply(self._safe(reply.text), self._safe(reply.finish), reply.written, reply.spent))
        return self._not_answered(response, bytes(data))

    def _not_answered(self, response: httpx2.Response, data: bytes) -> _Attempt:
        """What a status other than 200 means. Raises StageError for those that every request would get."""
        options, where, status = self._options, self._where, response.status_code
        said = self._told(f"{status}: {error_message(data)}".rstrip(": "))
        if status in (401, 402, 403):
            state = "is set, but not to a key that may do this" if self._key else "is not set"
            raise StageError(
                f"{self._url} refused the request ({said}). The key comes from the environment variable "
                f"{options.key_variable} ({where}.key_variable), which {state}"
            )
        if status == 404:
            raise StageError(
                f"{self._url} does not know {where}.model={options.model}, or is no OpenAI-compatible endpoint ({said})"
                f". {self._url}/models lists the models of one; most URLs end with /v1"
            )
        if 300 <= status < 400:
            place = self._told(response.headers.get("Location", "nowhere"))
            raise StageError(
                f"{self._url} redirects to {place} ({status}), where the key is not sent. Set {where}.url to where the "
                "endpoint is"
            )
        again = status in _PASSING or status >= 500
        return _Attempt(Failure(STATUS, said), again, _retry_after(response.headers.get("Retry-After", "")))

    def _check_alive(self, fetched: Mapping[str, Reply | Failure]) -> None:
        """Stop a run whose endpoint is not there, or has never answered, rather than fail each of its questions."""
        if any(isinstance(one, Reply) for one in fetched.values()):
            self._answered = True
            return
        failures = [one for one in fetched.values() if isinstance(one, Failure) and one.cause != BUDGET]
        if failures and (not self._answered or all(one.cause == UNREACHABLE for one in failures)):
            first = failures[0]
            raise StageError(
                f"{self._url} answered none of {len(failures)} requests: {first.cause}, {first.detail}. Start "
                f"or correct it ({self._where}.url, {self._where}.model), and run again: answers so far are kept"
            )

    def _warn_once(self, spent: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s: what is left is recorded as a failure, %r", spent, BUDGET)

    def _too_late(self) -> Failure:
        return Failure(TIMEOUT, f"no whole answer in {self._options.timeout:g} s")

    def _told(self, what: str | Exception) -> str:
        """What a server or an exception says, for a message: short, and without the key."""
        return shortened(self._safe(str(what) or type(what).__name__))

    def _safe(self, text: str) -> str:
        """A text of the server without the key, should the server repeat it."""
        return text.replace(self._key, "(key)") if len(self._key) >= SECRET else text


def _retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, 0 if it says nothing that can be read."""
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, TypeError, IndexError, OverflowError):  # a stranger's text
        return 0.0
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
