"""GET /zoo."""

from __future__ import annotations

from fastapi import APIRouter

from api.schemas.zoo import Zoo, ZooEntryView
from momentum_core.checkpoint import ARCHITECTURES
from worker.contract.zoo import ZOO

router = APIRouter(tags=["conversion"])


@router.get("/zoo", operation_id="list_zoo", summary="What can be converted by name")
def list_zoo() -> Zoo:
    """Return the zoo's entries, and the architectures that a checkpoint may be."""
    return Zoo(entries=[ZooEntryView.of(entry) for entry in ZOO], architectures=list(ARCHITECTURES))
