"""What operators see of one job: JSON lines and spans that have the ids of its request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.end_to_end.conftest import serving
from tests.faults.stack import SMALL, wait_until

pytestmark = pytest.mark.timeout(600)


class Collector:
    """Takes spans as OTLP over HTTP, and keeps them."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, object]] = []
        """Service and span."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {
                        one.key: one.value.string_value for one in resource.resource.attributes
                    }
                    for scope in resource.scope_spans:
                        collector.spans += [(names["service.name"], one) for one in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_a_job_is_found_under_its_requests_ids_in_every_process(tmp_path, collector):
    environment = {
        "MOMENTUM_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    trace_id, client_span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with serving(tmp_path, **environment) as service:
        answer = service.client.post(
            "/convert", json=SMALL, headers={"traceparent": f"00-{trace_id}-{client_span}-01"}
        )
        location, request_id = answer.headers["location"], answer.headers["x-request-id"]
        service.wait_for(location, "succeeded", seconds=240)
        wait_until(
            lambda: any(span.name == "job" for _, span in collector.spans), "no span", seconds=60
        )
        lines = {
            name: [json.loads(line) for line in service.log(name, all_of_it=True).splitlines()]
            for name in ("api", "worker", "relay")
        }
    job_id = location.rpartition("/")[2]
    ours = [one for one in collector.spans if one[1].trace_id.hex() == trace_id]
    by_name = {span.name: (part, span) for part, span in ours}
    part, request = by_name["POST /convert"]
    assert (part, request.parent_span_id.hex()) == ("momentum-zoo-api", client_span)
    part, job = by_name["job"]
    assert (part, job.parent_span_id) == ("momentum-zoo-worker", request.span_id)
    known = {one.key: one.value for one in job.attributes}
    assert known["momentum.job_id"].string_value == job_id
    stages = [span for _, span in ours if span.name.startswith("stage ")]
    assert {span.name for span in stages} >= {"stage loading", "stage refining", "stage packaging"}
    assert {span.parent_span_id for span in stages} == {job.span_id}
    assert sum(span.end_time_unix_nano - span.start_time_unix_nano for span in stages) <= (
        job.end_time_unix_nano - job.start_time_unix_nano
    )
    said = [line for line in lines["worker"] if line.get("job_id") == job_id]
    assert {"stage loading", f"job {job_id} succeeded"} <= {line["message"] for line in said}
    assert {line["request_id"] for line in said} == {request_id}
    assert {line["traceparent"].split("-")[1] for line in said} == {trace_id}
    for line in (one for some in lines.values() for one in some):
        assert {"timestamp", "level", "logger", "message"} <= line.keys()
