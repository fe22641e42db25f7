"""Tells event streams when their jobs have news: one look at the database for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from worker.contract.job_store import JobStore

POLL_SECONDS = 0.25
"""Time between two looks."""

logger = logging.getLogger(__name__)


class JobWatcher:
    """Watches the jobs that somebody follows, and none else; used from one event loop."""

    def __init__(self, store: JobStore) -> None:
        """Look into `store`."""
        self._store = store
        self._bells: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield a bell that is set whenever the job has changed, or has been deleted."""
        bell = asyncio.Event()
        self._bells[job_id].add(bell)
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        try:
            yield bell
        finally:
            self._bells[job_id].discard(bell)
            if not self._bells[job_id]:
                del self._bells[job_id]

    async def _watch(self) -> None:
        """Look until nobody watches any more."""
        seen: dict[str, int] = {}
        try:
            while self._bells:
                try:
                    now = await run_in_threadpool(self._store.revisions_of, list(self._bells))
                except SQLAlchemyError:
                    # Streams go on when it answers again: events are numbered, none is missed.
                    logger.warning("the record does not answer; event streams wait")
                else:
                    for job_id, bells in self._bells.items():
                        if now.get(job_id, -1) != seen.get(job_id):
                            for bell in bells:
                                bell.set()
                    seen = now
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._task = None
