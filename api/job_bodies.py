"""Jobs as they are sent, kept by revision: who polls a job that has not changed costs little."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from api.schemas.jobs import JobView
from worker.contract.job_store import JobStore

MAX_BODIES = 1000


class JobBodies:
    """The JSON of jobs that were asked for lately; used from many threads."""

    def __init__(self, store: JobStore) -> None:
        """Read jobs from `store`."""
        self._store = store
        self._bodies: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def held(self, job_id: str, revision: int) -> bytes | None:
        """Return a job's JSON if it is here already."""
        with self._lock:
            return self._bodies.get((job_id, revision))

    def get(self, job_id: str, revision: int, *, tenant: str) -> tuple[bytes, int]:
        """Return a job's JSON and its revision, which is newer if the job has changed meanwhile.

        Raises:
            LookupError: it was deleted meanwhile.
        """
        found = self.held(job_id, revision)
        if found is not None:
            return found, revision
        job = self._store.get(job_id, tenant=tenant)
        view = JobView.of_all(job, self._store.artifacts_of(job_id), self._store.uploads_of(job))
        body = view.model_dump_json().encode()
        with self._lock:
            self._bodies[job_id, job.revision] = body
            while len(self._bodies) > MAX_BODIES:
                self._bodies.popitem(last=False)
        return body, job.revision
