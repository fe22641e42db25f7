"""A Hugging Face hub on the loopback, with one repository, as far as a client asks for it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Tells of a repository, leads to its weights at another path, and counts what was asked."""

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository, self.files, self.paths = repository, files, []
        self.stated_digest = hashlib.sha256(files.get("model.safetensors", b"")).hexdigest()
        hub = self

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self)

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.paths.append(f"{handler.command} {path}")
        resolved = f"/{self.repository}/resolve/{COMMIT}/"
        if path in {
            f"/api/models/{self.repository}/revision/{one}" for one in ("main", "v1", COMMIT)
        }:
            self._send(handler, json.dumps(self._told()).encode())
        elif path.startswith(resolved) and (name := path.removeprefix(resolved)) in self.files:
            if name == "model.safetensors":
                self._send(handler, b"", 302, {"Location": f"/stored/{name}"})
            else:
                etag = hashlib.sha1(self.files[name]).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
                self._send(handler, self.files[name], 200, headers)
        elif path == "/stored/model.safetensors":
            self._send(handler, self.files["model.safetensors"])
        else:
            self._send(handler, b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def _told(self) -> dict:
        weights = self.files.get("model.safetensors", b"")
        lfs = {"sha256": self.stated_digest, "size": len(weights), "pointerSize": 134}
        return {
            "id": self.repository,
            "sha": COMMIT,
            "siblings": [
                {"rfilename": name, "size": len(content), "blobId": "0" * 40}
                | ({"lfs": lfs} if name == "model.safetensors" else {})
                for name, content in self.files.items()
            ],
        }

    def _send(self, handler, body: bytes, status: int = 200, headers=None) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)


@contextmanager
def serving_hub(repository: str, files: dict[str, bytes]) -> Iterator[LocalHub]:
    hub = LocalHub(repository, files)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
