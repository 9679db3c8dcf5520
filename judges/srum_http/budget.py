"""How much a judge may still ask of an endpoint."""

from __future__ import annotations

import threading

from srum_plugins.errors import StageError


class Budget:
    """Requests and tokens that may be spent by this process; None is without limit. Threads share one. ``where`` is the
    path of the endpoint's settings in the config."""

    def __init__(self, requests: int | None, tokens: int | None, where: str) -> None:
        self._requests, self._tokens, self._where = requests, tokens, where
        self._sent = self._spent = 0
        self._lock = threading.Lock()

    def take(self) -> str:
        """Take one request. Returns why there is none left, in words; empty if it may be sent."""
        with self._lock:
            if self._requests is not None and self._sent >= self._requests:
                return f"the {self._requests} requests of {self._where}.budget_requests are sent"
            if self._tokens is not None and self._spent >= self._tokens:
                return f"{self._spent} of the {self._tokens} tokens of {self._where}.budget_tokens are spent"
            self._sent += 1
            return ""

    def spend(self, tokens: int | None) -> None:
        """Note what an answer took. Raises StageError if tokens are to be counted and nobody says how many."""
        if tokens is None and self._tokens is not None:
            raise StageError(
                f"{self._where}.budget_tokens is set, but the endpoint does not say how many tokens it used: limit "
                f"{self._where}.budget_requests in its place"
            )
        with self._lock:
            self._spent += tokens or 0
