"""What uvicorn does not bound by itself: how long and how large a request's head may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers."""


def bounded_protocol(head_seconds: float) -> Callable[..., HttpToolsProtocol]:
    """Return uvicorn's protocol, with bounds on a request's head.

    Args:
        head_seconds: from the connection's start, or from the first byte of a further request,
            until its headers are there.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_there()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._wait_for_head()
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._head_is_there()
            super().on_headers_complete()

        def _wait_for_head(self) -> None:
            self._head_is_there()
            self._deadline = self.loop.call_later(head_seconds, self._give_up)

        def _head_is_there(self) -> None:
            self._head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _count(self, num_bytes: int) -> None:
            self._head_bytes += num_bytes
            if self._head_bytes > MAX_HEAD_BYTES:
                # The parser hands this on as its own error: uvicorn answers 400 and closes.
                raise ValueError("the head of the request is too large")

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return BoundedProtocol
