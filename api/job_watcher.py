"""Tells event streams when their jobs have news: one look at the database for all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from worker.contract.job_store import JobStore
from worker.contract.key_store import KeyStore

POLL_SECONDS = 0.25
"""Time between two looks."""

KEY_SECONDS = 1.0
"""Time between two looks whether the keys of those who watch still hold."""

logger = logging.getLogger(__name__)


class Bell(asyncio.Event):
    """Rings for one who watches a job."""

    def __init__(self, key_id: str | None) -> None:
        """Ring for who came with a key, or (None) without one."""
        super().__init__()
        self.key_id = key_id
        self.is_barred = False
        """Whether the key does not hold any more: there is nothing more to be told."""


class JobWatcher:
    """Watches the jobs that somebody follows, and none else; used from one event loop."""

    def __init__(self, store: JobStore, keys: KeyStore) -> None:
        """Look into `store`, for as long as who watches has a key of `keys` that holds."""
        self._store = store
        self._keys = keys
        self._bells: dict[str, set[Bell]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, job_id: str, key_id: str | None) -> Iterator[Bell]:
        """Yield a bell that rings when the job has changed, was deleted, or the key has ended."""
        bell = Bell(key_id)
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
        keys_at = 0.0
        try:
            while self._bells:
                try:
                    now = await run_in_threadpool(self._store.revisions_of, list(self._bells))
                    for job_id, bells in self._bells.items():
                        if now.get(job_id, -1) != seen.get(job_id):
                            for bell in bells:
                                bell.set()
                    seen = now
                    if time.monotonic() >= keys_at:
                        keys_at = time.monotonic() + KEY_SECONDS
                        await self._bar_ended_keys()
                except SQLAlchemyError:
                    # Streams go on when it answers again: events are numbered, none is missed.
                    logger.warning("the record does not answer; event streams wait")
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._task = None

    async def _bar_ended_keys(self) -> None:
        ringing = [bell for bells in self._bells.values() for bell in bells if bell.key_id]
        if not ringing:
            return
        asked = {bell.key_id for bell in ringing if bell.key_id is not None}
        holding = await run_in_threadpool(self._keys.holding, asked)
        for bell in ringing:
            if bell.key_id not in holding:
                bell.is_barred = True
                bell.set()
