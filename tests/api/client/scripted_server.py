"""A small real HTTP server that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Scripted:
    """An answer; None as the status breaks the connection off in its place."""

    status: int | None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of the body after which the connection breaks."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


CUT = Scripted(None)


def problem(status: int, code: str, **headers: str) -> Scripted:
    body = {"title": "T", "status": status, "code": code, "detail": "why"}
    return Scripted(status, body, {"Content-Type": "application/problem+json"} | headers)


class ScriptedServer:
    def __init__(self) -> None:
        self.script: list[Scripted] = []
        self.asked: list[Asked] = []
        self.url = ""

    def answer_with(self, *answers: Scripted) -> None:
        """Answer with these in turn; the last one goes on for ever."""
        self.script = list(answers)
        self.asked.clear()

    def next(self, asked: Asked) -> Scripted:
        self.asked.append(asked)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = scripted.next(Asked(self.command, self.path, dict(self.headers), body))
            if answer.status is None:
                self.close_connection = True
                return
            content = answer.body
            if not isinstance(content, bytes):
                content = b"" if content is None else json.dumps(content).encode()
            self.send_response(answer.status)
            headers = {"Content-Length": str(len(content))} | answer.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: answer.cut_after])
            self.close_connection = answer.cut_after is not None

        do_GET = do_POST = do_PATCH = do_HEAD = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
