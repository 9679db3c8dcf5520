"""An HTTP server on loopback that answers, or misbehaves, as a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Response:
    """What to answer with. ``wait`` seconds come before it; with ``pieces`` the body is sent in so many parts with
    ``wait`` before each; ``hang_up`` closes the connection after what ``body`` holds, which may be less than
    ``length`` says."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    pieces: int = 1
    length: int | None = None
    hang_up: bool = False


@dataclass(frozen=True)
class Request:
    """What was sent: its number from 0, path, headers and JSON."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def text(self) -> str:
        """The text of the question."""
        content = self.body["messages"][0]["content"]
        return str(content if isinstance(content, str) else content[-1]["text"])


def completion(text: Any = "score: 0.5", finish: Any = "stop", usage: Any = "counted", **message: Any) -> Response:
    """A chat completion as servers write it."""
    counted = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14} if usage == "counted" else usage
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return Response(json.dumps({"object": "chat.completion", "choices": [choice], "usage": counted}).encode())


def error(status: int, message: str, **headers: str) -> Response:
    """An error as OpenAI and vLLM write it."""
    return Response(json.dumps({"error": {"message": message, "code": status}}).encode(), status, headers)


class Loopback:
    """The server: its base ``url``, the ``requests`` that came, and the most that were there at once."""

    def __init__(self, script: Callable[[Request], Response]) -> None:
        self.requests: list[Request] = []
        self.busy = self.most_busy = 0
        self._script, self._lock, self._end = script, threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30  # an idle connection does not outlive the test

            def do_POST(self) -> None:
                outer._handle(self)

            def do_GET(self) -> None:
                outer._handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that gave up are what is tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, also what is waiting."""
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            headers = {name.lower(): value for name, value in handler.headers.items()}
            request = Request(len(self.requests), handler.path, headers, json.loads(data or b"null"))
            self.requests.append(request)
        try:
            self._send(handler, self._script(request))
        finally:
            with self._lock:
                self.busy -= 1

    def _send(self, handler: BaseHTTPRequestHandler, response: Response) -> None:
        size = max(1, -(-len(response.body) // response.pieces))
        for start in range(0, max(1, len(response.body)), size):
            if self._end.wait(response.wait):
                return
            if start == 0:
                handler.send_response(response.status)
                for name, value in response.headers.items():
                    handler.send_header(name, value)
                length = len(response.body) if response.length is None else response.length
                handler.send_header("Content-Length", str(length))
                handler.end_headers()
            handler.wfile.write(response.body[start : start + size])
            handler.wfile.flush()
        if response.hang_up:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def loopback(script: Callable[[Request], Response]) -> Iterator[Loopback]:
    """A server for as long as the block lasts."""
    server = Loopback(script)
    try:
        yield server
    finally:
        server.close()
