"""Both clients behind one face, so that each test holds for both."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from api.client import AsyncClient, Client, RetryPolicy
from tests.api.client.scripted_server import scripted_server

QUICK = RetryPolicy(first_pause_seconds=0.01, max_tries=4)


class Caller:
    """Calls a client's methods, or those of one of its jobs; asynchronous ones in a loop."""

    def __init__(self, kind: str, url: str, key: str | None, policy: RetryPolicy) -> None:
        self._kind, self._url, self._key, self._policy = kind, url, key, policy

    def __call__(self, *names: str, args: tuple[Any, ...] = (), **options: Any) -> Any:
        """Call the last of `names`; those before it give a job, the first one taking `args`."""
        if self._kind == "sync":
            with Client(self._url, key=self._key, policy=self._policy) as client:
                return self._sync(client, names, args, options)
        return asyncio.run(self._async(names, args, options))

    def _sync(self, target: Any, names: tuple[str, ...], args: Any, options: Any) -> Any:
        for name in names[:-1]:
            target, args = getattr(target, name)(*args), ()
        found = getattr(target, names[-1])(*args, **options)
        return list(found) if inspect.isgenerator(found) else found

    async def _async(self, names: tuple[str, ...], args: Any, options: Any) -> Any:
        async with AsyncClient(self._url, key=self._key, policy=self._policy) as target:
            for name in names[:-1]:
                target, args = await getattr(target, name)(*args), ()
            found = getattr(target, names[-1])(*args, **options)
            if inspect.isasyncgen(found):
                return [one async for one in found]
            return await found


@pytest.fixture(params=["sync", "async"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def call_at(kind):
    """Make a `Caller` for a URL."""

    def make(url: str, key: str | None = None, policy: RetryPolicy = QUICK) -> Caller:
        return Caller(kind, url, key, policy)

    return make


@pytest.fixture
def url(client) -> str:
    """Of the application with no worker, over real HTTP."""
    return str(client.base_url)


@pytest.fixture
def port(client) -> int:
    return client.base_url.port


@pytest.fixture
def call(call_at, url) -> Caller:
    return call_at(url)


@pytest.fixture
def scripted():
    with scripted_server() as server:
        yield server
