"""Carries operations out: one runner for threads, one for asyncio, over the same effects."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx

from api.client.effects import (
    Answer,
    Block,
    Close,
    ConnectionLostError,
    Effect,
    FileRange,
    Give,
    Op,
    Open,
    Pause,
    Read,
    ReadAll,
    Request,
    Send,
    Tell,
)

T = TypeVar("T")

CONNECT_SECONDS = 10.0
_PIECE_BYTES = 256 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True)
class _Result(Generic[T]):
    """What an operation returned."""

    value: T


class SyncRunner:
    """Carries operations out with blocking calls."""

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.Client(**_connection(url, key))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, operation: Op[T]) -> T:
        """Return an operation's result."""
        with _SyncCourse(operation, self._http) as course:
            end = course.go_on()
            assert isinstance(end, _Result), "an operation that gives values is iterated"
            return end.value

    def iterate(self, operation: Op[None]) -> Iterator[Any]:
        """Yield what an operation gives."""
        with _SyncCourse(operation, self._http) as course:
            while isinstance(step := course.go_on(), Give):
                yield step.value


class _SyncCourse(Generic[T]):
    """One operation on its way."""

    def __init__(self, operation: Op[T], http: httpx.Client) -> None:
        self._operation = operation
        self._http = http
        self._open: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def __enter__(self) -> _SyncCourse[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._operation.close()
        self._close()

    def go_on(self) -> Give | _Result[T]:
        """Carry out effects until a value is given, or the operation has ended."""
        step = partial(self._operation.send, None)
        while True:
            try:
                effect = step()
            except StopIteration as end:
                return _Result(end.value)
            if isinstance(effect, Give):
                return effect
            try:
                step = partial(self._operation.send, self._perform(effect))
            except httpx.TransportError as error:
                step = partial(self._operation.throw, _lost(error))

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                answer = self._http.send(self._build(request))
                return Answer(answer.status_code, answer.headers, answer.content)
            case Open(request):
                self._close()
                self._open = self._http.send(self._build(request), stream=True)
                self._pieces = self._open.iter_raw()  # of a size, it would hold events back
                return Answer(self._open.status_code, self._open.headers, b"")
            case Read():
                return next(self._pieces, b"")
            case ReadAll():
                return b"".join(self._pieces)
            case Close():
                return self._close()
            case Pause(seconds):
                return time.sleep(seconds)
            case Block(function):
                return function()
            case Tell(function, value):
                return function(value)
        _unknown(effect)

    def _build(self, request: Request) -> httpx.Request:
        body = request.body
        content = None if body is None else _pieces_of(body)
        return self._http.build_request(**_arguments(request), content=content)

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._pieces = None, iter(())


class AsyncRunner:
    """Carries operations out with asyncio; disk and digests are left to threads."""

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.AsyncClient(**_connection(url, key))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, operation: Op[T]) -> T:
        """Return an operation's result."""
        async with _AsyncCourse(operation, self._http) as course:
            end = await course.go_on()
            assert isinstance(end, _Result), "an operation that gives values is iterated"
            return end.value

    async def iterate(self, operation: Op[None]) -> AsyncGenerator[Any, None]:
        """Yield what an operation gives."""
        async with _AsyncCourse(operation, self._http) as course:
            while isinstance(step := await course.go_on(), Give):
                yield step.value


class _AsyncCourse(Generic[T]):
    """One operation on its way."""

    def __init__(self, operation: Op[T], http: httpx.AsyncClient) -> None:
        self._operation = operation
        self._http = http
        self._open: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> _AsyncCourse[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._operation.close()
        await self._close()

    async def go_on(self) -> Give | _Result[T]:
        """Carry out effects until a value is given, or the operation has ended."""
        step = partial(self._operation.send, None)
        while True:
            try:
                effect = step()
            except StopIteration as end:
                return _Result(end.value)
            if isinstance(effect, Give):
                return effect
            try:
                step = partial(self._operation.send, await self._perform(effect))
            except httpx.TransportError as error:
                step = partial(self._operation.throw, _lost(error))

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                answer = await self._http.send(self._build(request))
                return Answer(answer.status_code, answer.headers, answer.content)
            case Open(request):
                await self._close()
                self._open = await self._http.send(self._build(request), stream=True)
                self._pieces = self._open.aiter_raw()  # of a size, it would hold events back
                return Answer(self._open.status_code, self._open.headers, b"")
            case Read():
                assert self._pieces is not None, "open an answer first"
                return await anext(self._pieces, b"")
            case ReadAll():
                assert self._pieces is not None, "open an answer first"
                return b"".join([piece async for piece in self._pieces])
            case Close():
                return await self._close()
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Block(function):
                return await asyncio.to_thread(function)
            case Tell(function, value):
                told = function(value)
                return await told if inspect.isawaitable(told) else told
        _unknown(effect)

    def _build(self, request: Request) -> httpx.Request:
        body = request.body
        content = None if body is None else _async_pieces_of(body)
        return self._http.build_request(**_arguments(request), content=content)

    async def _close(self) -> None:
        if self._open is not None:
            await self._open.aclose()
        self._open, self._pieces = None, None


def _connection(url: str, key: str | None) -> dict[str, Any]:
    """Return the arguments of httpx's client, which both kinds share."""
    return {
        "base_url": url,
        "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
        # A key must not follow to another address; and no proxy leads to this machine.
        "follow_redirects": False,
        "trust_env": urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),
    }


def _arguments(request: Request) -> dict[str, Any]:
    headers = dict(request.headers)
    if request.body is not None:
        headers["Content-Length"] = str(request.body.num_bytes)
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "headers": headers,
        "json": request.json,
        "timeout": httpx.Timeout(request.read_seconds, connect=CONNECT_SECONDS),
    }


def _pieces_of(body: FileRange) -> Generator[bytes]:
    """Yield a part of a file; less if the file is shorter by now, which breaks the request."""
    with body.path.open("rb") as file:
        file.seek(body.offset)
        left = body.num_bytes
        while piece := file.read(min(left, _PIECE_BYTES)):
            yield piece
            left -= len(piece)
            if body.on_sent is not None:
                body.on_sent(body.offset + body.num_bytes - left)


async def _async_pieces_of(body: FileRange) -> AsyncIterator[bytes]:
    pieces = _pieces_of(body)
    with contextlib.closing(pieces):
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece


def _lost(error: httpx.TransportError) -> ConnectionLostError:
    reason = str(error) or type(error).__name__
    return ConnectionLostError(reason, was_sent=not isinstance(error, _NOT_SENT))


def _unknown(effect: Effect) -> NoReturn:
    raise AssertionError(f"no runner knows {effect}")
