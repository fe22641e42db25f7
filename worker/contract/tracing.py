"""Traces (OpenTelemetry): of a request, of the job that came of it anywhere, and of its stages.

They are made only where `OTEL_EXPORTER_OTLP_ENDPOINT` says where they go; OpenTelemetry's own
variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, ...) mean what they do elsewhere. Without it
nothing of OpenTelemetry is loaded.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from momentum_core.errors import MomentumError
from worker.contract.origin import TRACEPARENT, at_work, begin

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingUnavailableError(MomentumError):
    """Traces are asked for, and what makes them is not installed."""

    code = "tracing_unavailable"


def is_traced() -> bool:
    """Return whether this process makes traces."""
    return any(os.environ.get(name) for name in _ENDPOINTS)


def configure_tracing(part: str) -> None:
    """Make traces if they are asked for; to be called once in each process, before any work.

    Args:
        part: of the service, as `api`.

    Raises:
        TracingUnavailableError: they are asked for, and OpenTelemetry is not installed.
    """
    if not is_traced():
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailableError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: "
            "pip install 'momentum-zoo[traces]', or unset it"
        ) from error
    names = {"service.name": f"momentum-zoo-{part}"}
    provider = TracerProvider(resource=Resource.create(names))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    atexit.register(provider.shutdown)


def end_tracing() -> None:
    """Send what there is; for processes that end without Python's own farewell."""
    if is_traced():
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.shutdown()


@contextmanager
def span(
    name: str, *, origin: Mapping[str, str] | None = None, **attributes: Any
) -> Iterator[None]:
    """Trace what is done while the context lasts; an error that leaves it is noted.

    Args:
        name: what is done.
        origin: ids of what it comes of; None: of what this thread is at work at.
        **attributes: figures and names, with `momentum.` before them.
    """
    if not is_traced():
        yield
        return
    from opentelemetry import propagate, trace

    parent = propagate.extract(dict(origin)) if origin is not None else None
    kind = trace.SpanKind.INTERNAL if origin is None else trace.SpanKind.CONSUMER
    given = {f"momentum.{key}": value for key, value in attributes.items() if value is not None}
    with _tracer().start_as_current_span(name, context=parent, kind=kind, attributes=given):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        with at_work({TRACEPARENT: carrier[TRACEPARENT]} if carrier else {}):
            yield


def begin_traced() -> None:
    """Say that what is at work in this task is the span which a library has opened."""
    if is_traced():
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        begin(**carrier)


@cache
def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("momentum_zoo")
