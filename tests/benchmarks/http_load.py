"""Clients that ask as fast as they are answered: plain sockets, so that the server counts.

    python -m tests.benchmarks.http_load HOST PORT PATH CONNECTIONS SECONDS [KEY]

prints the requests of each second and the times as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def ask(host: str, port: int, request: bytes, until: float, seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while time.perf_counter() < until:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            seconds.append(time.perf_counter() - started)
    finally:
        writer.close()


async def load(
    host: str, port: int, path: str, connections: int, duration: float, key: str | None
) -> dict[str, float]:
    """Ask from several connections at once; return requests per second, median and p99 in ms."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    request = "\r\n".join([*lines, "", ""]).encode()
    seconds: list[float] = []
    until = time.perf_counter() + duration
    await asyncio.gather(*(ask(host, port, request, until, seconds) for _ in range(connections)))
    seconds.sort()
    return {
        "per_second": len(seconds) / duration,
        "median_ms": 1000 * seconds[len(seconds) // 2],
        "p99_ms": 1000 * seconds[int(0.99 * len(seconds))],
    }


if __name__ == "__main__":
    host, port, path, connections, duration, *key = sys.argv[1:]
    result = load(host, int(port), path, int(connections), float(duration), *(key or [None]))
    sys.stdout.write(json.dumps(asyncio.run(result)) + "\n")
