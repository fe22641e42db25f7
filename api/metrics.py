"""What `GET /metrics` tells Prometheus: the record's numbers, the same from every API process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.contract.file_store import FileStore
from worker.contract.service_figures import (
    MAX_RECENT,
    RECENT_SECONDS,
    CurrentFigures,
    ServiceFigures,
    SlowFigures,
)

CURRENT_SECONDS, SLOW_SECONDS = 5.0, 60.0
"""How long figures are taken for true: whoever scrapes more often does not load the database."""

QUANTILES = (0.5, 0.95, 1.0)

T = TypeVar("T")

_AMONG = (
    f"among the {MAX_RECENT} newest jobs that ended within the last {RECENT_SECONDS / 60:.0f} "
    "minutes"
)
_EACH_MINUTE = f"Counted every {SLOW_SECONDS:.0f} seconds."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figures:
    """All that is told."""

    current: CurrentFigures
    slow: SlowFigures
    free_bytes: int
    reserve_bytes: int


_Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the number."""


@dataclass(frozen=True, slots=True)
class _Metric:
    """A metric of the service."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[_Figures], Iterable[_Sample]]

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")

    def family(self, figures: _Figures) -> Metric:
        made = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        family = made(self.name, self.help, labels=self.labels)
        for labels, value in self.samples(figures):
            family.add_metric(labels, value)
        return family


def _by_name(numbers: Iterable[tuple[str, float]]) -> Iterator[_Sample]:
    return (((str(name),), number) for name, number in numbers)


def _quantiles(values: Iterable[float], *labels: str) -> Iterator[_Sample]:
    """Yield the smallest value that at least such a share of all does not exceed."""
    ordered = sorted(values)
    if ordered:
        for share in QUANTILES:
            yield (*labels, f"{share:g}"), ordered[math.ceil(share * len(ordered)) - 1]


def _quantiles_by_name(values: Mapping[str, Iterable[float]]) -> Iterator[_Sample]:
    for name, numbers in values.items():
        yield from _quantiles(numbers, name)


METRICS = (
    _Metric(
        "momentum_build_info",
        "1, with the version of the service.",
        ("version",),
        lambda _: [((version("momentum-zoo"),), 1)],
    ),
    _Metric(
        "momentum_jobs_queued",
        "Jobs that wait.",
        ("queue",),
        lambda all_: [((one.name,), one.num_queued) for one in all_.current.queues],
    ),
    _Metric(
        "momentum_jobs_running",
        "Jobs that workers have.",
        ("queue",),
        lambda all_: [((one.name,), one.num_running) for one in all_.current.queues],
    ),
    _Metric(
        "momentum_queue_wait_seconds",
        "Time that the job which was asked for first has waited, 0 if none waits: the signal for "
        "starting and stopping workers.",
        ("queue",),
        lambda all_: [((one.name,), one.oldest_seconds or 0) for one in all_.current.queues],
    ),
    _Metric(
        "momentum_lane_wait_seconds",
        "The same of the jobs that any worker may do (any), and of those that ask for a device.",
        ("queue", "lane"),
        lambda all_: [
            ((one.name, lane), seconds or 0)
            for one in all_.current.queues
            for lane, seconds in one.oldest_by_lane.items()
        ],
    ),
    _Metric(
        "momentum_queue_paused",
        "Whether a queue is paused: 1 or 0.",
        ("queue",),
        lambda all_: [((one.name,), one.paused_at is not None) for one in all_.current.queues],
    ),
    _Metric(
        "momentum_workers",
        "Workers: alive; draining, which take no job; silent, which are not heard of.",
        ("device", "state"),
        lambda all_: all_.current.workers.items(),
    ),
    _Metric(
        "momentum_jobs_finished_total",
        "Jobs that have ended, by their state, also those that are forgotten. " + _EACH_MINUTE,
        ("state",),
        lambda all_: _by_name(all_.slow.ended.items()),
    ),
    _Metric(
        "momentum_recent_queue_wait_seconds",
        f"Time from the request to the last start, {_AMONG}. " + _EACH_MINUTE,
        ("quantile",),
        lambda all_: _quantiles(all_.slow.recent.wait_seconds),
    ),
    _Metric(
        "momentum_recent_job_duration_seconds",
        f"Time from the last start to success, {_AMONG}. " + _EACH_MINUTE,
        ("quantile",),
        lambda all_: _quantiles(all_.slow.recent.job_seconds),
    ),
    _Metric(
        "momentum_recent_stage_duration_seconds",
        f"Time in a stage, of jobs that succeeded, {_AMONG}. " + _EACH_MINUTE,
        ("stage", "quantile"),
        lambda all_: _quantiles_by_name(all_.slow.recent.stage_seconds),
    ),
    _Metric(
        "momentum_recent_step_peak_bytes",
        "Peak memory of the measured training step, of the original and of the momentum network, "
        f"of jobs that succeeded, {_AMONG}. " + _EACH_MINUTE,
        ("network", "quantile"),
        lambda all_: _quantiles_by_name(all_.slow.recent.peak_bytes),
    ),
    _Metric(
        "momentum_stored_bytes",
        "Bytes of uploads and artifacts; what two jobs share counts twice. " + _EACH_MINUTE,
        ("kind",),
        lambda all_: [
            (("uploads",), all_.slow.upload_bytes),
            (("artifacts",), all_.slow.artifact_bytes),
        ],
    ),
    _Metric(
        "momentum_disk_free_bytes",
        "Free space of the data folder's disk.",
        (),
        lambda all_: [((), all_.free_bytes)],
    ),
    _Metric(
        "momentum_disk_reserve_bytes",
        "Free space below which no upload is accepted.",
        (),
        lambda all_: [((), all_.reserve_bytes)],
    ),
    _Metric(
        "momentum_webhook_deliveries",
        "Messages to webhooks that the record holds. " + _EACH_MINUTE,
        ("state",),
        lambda all_: _by_name(all_.slow.deliveries.items()),
    ),
)
"""Every metric of the service; beside them there are those of the process that answers."""


class ServiceMetrics:
    """The answer to a scrape."""

    def __init__(self, figures: ServiceFigures, files: FileStore, *, reserve_bytes: int) -> None:
        """Prepare the answer; nothing is asked yet.

        Args:
            figures: what the record says.
            files: whose disk is looked at.
            reserve_bytes: free space below which no upload is accepted.
        """
        self._registry = CollectorRegistry()
        self._registry.register(_RecordCollector(figures, files, reserve_bytes))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format.

        Raises:
            SQLAlchemyError: the record does not answer.
        """
        return generate_latest(self._registry)


class _RecordCollector(Collector):
    """Asks record and disk while a scrape is answered."""

    def __init__(self, figures: ServiceFigures, files: FileStore, reserve_bytes: int) -> None:
        self._current = _Kept(figures.current, CURRENT_SECONDS)
        self._slow = _Kept(figures.slow, SLOW_SECONDS)
        self._files = files
        self._reserve_bytes = reserve_bytes

    def collect(self) -> Iterator[Metric]:
        figures = _Figures(
            current=self._current.get(),
            slow=self._slow.get(),
            free_bytes=self._files.free_bytes(),
            reserve_bytes=self._reserve_bytes,
        )
        return (metric.family(figures) for metric in METRICS)


class _Kept(Generic[T]):
    """What a function returned, for a while; of several that ask at once, one calls it."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._lock = threading.Lock()
        self._made: tuple[T, float] | None = None

    def get(self) -> T:
        with self._lock:
            if self._made is None or time.monotonic() - self._made[1] >= self._seconds:
                self._made = self._make(), time.monotonic()
            return self._made[0]


def markdown_table() -> str:
    """Return the table as `docs/self-hosting.md` has it."""
    lines = ["| metric | type | labels | |", "| --- | --- | --- | --- |"]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        kind = "counter" if one.is_counter else "gauge"
        lines.append(f"| `{one.name}` | {kind} | {labels} | {one.help} |")
    return "\n".join(lines)
