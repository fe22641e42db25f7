"""`momentum serve`: broker, relay, worker and API on one machine, started and kept running."""

from api.supervisor.errors import ServiceError
from api.supervisor.service import LocalService

__all__ = ["LocalService", "ServiceError"]
