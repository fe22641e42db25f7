"""What uvicorn does not bound by itself: how long and how large a request's head may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers; what comes in the same read as its end does not count."""


def bounded_protocol(head_seconds: float) -> Callable[..., HttpToolsProtocol]:
    """Return uvicorn's protocol, with bounds on a request's head.

    A clock runs whenever no request is being answered: from the connection's start, or from the
    first byte after an answer, until the next head is there; and while the rest of a body comes
    whose request was answered early.

    Args:
        head_seconds: that the clock allows.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _clock: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_idle():
                if self._clock is None:
                    self._start_clock()
                # Before the parser sees them: it collects a header until it is whole.
                if not self._is_draining():
                    self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES + len(data):
                    self.send_400_response("The head of the request is too large.")
                    return
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._stop_clock()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            if self._is_draining():
                self._stop_clock()
            super().on_message_complete()
            if self.cycle is not None:
                self.cycle.more_body = False  # uvicorn leaves it when the answer came first

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._is_draining():
                self._start_clock()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _is_draining(self) -> bool:
            """Return whether a body still comes whose request was answered."""
            cycle = self.cycle
            return cycle is not None and cycle.response_complete and cycle.more_body

        def _start_clock(self) -> None:
            self._stop_clock()
            self._clock = self.loop.call_later(head_seconds, self._give_up)

        def _stop_clock(self) -> None:
            self._head_bytes = 0
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return BoundedProtocol
