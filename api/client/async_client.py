"""The client for programs that use asyncio; its table of methods is the other client's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from api.client import conversion, downloading, files_ahead, following, jobs, service
from api.client.binding import JobFacts, shown_as
from api.client.effects import Op
from api.client.records import AuditEntry, Event, JobRecord, LogLine
from api.client.retrying import RetryPolicy
from api.client.running import AsyncRunner
from api.client.sync_client import DEFAULT_URL

P = ParamSpec("P")
T = TypeVar("T")


def _returning(
    operation: Callable[Concatenate[RetryPolicy, P], Op[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @shown_as(operation, num_given=1)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.runner.run(operation(self.policy, *args, **kwargs))

    return method


def _job_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[JobRecord]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncJob]]:
    @shown_as(operation, num_given=1)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncJob:
        return AsyncJob(self, await self.runner.run(operation(self.policy, *args, **kwargs)))

    return method


def _jobs_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[None]],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[AsyncJob]]:
    @shown_as(operation, num_given=1)
    async def method(
        self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[AsyncJob]:
        found = self.runner.iterate(operation(self.policy, *args, **kwargs))
        async with aclosing(found):
            async for record in found:
                yield AsyncJob(self, record)

    return method


def _each_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[None]],
    _: type[T],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    @shown_as(operation, num_given=1)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        found = self.runner.iterate(operation(self.policy, *args, **kwargs))
        async with aclosing(found):
            async for one in found:
                yield one

    return method


def _of_this(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[T]],
) -> Callable[Concatenate[AsyncJob, P], Coroutine[Any, Any, T]]:
    @shown_as(operation, num_given=2)
    async def method(self: AsyncJob, /, *args: P.args, **kwargs: P.kwargs) -> T:
        client = self.client
        return await client.runner.run(operation(client.policy, self.id, *args, **kwargs))

    return method


def _this_after(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[JobRecord]],
) -> Callable[Concatenate[AsyncJob, P], Coroutine[Any, Any, AsyncJob]]:
    @shown_as(operation, num_given=2)
    async def method(self: AsyncJob, /, *args: P.args, **kwargs: P.kwargs) -> AsyncJob:
        client = self.client
        self.record = await client.runner.run(operation(client.policy, self.id, *args, **kwargs))
        return self

    return method


def _another(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[JobRecord]],
) -> Callable[Concatenate[AsyncJob, P], Coroutine[Any, Any, AsyncJob]]:
    @shown_as(operation, num_given=2)
    async def method(self: AsyncJob, /, *args: P.args, **kwargs: P.kwargs) -> AsyncJob:
        client = self.client
        return AsyncJob(
            client, await client.runner.run(operation(client.policy, self.id, *args, **kwargs))
        )

    return method


def _each_of_this(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[None]],
    _: type[T],
) -> Callable[Concatenate[AsyncJob, P], AsyncIterator[T]]:
    @shown_as(operation, num_given=2)
    async def method(self: AsyncJob, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        client = self.client
        found = client.runner.iterate(operation(client.policy, self.id, *args, **kwargs))
        async with aclosing(found):
            async for one in found:
                yield one

    return method


class AsyncJob(JobFacts):
    """A job of the service; `record` is how it stood when it was last asked for."""

    def __init__(self, client: AsyncClient, record: JobRecord) -> None:
        self.client = client
        self.record = record

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id} {self.state}>"

    refresh = _this_after(jobs.get_job)
    wait = _this_after(following.wait)
    cancel = _this_after(jobs.cancel_job)
    retry = _another(jobs.retry_job)
    delete = _of_this(jobs.delete_job)
    events = _each_of_this(following.follow, Event)
    logs = _each_of_this(jobs.list_logs, LogLine)
    report = _of_this(jobs.get_report)
    download = _of_this(downloading.download)
    download_all = _of_this(downloading.download_all)


class AsyncClient:
    """A service, asked with asyncio; close it, or use it as a context."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        """Prepare connections; none is made yet.

        Args:
            url: where the service answers, with the path that a proxy shows it under.
            key: an API key; None for a service of this machine that asks for none.
            policy: how patient to be.
        """
        self.policy = policy or RetryPolicy()
        self.runner = AsyncRunner(url, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.runner.close()

    convert = _job_of(conversion.convert)
    inspect = _returning(conversion.inspect)
    job = _job_of(jobs.get_job)
    compare = _returning(jobs.compare_jobs)
    jobs = _jobs_of(jobs.list_jobs)
    upload = _returning(files_ahead.upload)
    get_upload = _returning(files_ahead.get_upload)
    delete_upload = _returning(files_ahead.delete_upload)
    zoo = _returning(service.get_zoo)
    datasets = _returning(service.list_datasets)
    limits = _returning(service.get_limits)
    version = _returning(service.get_version)
    readiness = _returning(service.get_readiness)
    keys = _returning(service.list_keys)
    create_key = _returning(service.create_key)
    revoke_key = _returning(service.revoke_key)
    workers = _returning(service.list_workers)
    drain_worker = _returning(service.drain_worker)
    resume_worker = _returning(service.resume_worker)
    queues = _returning(service.list_queues)
    pause_queue = _returning(service.pause_queue)
    resume_queue = _returning(service.resume_queue)
    audit = _each_of(service.list_audit, AuditEntry)
    webhooks = _returning(service.list_webhooks)
    create_webhook = _returning(service.create_webhook)
    delete_webhook = _returning(service.delete_webhook)
    deliveries = _returning(service.list_deliveries)
    redeliver = _returning(service.redeliver)
