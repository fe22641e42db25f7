"""Looks at the record for many who ask at the same time."""

from __future__ import annotations

import asyncio

from fastapi.concurrency import run_in_threadpool

from worker.contract.job import JobState
from worker.contract.job_store import JobStore


class JobLooks:
    """Looks at the record for many at once; used from one event loop."""

    def __init__(self, store: JobStore) -> None:
        """Look into `store`."""
        self._store = store
        self._waiting: list[tuple[str, asyncio.Future[tuple[str, int, JobState] | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def look(self, job_id: str, *, tenant: str) -> tuple[int, JobState]:
        """Return a job's revision and state, as they are after this was asked.

        Raises:
            LookupError: the tenant has no such job.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((job_id, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        found = await future
        if found is None or found[0] != tenant:
            raise LookupError(f"no job {job_id}")
        return found[1], found[2]

    async def _run(self) -> None:
        """Look until nobody waits; who comes meanwhile waits for the next look."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    found = await run_in_threadpool(
                        self._store.look_at, {job_id for job_id, _ in batch}
                    )
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for job_id, future in batch:
                    if not future.done():  # its client may have left
                        future.set_result(found.get(job_id))
        finally:
            self._task = None
