"""Threads in which files and names are looked into, apart from all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from anyio import to_thread

from api.dependencies import Service

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def in_intake(
    service: Service, function: Callable[[*Arguments], Result], *arguments: *Arguments
) -> Result:
    """Call a function that may take seconds, in one of the few threads for such.

    Looking into a file, and asking what a name means, hold a thread meanwhile: of the common ones,
    none would be left for short questions. Who finds all of them taken waits for one.
    """
    return await to_thread.run_sync(function, *arguments, limiter=service.intake_threads)
