"""What can keep the service from starting; the message is for the person at the terminal."""

from __future__ import annotations


class ServiceError(Exception):
    """The service cannot run; the message says why and what to do."""
