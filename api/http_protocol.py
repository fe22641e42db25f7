"""What uvicorn does not bound: a request's head, and how long an answer may wait for its reader."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers; what comes in the same read as its end does not count."""

_NO_LINGER = struct.pack("ii", 1, 0)


def bounded_protocol(
    head_seconds: float, min_bytes_per_second: float
) -> Callable[..., HttpToolsProtocol]:
    """Return uvicorn's protocol, with bounds on a request's head and on slow readers.

    A clock runs whenever no request is being answered: from the connection's start, or from the
    first byte after an answer, until the next head is there; and while the rest of a body comes
    whose request was answered early.

    A second clock runs while the answer waits for its reader: from when so much of it waits that
    no more is made, until most of that has left; and from its end, until all has left. A connection
    whose reader is too slow is reset, or what waits for it would be kept for ever.

    Args:
        head_seconds: that the first clock allows, and the second one at least.
        min_bytes_per_second: at which what waits has to leave.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _clock: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _reader_clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            self._stop_reader_clock()
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
            if self._reader_clock is None and self.transport.get_write_buffer_size():
                self._start_reader_clock(self._reset_unless_sent, self.cycle)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start_reader_clock(self._reset)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_reader_clock()

        def _reset_unless_sent(self, cycle: object) -> None:
            self._reader_clock = None
            # With a newer answer it is that one's clock that counts.
            if cycle is self.cycle and self.transport.get_write_buffer_size():
                self._reset()

        def _reset(self) -> None:
            # Without lingering, or the kernel would go on offering what nobody takes.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()

        def _start_reader_clock(self, end: Callable[..., None], *arguments: object) -> None:
            self._stop_reader_clock()
            waiting_bytes = self.transport.get_write_buffer_size()
            seconds = max(head_seconds, waiting_bytes / min_bytes_per_second)
            self._reader_clock = self.loop.call_later(seconds, end, *arguments)

        def _stop_reader_clock(self) -> None:
            if self._reader_clock is not None:
                self._reader_clock.cancel()
                self._reader_clock = None

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
