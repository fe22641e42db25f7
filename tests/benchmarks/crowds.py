"""Many clients at once: of event streams, and such as never end their request."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx


@dataclass(slots=True)
class Followed:
    """What the clients of an event stream saw."""

    numbers: list[list[int]] = field(default_factory=list)
    """Of each, the events' numbers in order."""
    server_bytes: int = 0
    """The server's memory while all of them are open."""


def follow_all(
    url: str, path: str, key: str, num_clients: int, happen: Callable[[], int]
) -> Followed:
    """Open streams, let things happen, and read until every stream has ended.

    Args:
        url: of the server.
        path: of the stream.
        key: to send.
        num_clients: streams.
        happen: makes the events, and returns the server's memory while all streams are open.
    """
    return asyncio.run(_follow_all(httpx.URL(url), path, key, num_clients, happen))


async def _follow_all(
    url: httpx.URL, path: str, key: str, num_clients: int, happen: Callable[[], int]
) -> Followed:
    lines = [f"GET {path} HTTP/1.1", f"Host: {url.host}:{url.port}", f"Authorization: Bearer {key}"]
    lines += ["Accept: text/event-stream", "Connection: close"]
    request = "\r\n".join([*lines, "", ""]).encode()
    opened = asyncio.Semaphore(50)

    async def connect() -> asyncio.StreamReader:
        async with opened:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
        writers.append(writer)
        return reader

    async def read(reader: asyncio.StreamReader) -> list[int]:
        numbers = []
        while line := await reader.readline():
            if line.startswith(b"id:"):
                numbers.append(int(line[3:]))
        return numbers

    writers: list[asyncio.StreamWriter] = []
    readers = await asyncio.gather(*(connect() for _ in range(num_clients)))
    reading = asyncio.gather(*(read(reader) for reader in readers))
    server_bytes = await asyncio.to_thread(happen)
    numbers = await asyncio.wait_for(reading, 300)
    for writer in writers:
        writer.close()
    return Followed(numbers, server_bytes)


def stall_all(stack: ExitStack, url: str, key: str, num_clients: int) -> Callable[[float], float]:
    """Open requests that never end; return a function that waits until the server ended them.

    Returns:
        Takes the seconds to wait at most, and returns those that the last one lived.
    """
    parts = httpx.URL(url)
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    body = f"POST /uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    started = time.perf_counter()
    slow = []
    for number in range(num_clients):
        connection = stack.enter_context(socket.create_connection((parts.host, parts.port)))
        connection.sendall(head if number % 2 else body + b"Content-Length: 1000\r\n\r\nx")
        slow.append(connection)
    lived: list[float] = []

    def watch() -> None:
        for connection in slow:
            connection.settimeout(600)
            while connection.recv(65536):
                pass
            lived.append(time.perf_counter() - started)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()

    def ended(seconds: float) -> float:
        watching.join(seconds)
        return max(lived) if len(lived) == num_clients else float("inf")

    return ended
