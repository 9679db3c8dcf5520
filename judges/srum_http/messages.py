"""Questions as requests of OpenAI's chat completions, and what an endpoint's answer says."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from srum_plugins.contracts import Answer, Decoding, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Failure

ImageFormat = Literal["png", "jpeg"]

MALFORMED = "malformed response"
REFUSED = "refused"
SEEDS = 2**31
"""Seeds are sent modulo this: not every server takes larger ones."""
SHOWN = 300
"""Characters of a server's message that are kept."""


@dataclass(frozen=True)
class Reply:
    """One answer of an endpoint. ``finish`` is why it ended, as the endpoint says it (``stop``, ``length``,
    ``content_filter``...), empty if it says nothing. ``written`` are the tokens of the answer and ``spent`` those of
    question and answer, None if the endpoint does not count them."""

    text: str
    finish: str = ""
    written: int | None = None
    spent: int | None = None

    def answer(self, decoding: Decoding) -> Answer | Failure:
        """The answer, or a Failure where the endpoint refused to give one."""
        if self.finish == "content_filter":
            return Failure(REFUSED, f"content_filter: {shortened(self.text)}".rstrip(": "))
        return Answer(decoding.cut(self.text), truncated=self.finish == "length", tokens=self.written)


def request_body(
    question: Question, decoding: Decoding, model: str, image_format: ImageFormat, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON of a request. ``extra`` are more fields of it; null takes one out.

    Raises:
        ContractError: the question has choices or a box, which a message cannot hold.
    """
    if question.choices or question.box is not None:
        raise ContractError(f"an endpoint is asked in words and images only, not with choices or a box: {question!r}")
    content: Any = question.text
    if question.image is not None:
        image = {"type": "image_url", "image_url": {"url": data_url(question.image, image_format)}}
        content = [image, {"type": "text", "text": question.text}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    body["temperature"] = decoding.temperature
    if decoding.temperature > 0:
        body |= {"top_p": decoding.top_p, "seed": question.seed % SEEDS}
    if decoding.max_tokens is not None:
        body["max_tokens"] = decoding.max_tokens
    if decoding.stop:
        body["stop"] = list(decoding.stop)
    return {name: value for name, value in {**body, **extra}.items() if value is not None}


def data_url(image: Image.Image, image_format: ImageFormat) -> str:
    """An image as a ``data:`` URL, in RGB."""
    buffer = io.BytesIO()
    options = {"quality": 95} if image_format == "jpeg" else {}
    image.convert("RGB").save(buffer, format=image_format.upper(), **options)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def parse_reply(data: bytes) -> Reply | Failure:
    """What the body of a response with status 200 says. Thoughts that a server took out of the text
    (``reasoning_content``, in newer ones ``reasoning``) are put before it again, between ``<think>`` and ``</think>``:
    they are part of what the model said."""
    response, shown = _json(data), data.decode(errors="replace")
    if not isinstance(response, dict):
        return Failure(MALFORMED, f"no JSON object: {shown}")
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Failure(MALFORMED, f"no choices[0].message in it: {shown}")
    refusal, text = message.get("refusal"), message.get("content")
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else ""
    if isinstance(refusal, str) and refusal:
        text, finish = refusal, "content_filter"
    if text is None and finish in ("length", "content_filter"):
        text = ""
    if not isinstance(text, str):
        return Failure(MALFORMED, f"choices[0].message.content is no text: {shown}")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thoughts, str) and finish != "content_filter":
        closed = text or finish != "length"
        text = f"<think>{thoughts}{'</think>' if closed else ''}{text}"
    usage = response.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(_unicode(text), _unicode(finish), _count(usage, "completion_tokens"), _count(usage, "total_tokens"))


def error_message(data: bytes) -> str:
    """What a server says in the body of a response with another status."""
    found: Any = _json(data)
    for name in ("error", "detail", "message"):  # OpenAI and vLLM; FastAPI; others
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return _unicode(found) if isinstance(found, str) else data.decode(errors="replace")


def shortened(text: str) -> str:
    """A text on one line, of ``SHOWN`` characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _unicode(text: str) -> str:
    """JSON may hold halves of surrogate pairs, which no file can."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
