"""GET /metrics: the service in numbers, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from api.dependencies import ScraperDependency, ServiceDependency
from api.openapi import ADMIN_ONLY

router = APIRouter(tags=["service"])


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="The service in numbers, for Prometheus",
    response_class=PlainTextResponse,
    openapi_extra=ADMIN_ONLY,
)
def get_metrics(service: ServiceDependency, _: ScraperDependency) -> Response:
    """Return numbers of all tenants, which name none, in Prometheus' text format.

    They come from the job record: every API process tells the same. In place of a key with the
    scope `admin` the operator's `MOMENTUM_METRICS_TOKEN` is taken here.
    """
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
