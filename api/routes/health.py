"""GET /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Callable

import redis
from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import Service, ServiceDependency
from api.schemas.service import Health
from momentum_core.errors import MomentumError

BROKER_SECONDS = 1.0
"""How long the broker may take to answer."""

_BROKER_PROBE = "_kombu.momentum-probe"
"""Named so that the access rules which Celery needs allow it."""

router = APIRouter(tags=["service"])


@router.get("/healthz", operation_id="get_health", summary="Whether the API process lives")
async def get_health() -> Health:
    """Return at once; nothing else is asked."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Whether jobs can be taken and carried out",
    responses={503: {"model": Health}},
)
def get_readiness(service: ServiceDependency, response: Response) -> Health:
    """Ask database, storage and broker; 503 if one of them does not answer.

    Jobs are taken even while the broker is away: they wait in the database.
    """
    checks = {
        name: _state(check, service)
        for name, check in (("database", _database), ("storage", _storage), ("broker", _broker))
    }
    is_ready = all(state == "ok" for state in checks.values())
    response.status_code = 200 if is_ready else 503
    return Health(status="ok" if is_ready else "degraded", checks=checks)


def _state(check: Callable[[Service], None], service: Service) -> str:
    try:
        check(service)
    except (SQLAlchemyError, redis.RedisError, OSError, ValueError, MomentumError) as error:
        return f"failed: {type(error).__name__}"  # its text may name hosts and paths
    return "ok"


def _database(service: Service) -> None:
    service.store.check()


def _storage(service: Service) -> None:
    with service.files.temporary_folder() as folder:
        (folder / "probe").write_bytes(b"probe")
    if service.files.free_bytes() < service.settings.min_free_bytes:
        raise OSError("less free space than MOMENTUM_MIN_FREE_BYTES")
    service.files.check()


def _broker(service: Service) -> None:
    # Celery and redis-py name unix sockets differently.
    url = service.settings.broker.replace("redis+socket://", "unix://", 1)
    timeouts = {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS}
    with redis.Redis.from_url(url, **timeouts) as client:
        # One that is out of memory, or cannot write its log, still answers a ping.
        client.set(_BROKER_PROBE, b"", px=1)
