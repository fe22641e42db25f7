"""An end to requests whose body comes too slowly."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem


class ReceiveDeadline:
    """ASGI middleware: a body may take some seconds, and as much longer as its bytes are worth."""

    def __init__(self, app: ASGIApp, seconds: float, min_bytes_per_second: float) -> None:
        """Wrap `app`.

        Args:
            app: what receives the body.
            seconds: that a client has in any case, and that may pass without a byte.
            min_bytes_per_second: at which what has arrived buys further time.
        """
        self._app = app
        self._seconds = seconds
        self._rate = min_bytes_per_second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; its body has a deadline that moves with what arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes, waited, is_whole = 0, 0.0, False

        async def receive_in_time() -> Message:
            nonlocal num_bytes, waited, is_whole
            if is_whole:
                return await receive()  # waits for the client to leave
            # Only the waiting counts: the service may be slow itself. And what came fast buys no
            # silence: the line may be dead.
            left = min(self._seconds, self._seconds + num_bytes / self._rate - waited)
            started = time.monotonic()
            try:
                async with asyncio.timeout(max(left, 0)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(num_bytes) from None
            waited += time.monotonic() - started
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)

    def _too_slow(self, num_bytes: int) -> Problem:
        return Problem(
            408,
            "too_slow",
            f"{num_bytes} bytes of the request came, slower than {self._rate:g} a second after "
            f"{self._seconds:g} seconds; send large files in pieces (docs/api.md: tus)",
            headers={"Connection": "close"},
        )
