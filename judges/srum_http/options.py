"""What users can set of an endpoint, and of the judge ``http``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from srum_rubric.options import RubricOptions

from srum_http.messages import ImageFormat

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """``url`` is the base URL of the endpoint, as a rule with ``/v1`` at its end, and ``model`` the model's name there.
    ``key_variable`` names the environment variable that holds the API key; it may be unset for servers without keys.
    The key itself belongs in no setting.

    Up to ``concurrency`` requests are under way at a time. One is given up after ``timeout`` seconds without a byte, or
    when bytes still come after that time. A question is tried ``attempts`` times; between them the judge waits about
    ``backoff`` seconds, then twice as long each time, and at least as long as the server asks for (``Retry-After``),
    but never more than ``longest_wait``.

    ``budget_requests`` and ``budget_tokens`` (of questions and answers) are what one process may spend; null is without
    limit. What is left when they are used up becomes a failure, ``budget``. Requests that are under way then end as
    they may, so that a few more tokens can be spent. ``cache`` is the folder that keeps answers; null keeps none.

    ``image_format`` is ``png``, or ``jpeg`` (quality 95) for large images. ``extra`` are more fields of a request, such
    as ``{chat_template_kwargs: {enable_thinking: false}}``; null takes one of the judge's own out (``temperature``,
    ``top_p``, ``seed``, ``max_tokens``, ``stop``).
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 4
    backoff: float = 1.0
    longest_wait: float = 60.0
    budget_requests: int | None = None
    budget_tokens: int | None = None
    cache: str | None = "~/.cache/srum-plugins/http"
    image_format: ImageFormat = "png"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := _url_problem(self.url):
            raise ValueError(f"url {problem}")
        if not self.model:
            raise ValueError("model must be the name of a model of the endpoint, got ''")
        if not _VARIABLE.fullmatch(self.key_variable):  # not shown: it may be a key
            raise ValueError(
                "key_variable must be the name of an environment variable in capitals, such as OPENAI_API_KEY, not the "
                "key itself"
            )
        for name in ("concurrency", "attempts"):
            if not 1 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name} must lie in [1, 1000], got {getattr(self, name)}")
        for name in ("timeout", "backoff", "longest_wait"):
            if not 0.0 < getattr(self, name) <= 86400.0:
                raise ValueError(f"{name} must lie in (0, 86400] seconds, got {getattr(self, name)}")
        for name in ("budget_requests", "budget_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or null for no limit, got {value}")
        if self.cache == "":
            raise ValueError("cache must be a folder, or null to go without, got ''")
        if own := sorted({"model", "messages", "stream", "n"} & set(self.extra)):
            raise ValueError(f"extra cannot set {', '.join(own)}: the judge does, or needs one answer at a time")
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"extra must be what JSON can hold: {error}") from error


@dataclass(frozen=True, kw_only=True)
class HttpOptions(RubricOptions, EndpointOptions):
    """Those of :class:`srum_rubric.options.RubricOptions`, where null as ``max_tokens`` is the server's own limit, and
    those of :class:`EndpointOptions`."""

    def __post_init__(self) -> None:
        RubricOptions.__post_init__(self)
        EndpointOptions.__post_init__(self)


def _url_problem(url: str) -> str:
    """What is wrong with a base URL, without repeating what may be a secret; empty if nothing is."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # raises if it is no number
    except ValueError:
        return "cannot be read: expected one such as http://127.0.0.1:8000/v1"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "must have no user, password, query or fragment: keys go into the environment variable of key_variable"
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        return f"must be one such as http://127.0.0.1:8000/v1, got {url!r}"
    return ""
