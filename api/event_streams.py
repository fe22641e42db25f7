"""Server-sent events, sent when all that has led to them is done.

A stream may last for hours. FastAPI keeps what it solved a request with until the answer is sent,
a fifth of a stream's memory: so its route only leaves the stream to a middleware further out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_LEFT = "event_stream"


class EventStream(Response):
    """An answer that `EventStreams` sends; one task for each, where Starlette's own has three."""

    media_type = "text/event-stream"

    def __init__(self, pieces: Callable[[Request], AsyncIterator[bytes]]) -> None:
        """Send `pieces` of a request, whose client may leave, until there are no more."""
        # nginx would hold events back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Leave it to `EventStreams`."""
        scope["state"][_LEFT] = self

    async def send_to(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then each piece at once."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for piece in self._pieces(Request(scope, receive)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EventStreams:
    """ASGI middleware that sends the streams which routes leave to it."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and send what it has left."""
        await self._app(scope, receive, send)
        stream: EventStream | None = scope.get("state", {}).pop(_LEFT, None)
        if stream is not None:
            await stream.send_to(scope, receive, send)
