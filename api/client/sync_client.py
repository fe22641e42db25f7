"""The client for ordinary programs: every call returns when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Self, TypeVar

from api.client import conversion, downloading, files_ahead, following, jobs, service
from api.client.binding import JobFacts, shown_as
from api.client.effects import Op
from api.client.records import AuditEntry, Event, JobRecord, LogLine
from api.client.retrying import RetryPolicy
from api.client.running import SyncRunner

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"


def _returning(
    operation: Callable[Concatenate[RetryPolicy, P], Op[T]],
) -> Callable[Concatenate[Client, P], T]:
    @shown_as(operation, num_given=1)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.runner.run(operation(self.policy, *args, **kwargs))

    return method


def _job_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[JobRecord]],
) -> Callable[Concatenate[Client, P], Job]:
    @shown_as(operation, num_given=1)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        return Job(self, self.runner.run(operation(self.policy, *args, **kwargs)))

    return method


def _jobs_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[None]],
) -> Callable[Concatenate[Client, P], Iterator[Job]]:
    @shown_as(operation, num_given=1)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Job]:
        for record in self.runner.iterate(operation(self.policy, *args, **kwargs)):
            yield Job(self, record)

    return method


def _each_of(
    operation: Callable[Concatenate[RetryPolicy, P], Op[None]],
    _: type[T],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    @shown_as(operation, num_given=1)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        yield from self.runner.iterate(operation(self.policy, *args, **kwargs))

    return method


def _of_this(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[T]],
) -> Callable[Concatenate[Job, P], T]:
    @shown_as(operation, num_given=2)
    def method(self: Job, /, *args: P.args, **kwargs: P.kwargs) -> T:
        client = self.client
        return client.runner.run(operation(client.policy, self.id, *args, **kwargs))

    return method


def _this_after(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[JobRecord]],
) -> Callable[Concatenate[Job, P], Job]:
    @shown_as(operation, num_given=2)
    def method(self: Job, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        client = self.client
        self.record = client.runner.run(operation(client.policy, self.id, *args, **kwargs))
        return self

    return method


def _another(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[JobRecord]],
) -> Callable[Concatenate[Job, P], Job]:
    @shown_as(operation, num_given=2)
    def method(self: Job, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        client = self.client
        return Job(client, client.runner.run(operation(client.policy, self.id, *args, **kwargs)))

    return method


def _each_of_this(
    operation: Callable[Concatenate[RetryPolicy, str, P], Op[None]],
    _: type[T],
) -> Callable[Concatenate[Job, P], Iterator[T]]:
    @shown_as(operation, num_given=2)
    def method(self: Job, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        client = self.client
        yield from client.runner.iterate(operation(client.policy, self.id, *args, **kwargs))

    return method


class Job(JobFacts):
    """A job of the service; `record` is how it stood when it was last asked for."""

    def __init__(self, client: Client, record: JobRecord) -> None:
        self.client = client
        self.record = record

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

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


class Client:
    """A service, asked with blocking calls; close it, or use it as a context.

    Threads may share one.
    """

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
        self.runner = SyncRunner(url, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.runner.close()

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
