"""What happens to a job, as it happens: an event stream that misses nothing when it breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from api.client.effects import (
    Answer,
    Close,
    ConnectionLostError,
    Give,
    Op,
    Open,
    Pause,
    Read,
    ReadAll,
    Request,
    Tell,
    json_of,
    place,
)
from api.client.errors import TIMEOUT, ApiError, error_of
from api.client.jobs import get_job
from api.client.records import FINAL_STATES, Event, JobRecord, read, read_list
from api.client.retrying import Failures, RetryPolicy, connection_failed, exchange, is_passing

SILENT_SECONDS = 45.0
"""A stream that sends nothing for so long is dead: the service says something every 15 seconds."""

POLL_SECONDS = 0.5
"""Between two looks where the time to wait is too short for a stream."""

OnEvent = Callable[[Event], Any]
"""Told of each event; for the asynchronous client it may be a coroutine function."""


def follow(policy: RetryPolicy, job_id: str, *, after: int = 0) -> Op[None]:
    """Yield what happens to a job, from the beginning, until it has ended.

    Args:
        after: the number of the last event that is known already.

    Raises:
        ApiError: `job_not_found`, and whatever any request may meet; not for connections that
            break and can be made again.
    """
    stream = _Stream(job_id, after, Failures(policy))
    while not stream.has_ended:
        for event in (yield from stream.more()):
            yield Give(event)


def wait(
    policy: RetryPolicy,
    job_id: str,
    *,
    on_event: OnEvent | None = None,
    after: int = 0,
    timeout_seconds: float | None = None,
) -> Op[JobRecord]:
    """Return when a job has ended, however it did: look at its `state`.

    Args:
        on_event: told what happens meanwhile, and what has happened before.
        after: the number of the last event that is known already.
        timeout_seconds: how long to wait at most; the job itself goes on then.

    Raises:
        ApiError: `timeout`; and as of `events`.
    """
    ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    stream = _Stream(job_id, after, Failures(policy))
    while not stream.has_ended:
        left = None if ends_at is None else ends_at - time.monotonic()
        # A stream may be silent for as long as that; near the end, ask instead.
        if left is not None and left < SILENT_SECONDS:
            yield Close()
            found = yield from _page(policy, job_id, stream)
        else:
            found = yield from stream.more()
        if on_event is not None:
            for event in found:
                yield Tell(on_event, event)
        if left is not None and left <= 0 and not stream.has_ended:
            raise ApiError(
                TIMEOUT, f"the job has not ended after {timeout_seconds:g} seconds; it goes on"
            )
        if left is not None and left < SILENT_SECONDS and not stream.has_ended:
            yield Pause(min(POLL_SECONDS, max(0.0, left)))
    yield Close()
    return (yield from get_job(policy, job_id))


class _Stream:
    """A job's events, over as many connections as it takes."""

    def __init__(self, job_id: str, seen: int, failures: Failures) -> None:
        self._job_id = job_id
        self._failures = failures
        self._parser: SseParser | None = None
        self.seen = seen
        self.has_ended = False

    def more(self) -> Op[list[Event]]:
        """Return the next events, or none when the service only says that it is there."""
        try:
            if self._parser is None:
                if (yield from self._open()):
                    self.has_ended = True
                    return []
                self._parser = SseParser()
            piece: bytes = yield Read()
        except ConnectionLostError as lost:
            self._parser = None
            yield self._failures.pause(connection_failed(lost))
            return []
        if not piece:  # the service was stopped, say
            pause = self._parser.retry_seconds
            self._parser = None
            yield self._failures.pause(
                ApiError("stream_ended", "the event stream ends", retry_after_seconds=pause)
            )
            return []
        self._failures.clear()
        return self.take(
            read(Event, json_of(message.text))
            for message in self._parser.feed(piece)
            if message.text
        )

    def take(self, events: Iterable[Event]) -> list[Event]:
        """Return the events that were not seen before."""
        fresh = [event for event in events if event.number > self.seen]
        if fresh:
            self.seen = fresh[-1].number
            self.has_ended = fresh[-1].kind in FINAL_STATES
        return fresh

    def _open(self) -> Op[bool]:
        """Open a stream after the last event; return whether there is nothing more to come.

        Raises:
            ApiError: it is refused for good.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.seen:
            headers["Last-Event-ID"] = str(self.seen)
        request = Request(
            method="GET",
            path=place("jobs", self._job_id, "events"),
            headers=headers,
            read_seconds=SILENT_SECONDS,
        )
        while True:
            answer: Answer = yield Open(request)
            if answer.status == 204:
                return True
            if answer.status == 200:
                return False
            error = error_of(answer.status, answer.headers, (yield ReadAll()))
            if not is_passing(error):
                raise error
            yield self._failures.pause(error)


def _page(policy: RetryPolicy, job_id: str, stream: _Stream) -> Op[list[Event]]:
    request = Request(
        method="GET", path=place("jobs", job_id, "events"), query=(("after", str(stream.seen)),)
    )
    answer = yield from exchange(request, policy)
    return stream.take(read_list(Event, answer.json(), "events"))


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    id: str
    event: str
    text: str


class SseParser:
    """Reads server-sent events (WHATWG HTML, section 9.2) from pieces of any size."""

    def __init__(self) -> None:
        self.retry_seconds: float | None = None
        self._rest = b""
        self._id = ""
        self._event = ""
        self._lines: list[str] = []

    def feed(self, piece: bytes) -> list[Message]:
        """Take what arrived; return the messages that are whole by it."""
        text = (self._rest + piece).replace(b"\r\n", b"\n")
        # A carriage return at the end may be half of a line's end.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = text.removesuffix(held).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        found = [self._line(line.decode(errors="replace")) for line in lines]
        return [message for message in found if message is not None]

    def _line(self, line: str) -> Message | None:
        if not line:
            message = Message(self._id, self._event, "\n".join(self._lines))
            has_text = bool(self._lines)
            self._event, self._lines = "", []
            return message if has_text else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._lines.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isdecimal():
                self.retry_seconds = int(value) / 1000
        return None
