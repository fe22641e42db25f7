"""GET /datasets."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import CallerDependency, ServiceDependency
from api.schemas.datasets import DatasetList, DatasetView
from worker.contract.worker_store import datasets_at_hand

router = APIRouter(tags=["conversion"])


@router.get("/datasets", operation_id="list_datasets", summary="Which data sets a job may name")
def list_datasets(service: ServiceDependency, _: CallerDependency) -> DatasetList:
    """Return the data sets that the operator registered with workers, for `data.registered`."""
    found = datasets_at_hand(service.workers.all())
    return DatasetList(
        datasets=[DatasetView(name=name, num_workers=count) for name, count in found.items()]
    )
